"""Odd ones out and duplicates, on made-up features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unias.data.layouts import Sample
from unias.studio.child.checking import SIDE, _joined, near_twins, odd_ones


def samples(product: str, count: int, split: str = "train") -> list[Sample]:
    keys = [f"{product}/{split}/good/{number}.png" for number in range(count)]
    return [Sample(Path(key), product, split, "good", None, key) for key in keys]


def rows(count: int, centre: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, 1, (count, 30)).astype(np.float32)


def test_one_far_from_its_product_is_odd_and_no_other() -> None:
    features = rows(40, 0)
    features[7] += 9
    found = odd_ones(samples("screw", 40), features)
    assert [one["key"] for one in found] == ["screw/train/good/7.png"]
    assert "as far from the others" in found[0]["why"]


def test_some_of_another_product_are_told() -> None:
    features = np.concatenate([rows(20, 0), rows(20, 8, 1)])
    features[:3] = rows(3, 8, 2)  # three of a kind: near each other, so not far from all
    found = odd_ones(samples("screw", 20) + samples("nut", 20), features)
    assert {one["key"] for one in found} == {f"screw/train/good/{number}.png" for number in range(3)}


def test_few_photos_say_nothing_of_what_is_usual() -> None:
    features = rows(5, 0)
    features[2] += 50
    assert odd_ones(samples("screw", 5), features) == []
    assert (
        near_twins(samples("screw", 5), np.zeros((5, 30), dtype=np.float32), np.zeros((5, 3), dtype=np.float32)) == []
    )


def test_near_twins_are_close_in_features_and_alike_in_pixels() -> None:
    features = rows(20, 0)
    features[4] = features[3] + 0.01
    features[9] = features[8] + 0.01
    small = np.random.default_rng(1).uniform(0, 255, (20, SIDE * SIDE * 3)).astype(np.float32)
    small[4] = small[3] + 1
    assert near_twins(samples("screw", 20), features, small) == [{3, 4}]


def test_groups_that_share_a_photo_are_one() -> None:
    assert _joined([{1, 2}, {5, 6}, {2, 3}]) == [{5, 6}, {1, 2, 3}]
