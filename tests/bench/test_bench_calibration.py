"""``unias bench fusion`` and ``unias bench unknown``: the figures are those of the maps and statistics in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import unias
from unias.bench import fusion, unknown
from unias.data.layouts import scan
from unias.data.masks import load_mask, resize_mask
from unias.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_fusion_is_measured_on_the_maps_in_use(cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli("bench", "fusion", model_folder, tiny_data, "-o", tmp_path, "-q")
    assert answer.code == 0, answer.err
    document = fusion.run_fusion(unias.load(model_folder, device="cpu"), tiny_data, tmp_path)
    model = unias.load(model_folder, device="cpu")
    for product in model.products:
        row = document["products"][product.name]
        assert row["best"] >= max(row["chosen"], 0) - 1e-12
        maps, masks = [], []
        for sample in scan(tiny_data).test(product.name):
            maps.append(model.predict(sample.path, product=product.name).model_map[::2, ::2])
            masks.append(np.zeros((64, 64), bool) if sample.mask is None else resize_mask(load_mask(sample.mask), 64))
        near = average_precision_score(np.stack(masks).ravel(), np.stack(maps).ravel())
        assert row["chosen"] == pytest.approx(near, abs=0.05)  # theirs was enlarged first
    mean = document["mean"]
    assert mean["best"] == pytest.approx(np.mean([row["best"] for row in document["products"].values()]))
    assert "| **mean** |" in (tmp_path / "fusion.md").read_text(encoding="utf-8")


def test_only_the_photos_listed(model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    keys = [sample.key for sample in scan(tiny_data).test()][:6]  # the first product's
    (tmp_path / "list.txt").write_text("\n".join(keys), encoding="utf-8")
    document = fusion.run_fusion(unias.load(model_folder, device="cpu"), tiny_data, tmp_path, tmp_path / "list.txt")
    assert list(document["products"]) == [scan(tiny_data).products[0]]
    assert document["products"][scan(tiny_data).products[0]]["photos"] == 6


@pytest.fixture(scope="module")
def three(make_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products; the third one's photos are drawn as the first one's are, so that it can be taken for it."""
    folder: Path = make_data(
        tmp_path_factory.mktemp("three") / "photos",
        products=("Dichtung groß", "plaque gravée", "twin"),
        train=36,
        defects=("hole",),
    )
    return folder


def test_left_out_products(three: Path, tmp_path: Path, tiny_config: Any) -> None:
    document = unknown.run_unknown(three, tmp_path, config=tiny_config)
    rows = document["products"]
    assert set(rows) == {"Dichtung groß", "plaque gravée", "twin"}
    assert rows["plaque gravée"]["right"] == 1.0
    assert rows["plaque gravée"]["left_out_called_unknown"] > 0.9
    assert rows["twin"]["left_out_called_unknown"] < 0.5  # the same as the first one: nothing can tell
    assert not document["bars"]["left_out_unknown"]
    assert "| plaque gravée |" in (tmp_path / "unknown.md").read_text(encoding="utf-8")


def test_two_products_are_too_few(cli: Any, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli("bench", "unknown", tiny_data, "-o", tmp_path, "-q")
    assert answer.code == 2
    assert "three are needed" in answer.err
    other: Any = type("Other", (), {"detector": None})()
    with pytest.raises(UsageError, match="no choice to measure"):
        fusion.run_fusion(other, tiny_data, tmp_path)
