"""A result's maps, masks and regions at the photo's own size, and its plain form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unias.inference.result import Result, pred_score


def result(size: tuple[int, int], product: str | None = "part") -> Result:
    values = np.zeros((8, 8), dtype=np.float32)
    values[1:3, 1:4] = 2
    values[6, 6] = 3
    mask = values > 1
    return Result(None, product, "part", False, 3.0, pred_score(3.0, 1.5), 0.05, 1.5, size, values, mask)


@pytest.mark.parametrize("size", [(8, 8), (80, 40), (4, 4)])
def test_everything_has_the_photos_own_size(size: tuple[int, int]) -> None:
    found = result(size)
    assert found.anomaly_map.shape == found.pred_mask.shape == size
    assert found.anomaly_map.dtype == np.float32
    assert found.pred_mask.any()
    if size == (80, 40):
        assert found.pred_mask.sum() == 7 * 10 * 5
        assert found.anomaly_map.max() == pytest.approx(3, rel=0.06)


def test_regions_are_in_the_photos_pixels_highest_first() -> None:
    small, large = result((80, 40)).regions
    assert small.box == (30, 60, 5, 10)
    assert small.area == 50
    assert small.score == pred_score(3.0, 1.5) > large.score == pred_score(2.0, 1.5)
    assert large.box == (5, 10, 15, 20)
    assert large.area == 6 * 50
    assert large.contour.min(axis=0).tolist() == [5, 10]
    assert large.contour.max(axis=0).tolist() == [20, 30]


def test_plain_form_is_json() -> None:
    content = json.loads(json.dumps(result((80, 40)).to_dict(), allow_nan=False))
    assert content["verdict"] == "defect"
    assert content["defect_area"] == pytest.approx(7 / 64)
    assert len(content["regions"]) == 2
    unknown = result((80, 40), None).to_dict()
    assert (unknown["verdict"], unknown["product"], unknown["product_known"]) == ("unknown product", None, False)
    assert unknown["nearest"] == "part"
