"""Cuts in 8 bits: what ``unias calibrate`` set stays, by a stand-in for the graph whose scores are the model's times 1.1."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unias
from unias.calibration.cuts import lowered_cut, rank_cut, unpromised
from unias.config import Tiling
from unias.data.layouts import Sample
from unias.errors import DataError
from unias.export import int8
from unias.export.cuts import median_ratio, moved, require_same
from unias.export.int8 import Quantizer
from unias.inference.products import ProductInfo
from unias.inference.store import StoredModel, load_model
from unias.maps.detector import Maps

pytestmark = pytest.mark.usefixtures("one_thread")
HELD = ("a.png", "b.png", "c.png", "d.png")
SCORES = (1.0, 2.0, 3.0, 4.0)


def product(**changes: Any) -> ProductInfo:
    fields = {
        "cut": rank_cut(SCORES, 0.2),
        "train": ("t.png",),
        "held_out": HELD,
        "held_out_scores": SCORES,
        "min_area": 3,
    }
    return ProductInfo("part", **(fields | changes))


def test_ratio_is_the_median_of_those_that_have_one() -> None:
    assert median_ratio([(1, 1.1), (2, 2.4), (4, 4.0), (0, 1)]) == pytest.approx(1.1)
    assert median_ratio([]) == median_ratio([(0, 0)]) == 1.0


def test_photos_at_hand_are_ranked_anew() -> None:
    at_hand = dict(zip(HELD, (1.2, 2.0, 3.5, 4.4), strict=True))
    found = moved(product(), at_hand, 9.0)
    assert found.product.cut == rank_cut((1.2, 2.0, 3.5, 4.4), 0.2)
    assert found.product == dataclasses.replace(product(), cut=found.product.cut, held_out_scores=(1.2, 2.0, 3.5, 4.4))
    assert found.lines() == []


def test_added_photos_and_missed_defects_stay() -> None:
    """Two added photos count as before, and the cut is still below the defect that was missed once."""
    held, scores = (*HELD, "added/1", "added/2"), (*SCORES, 5.0, 6.0)
    cut, left = lowered_cut(scores, 0.15, [5.5], 0.5)
    assert (cut.value, left) == (5.0, 0)
    info = product(cut=cut, held_out=held, held_out_scores=scores, missed_scores=(5.5, 0.5))
    found = moved(info, {key: 1.1 * score for key, score in zip(HELD, SCORES, strict=True)}, 1.1)
    after = found.product
    assert after.held_out == held
    assert after.held_out_scores == pytest.approx([1.1 * score for score in scores])
    assert after.missed_scores == pytest.approx((6.05, 0.55))
    assert after.cut.value == pytest.approx(5.5)
    assert after.cut.promise == cut.promise
    assert after.min_area == 3
    (line,) = found.lines()
    assert line == "part: 2 held-out and 2 missed defects' scores, of photos not at hand, were moved by 1.100"


def test_a_defect_that_passes_now_is_said() -> None:
    """The only good photo below it would take more false alarms than the cut may have."""
    cut, _ = lowered_cut(SCORES, 0.2, [3.5], 0.4)
    info = product(cut=cut, missed_scores=(3.5,))
    found = moved(info, dict(zip(HELD, (1.0, 2.0, 3.6, 4.0), strict=True)), 1.0)
    assert found.passing == 1
    assert "warning: part: 1 missed defects that the trained model's cut fails pass now" in found.lines()[1]
    assert moved(info, dict(zip(HELD, SCORES, strict=True)), 1.0).product == info


def test_without_photos_the_cut_is_moved_with_its_promise() -> None:
    info = product(train=HELD, missed_scores=(4.5,))  # folds: it learned from those that it was ranked among
    found = moved(info, {}, 2.0)
    assert found.product.folded
    assert found.product.cut == dataclasses.replace(info.cut, value=8.0)
    assert found.product.held_out_scores == (2.0, 4.0, 6.0, 8.0)
    assert found.product.missed_scores == (9.0,)
    assert "its cut was moved by 2.000, measured on training photos" in found.lines()[1]
    bare = moved(product(cut=unpromised(3.0), held_out=(), held_out_scores=()), {}, 1.5).product
    assert (bare.cut.value, bare.cut.held_out, bare.held_out_scores) == (4.5, 0, ())


def test_another_photo_of_the_name_is_refused() -> None:
    samples = [Sample(Path(f"/photos/{key}"), "part", "train", "good", None, key) for key in HELD]
    require_same(product(), samples, (1.1, 1.9, 3.2, 3.5))
    with pytest.raises(DataError, match=r"/photos/c\.png: the model scores it 1, and 3 when it was held out for part"):
        require_same(product(), samples, (1.0, 2.0, 1.0, 4.0))


# --- with photos ---------------------------------------------------------------------------------------------


class Eight:
    """The trained detector, its maps times 1.1."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector
        self.sizes: list[int] = []

    def __call__(self, images: torch.Tensor, product: torch.Tensor | None = None) -> Maps:
        self.sizes.append(len(images))
        maps: Maps = self.detector(images, product)
        return maps._replace(anomaly_map=1.1 * maps.anomaly_map)


@pytest.fixture(scope="module")
def stored(small_model: Path) -> StoredModel:
    return load_model(small_model, torch.device("cpu"))


def cuts(stored: StoredModel, data: Path, **changes: Any) -> tuple[ProductInfo, ProductInfo, list[str]]:
    """(the first product before, after, what was said)."""
    said: list[str] = []

    class Heard(unias.Progress):
        def say(self, text: str) -> None:
            if "to go" not in text:  # what stages say
                said.append(text)

    before = dataclasses.replace(stored.products[0], **changes)
    stored = dataclasses.replace(stored, products=(before, *stored.products[1:]))
    maker = Quantizer(stored, "uint8", data, Heard("lines"))
    found = maker._cuts(Eight(stored.detector))  # type: ignore[arg-type]
    assert [cut.product.name for cut in found] == [info.name for info in stored.products]
    return before, found[0].product, said


def test_all_at_hand(stored: StoredModel, tiny_data: Path) -> None:
    before, after, said = cuts(stored, tiny_data)
    assert after.held_out_scores == pytest.approx([1.1 * score for score in before.held_out_scores], rel=1e-4)
    assert after.cut.value == pytest.approx(1.1 * before.cut.value, rel=1e-4)
    assert after.cut.promise == before.cut.promise
    assert after.lower == pytest.approx(1.1 * before.lower, rel=1e-3)
    assert said == []


def test_what_people_added_stays(stored: StoredModel, tiny_data: Path) -> None:
    info = stored.products[0]
    top = max(info.held_out_scores)
    held, scores = (*info.held_out, "added/1", "added/2"), (*info.held_out_scores, 2 * top, 4 * top)
    cut, _ = lowered_cut(scores, 0.05, [3 * top], 0.5)
    assert cut.value == 2 * top
    before, after, said = cuts(
        stored, tiny_data, held_out=held, held_out_scores=scores, missed_scores=(3 * top,), cut=cut
    )
    assert after.held_out == before.held_out
    assert after.held_out_scores == pytest.approx([1.1 * score for score in scores], rel=1e-4)
    assert after.cut.value == pytest.approx(2.2 * top, rel=1e-4)
    assert after.cut.promise == before.cut.promise
    assert after.missed_scores[0] == pytest.approx(3.3 * top, rel=1e-4)
    assert len(said) == 1


def test_every_held_out_photo_was_added(stored: StoredModel, tiny_data: Path) -> None:
    """Training photos tell how scores move."""
    held = tuple(f"added/{number}" for number in range(4))
    before, after, said = cuts(stored, tiny_data, held_out=held, held_out_scores=SCORES, cut=rank_cut(SCORES, 0.05))
    assert after.held_out_scores == pytest.approx([1.1 * score for score in SCORES], rel=1e-4)
    assert after.cut.value == pytest.approx(4.4, rel=1e-4)
    assert after.cut.promise == before.cut.promise
    assert len(said) == 2


def test_folds_keep_their_promise(stored: StoredModel, tiny_data: Path) -> None:
    info = stored.products[0]
    scores = tuple(3.0 * score for score in info.held_out_scores)  # of models that did not see the photos
    train = (*info.train, *info.held_out)
    before, after, _ = cuts(stored, tiny_data, train=train, held_out_scores=scores, cut=rank_cut(scores, 0.05))
    assert after.folded
    assert after.held_out_scores == pytest.approx([1.1 * score for score in scores], rel=1e-4)
    assert after.cut == dataclasses.replace(before.cut, value=pytest.approx(1.1 * max(scores), rel=1e-4))


def test_others_photos_are_refused_before_the_work(
    stored: StoredModel, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quantizer, "_calibration", lambda _self: pytest.fail("the work began"))
    info = stored.products[1]
    wrong = dataclasses.replace(info, held_out_scores=tuple(2 * score for score in info.held_out_scores))
    maker = Quantizer(
        dataclasses.replace(stored, products=(stored.products[0], wrong)),
        "uint8",
        tiny_data,
        unias.Progress("silent"),
    )
    with pytest.raises(DataError, match="another photo of that name") as fault:
        maker.run()
    assert info.held_out[0] in str(fault.value)


def test_photos_of_the_layers_are_set_aside(
    stored: StoredModel, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "MEASURED", 2)
    maker = Quantizer(stored, "uint8", tiny_data, unias.Progress("silent"))
    seen, measured = maker._calibration(), {sample.key for sample in maker.measured}
    assert (len(seen), len(measured)) == (6, 2)  # of 4 photos of each of 2 products
    assert not measured & {sample.key for group in maker.rest for sample in group}
    assert all(item["pixels"].shape == (1, 128, 128, 3) and item["pixels"].dtype == np.uint8 for item in seen)


def test_batches_hold_fewer_photos_where_they_are_tiled(stored: StoredModel, tiny_data: Path) -> None:
    tiled = copy.copy(stored.detector)
    tiled.tiling = Tiling(2, 128, 16)  # type: ignore[union-attr]
    maker = Quantizer(dataclasses.replace(stored, detector=tiled), "uint8", tiny_data, unias.Progress("silent"))
    eight = Eight(stored.detector)
    maker._scores(eight, 0, maker.training[0], "photos")  # type: ignore[arg-type]
    assert eight.sizes == [2, 2]
