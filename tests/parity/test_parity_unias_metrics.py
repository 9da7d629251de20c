"""The authors' evaluation on stored predictions (shared/parity/unias, ``metrics.*``), to 1e-9."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from unias.evaluation import metrics
from unias.evaluation.protocol import evaluate_class

SHARED = Path(os.environ.get("UNIAS_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
FOLDER = SHARED / "parity" / "unias"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is absent; set UNIAS_SHARED to the shared folder"),
]


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """The authors' figures by case, and the arrays they were computed from."""
    figures = json.loads((FOLDER / "reference.json").read_text(encoding="utf-8"))["metrics"]
    with np.load(FOLDER / "reference.npz") as arrays:
        return figures, {name: arrays[name] for name in arrays.files if name.startswith("metrics.")}


@pytest.mark.parametrize("case", range(4))
def test_parity_unias_metrics(case: int, reference: tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]) -> None:
    figures, arrays = reference
    maps, masks = arrays[f"metrics.{case}.pred"], arrays[f"metrics.{case}.mask"] > 0
    expected = figures[f"case{case}"]
    is_defect = masks.any(axis=(1, 2))
    values = evaluate_class(maps, masks, is_defect, maps.max(axis=(1, 2)).astype(np.float64), None)
    ours = {
        "pixel_auroc": values["pixel_auroc"],
        "pixel_ap": values["pap"],
        "dice_mean": values["dsc"],
        "iou_mean": values["iou"],
        "threshold": values["dsc_threshold"],
    }
    assert ours == {key: pytest.approx(expected[key], abs=1e-9) for key in ours}
    assert set(expected) == set(ours)


@pytest.mark.parametrize(("case", "share"), [(0, 0.91), (2, 0.996)])
def test_parity_unias_metrics_show_the_trap(
    case: int, share: float, reference: tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]
) -> None:
    _, arrays = reference
    maps, masks = arrays[f"metrics.{case}.pred"], arrays[f"metrics.{case}.mask"] > 0
    threshold = metrics.oracle_threshold(masks, maps)
    assert threshold == maps[masks].min()
    assert metrics.at_least(maps, threshold).mean() == pytest.approx(share, abs=5e-3)
    assert metrics.best_dsc(masks, maps).value > metrics.dsc_at(masks, maps, threshold)
