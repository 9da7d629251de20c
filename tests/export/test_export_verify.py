"""How two detectors are compared, on maps made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from unias.errors import ExportError
from unias.export.photos import Photos
from unias.export.verify import average_precision, batches, compare, drawn_precision, maps_of
from unias.inference.engines import ExportedDetector, ExportInfo, to_pixels
from unias.maps.detector import Maps

SIDE = 8


class ByHand:
    """A stand-in for a trained detector: the map is the first channel; a photo's product is said by its corner."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: torch.Tensor, product: torch.Tensor | None = None) -> Maps:
        self.sizes.append(len(images))
        found = (images[:, 0, 0, 0] > 0.5).long() if product is None else product
        novelty = 2 * images[:, 1, 0, 0] if product is None else None
        return Maps(found, images[:, 0], {4: images[:, 0, ::2, ::2]}, novelty=novelty)


def exported(
    change: Any = lambda maps: maps, score: Any = lambda maps: maps.max(axis=(1, 2)), farther: float = 2
) -> ExportedDetector:
    def session(pixels: NDArray[Any], product: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        maps = change(images[:, 0].numpy().copy())
        found = np.where(product < 0, (maps[:, 0, 0] > 0.5).astype(np.int64), product)
        level = maps[:, ::2, ::2]
        novelty = farther * images[:, 1, 0, 0].numpy()
        return {
            "product_index": found,
            "anomaly_map": maps,
            "raw_score": score(maps),
            "novelty": novelty,
            "level_4": level,
        }

    return ExportedDetector(session, ExportInfo("torch", "float32", (4,)))


@pytest.fixture
def photos() -> Photos:
    rng = np.random.default_rng(0)
    images = rng.random((14, 3, SIDE, SIDE)).astype(np.float32) * 0.5
    images[:, 0, 4, 4] = 0.99
    masks = np.zeros((14, SIDE, SIDE), dtype=bool)
    masks[1::2, 2:4, 2:5] = True
    return Photos(images, np.arange(14) // 2 % 2, masks, "numbers")


def test_photos_of_no_known_product_are_counted(photos: Photos) -> None:
    """Three times as far: photos that were known are not any more."""
    photos.images[:, 1, 0, 0] = 0.2
    photos.images[3, 1, 0, 0] = 0.4
    assert compare(ByHand(), exported(farther=3), photos).products == 1  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="novelty"):
        compare(ByHand(), exported(farther=-3), photos)  # type: ignore[arg-type]


def test_the_same_is_no_difference(photos: Photos) -> None:
    trained = ByHand()
    found = compare(trained, exported(), photos)  # type: ignore[arg-type]
    assert (found.photos, found.largest, found.mean, found.score, found.products) == (14, 0, 0, 0, 0)
    assert found.precision[0] == found.precision[1]
    assert found.precision_lost == 0
    assert trained.sizes == [1, 3, 8, 2, 1, 3, 8, 2]  # every size of batch, products found and given


def test_the_worst_photo_counts(photos: Photos) -> None:
    def change(maps: NDArray[Any]) -> NDArray[Any]:
        maps[:, 7, 7] += 0.099 * (len(maps) == 3)  # in the batch of three alone
        return maps

    found = compare(ByHand(), exported(change), photos)  # type: ignore[arg-type]
    assert found.largest == pytest.approx(0.1, rel=1e-4)
    assert found.mean == pytest.approx(3 * 0.099 / photos.images[:, 0].astype(np.float64).sum(), rel=1e-4)
    assert found.score == 0
    doubled = compare(ByHand(), exported(lambda maps: 2 * maps), photos)  # type: ignore[arg-type]
    assert (doubled.largest, doubled.mean, doubled.score) == pytest.approx((1, 1, 1))


def test_products_are_counted(photos: Photos) -> None:
    def change(maps: NDArray[Any]) -> NDArray[Any]:
        maps[:, 0, 0] = 0.75
        return maps

    assert compare(ByHand(), exported(change), photos).products == int((photos.images[:, 0, 0, 0] <= 0.5).sum())  # type: ignore[arg-type]


def test_a_score_that_is_not_the_maps(photos: Photos) -> None:
    with pytest.raises(ExportError, match="raw_score"):
        compare(ByHand(), exported(score=lambda maps: maps.mean(axis=(1, 2))), photos)  # type: ignore[arg-type]


def test_level_maps_are_looked_at(photos: Photos) -> None:
    wrong = exported()
    wrong.session = lambda pixels, product: exported().session(pixels, product) | {"level_4": np.zeros((2, 3, 3))}  # type: ignore[operator]
    with pytest.raises(ExportError, match="level_4"):
        compare(ByHand(), wrong, photos)  # type: ignore[arg-type]


def test_precision_is_the_usual_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        labels, scores = rng.random(60) < 0.2, rng.permutation(60).astype(np.float32)
        if labels.any():
            assert average_precision(labels, scores) == pytest.approx(
                average_precision_score(labels, scores), abs=1e-12
            )
    assert np.isnan(average_precision(np.zeros(3, dtype=bool), np.arange(3)))


def test_precision_is_a_mean_over_products() -> None:
    masks = np.zeros((2, 2, 2), dtype=bool)
    masks[:, 0, 0] = True
    maps = np.array([[[9, 1], [2, 3]], [[1, 90], [80, 70]]], dtype=np.float32)
    assert drawn_precision(maps, masks, np.array([0, 1])) == pytest.approx(100 * (1 + 1 / 4) / 2)


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [1]), (2, [1, 1]), (4, [1, 3]), (12, [1, 3, 8]), (24, [1, 3, 8, 8, 4])]
)
def test_batches(count: int, wanted: list[int]) -> None:
    cuts = batches(count)
    assert [stop - start for start, stop in cuts] == wanted
    assert cuts[0][0] == 0
    assert cuts[-1][1] == count


def test_maps_come_in_order(photos: Photos) -> None:
    maps, products = maps_of(ByHand(), photos, known=True)  # type: ignore[arg-type]
    assert np.array_equal(maps, photos.images[:, 0])
    assert np.array_equal(products, photos.product)
    assert to_pixels(torch.from_numpy(photos.images), "float32").shape == (14, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("views", "wanted"),
    [(1, [1, 3, 8, 8]), (2, [1, 2, 4, 4, 4, 4, 1]), (4, [1] + [2] * 9 + [1]), (16, [1] + [2] * 9 + [1])],
)
def test_batches_of_tiled_photos(views: int, wanted: list[int]) -> None:
    """No more views at once than photos elsewhere; but two photos, or their number would not be proven to be free."""
    cuts = batches(20, views)
    assert [stop - start for start, stop in cuts] == wanted
    assert [start for start, _ in cuts[1:]] == [stop for _, stop in cuts[:-1]]


def test_tiled_models_are_compared_in_smaller_batches(photos: Photos) -> None:
    trained = ByHand()
    maps_of(trained, photos, known=True, views=4)  # type: ignore[arg-type]
    assert trained.sizes == [1, 2, 2, 2, 2, 2, 2, 1]
