"""``unias evaluate`` by histogram, from the disk: the figures, the page and the folder of the exact way."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import unias
from unias.data.layouts import scan
from unias.errors import DataError
from unias.evaluation.protocol import KEYS
from unias.evaluation.streaming import ERROR, EXACT, HISTOGRAM, ClassStream
from unias.files import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def by_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every class were too large to hold."""
    from unias.report import evaluation

    monkeypatch.setattr(evaluation, "ClassStream", functools.partial(ClassStream, exact_pixels=0, memory=0))


def figures(out: Path) -> Any:
    return json.loads((out / "metrics.json").read_text("utf-8"))


@pytest.mark.parametrize("size", ["model", "original"])
def test_same_figures_by_histogram(
    size: str, model: Any, tiny_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dev = [sample.key for place, sample in enumerate(scan(tiny_data).test()) if place % 2]
    wishes: dict[str, Any] = {"size": size, "subsets": {"dev": dev}, "page": size == "model"}
    unias.evaluate(model, tiny_data, tmp_path / "exact", **wishes)
    request.getfixturevalue("by_histogram")
    document = unias.evaluate(model, tiny_data, tmp_path / "streamed", **wishes)
    exact, streamed = figures(tmp_path / "exact"), figures(tmp_path / "streamed")
    assert json_ready(document) == streamed
    assert set(exact["info"]["ranking"].values()) == {EXACT}
    assert set(streamed["info"]["ranking"].values()) == {HISTOGRAM}
    assert "info.ranking" in streamed["protocol"]
    pairs = [(exact["classes"], streamed["classes"])]
    pairs += [(exact["subsets"][part]["classes"], streamed["subsets"][part]["classes"]) for part in ("dev", "rest")]
    for ours, others in pairs:
        assert list(ours) == list(others)
        for name, values in others.items():
            for key in KEYS:
                within = ERROR if key in ("pap", "pixel_auroc", "aupro") else 0.0
                assert values[key] == pytest.approx(ours[name][key], abs=within, rel=0.0), (name, key)
    for out in (tmp_path / "exact", tmp_path / "streamed"):
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    if size == "model":
        pages = [(tmp_path / out / "index.html").read_text("utf-8") for out in ("exact", "streamed")]
        failed = sum(map(len, document["failures"].values()))
        assert exact["failures"] == streamed["failures"]
        assert [page.count('<article class="case">') for page in pages] == [12 + failed, 12 + failed]


def test_nothing_is_left_when_a_photo_fails_midway(
    model: Any, tiny_data: Path, tmp_path: Path, by_histogram: None, make_data: Any
) -> None:
    data = make_data(tmp_path / "data")
    last = scan(data).test()[-1]
    assert last.mask is not None
    Image.new("L", (30, 96), 255).save(last.mask)
    with pytest.raises(DataError, match="not the same picture"):
        unias.evaluate(model, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
