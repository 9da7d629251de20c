"""Which product, or none: distances of pooled features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unias.config import LEVELS
from unias.maps.statistics import ProductStatistics

CHANNELS = {4: 6, 3: 4, 2: 3, 1: 3}


def drawn(count: int, centre: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return centre + torch.randn(count, sum(CHANNELS.values()), generator=generator)


def fitted(products: dict[str, float], photos: int = 40) -> ProductStatistics:
    statistics = ProductStatistics(tuple(products), CHANNELS)
    pooled = torch.cat([drawn(photos, centre, seed) for seed, centre in enumerate(products.values())])
    statistics.fit_prototypes(pooled, torch.arange(len(products)).repeat_interleave(photos), 1.2)
    return statistics


def test_levels_of_the_fixture() -> None:
    assert set(CHANNELS) == set(LEVELS)


def test_known_products_are_known_and_others_are_not() -> None:
    statistics = fitted({"a": 0.0, "b": 8.0, "c": -8.0})
    for index, centre in enumerate((0.0, 8.0, -8.0)):
        product, novelty = statistics.recognise(drawn(200, centre, 100 + index))
        assert (product == index).all()
        assert (novelty <= 1).float().mean() > 0.98
    for centre in (4.0, -4.0, 20.0, -30.0):
        assert (statistics.recognise(drawn(200, centre, 7))[1] > 1).float().mean() > 0.98


def test_a_broken_part_is_still_its_product() -> None:
    """Twice as far from its own product as good ones, in a direction that leads to no other."""
    statistics = fitted({"a": 0.0, "b": 12.0, "c": -12.0})
    broken = drawn(200, 0.0, 9)
    broken[:, 0] += 6
    product, novelty = statistics.recognise(broken)
    assert (product == 0).all()
    assert (novelty <= 1).float().mean() > 0.98


def test_one_product_alone() -> None:
    statistics = fitted({"a": 0.0})
    assert (statistics.recognise(drawn(200, 0.0, 3))[1] <= 1).all()
    assert (statistics.recognise(drawn(200, 9.0, 3))[1] > 1).all()


@pytest.mark.parametrize("photos", [8, 12, 30])
def test_few_photos_do_not_make_the_next_good_one_unknown(photos: int) -> None:
    statistics = fitted({"a": 0.0, "b": 8.0}, photos)
    assert (statistics.recognise(drawn(400, 0.0, 11))[1] <= 1).float().mean() > 0.98


def test_too_few_photos_say_nothing() -> None:
    statistics = fitted({"a": 0.0, "b": 8.0}, 7)
    assert (statistics.recognise(drawn(20, 50.0, 3))[1] == 0).all()


def test_single_and_batch_agree() -> None:
    statistics = fitted({"a": 0.0, "b": 8.0})
    pooled = drawn(9, 3.0, 5)
    product, novelty = statistics.recognise(pooled)
    for row in range(9):
        one = statistics.recognise(pooled[row : row + 1])
        assert one[0] == product[row]
        assert one[1] == pytest.approx(float(novelty[row]), rel=1e-5)
