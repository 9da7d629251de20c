"""The score of a map, and what is marked: never at odds with the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import label
from skimage.morphology import area_opening

from unias.calibration.verdict import draw_mask, enlarge_mask, image_score

# Few distinct values, so that ties and touching regions are common.
MAPS = hnp.arrays(np.float32, st.tuples(st.integers(3, 12), st.integers(3, 12)), elements=st.integers(0, 5).map(float))


@given(MAPS, st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_score_is_the_peak_of_the_area_opening(values: np.ndarray, area: int) -> None:
    """Against scikit-image's area opening, which removes bright regions that are too small."""
    expected = float(area_opening(values, area, connectivity=2).max()) if values.size >= area else 0.0
    assert image_score(values, area) == expected
    zone = np.random.default_rng(values.size + area).random(values.shape) < 0.3
    held = values.copy()
    held[zone] = -1
    opened = area_opening(held, area, connectivity=2).max() if (~zone).sum() >= area else -1
    assert image_score(values, area, zone) == max(0.0, float(opened))


@given(MAPS, st.integers(1, 9), st.integers(0, 5), st.integers(0, 5), st.booleans())
@settings(max_examples=400, deadline=None)
def test_mask_and_verdict_agree(values: np.ndarray, area: int, cut: int, lower: int, ignoring: bool) -> None:
    zone = np.random.default_rng(values.size).random(values.shape) < 0.3 if ignoring else None
    score = image_score(values, area, zone)
    mask = draw_mask(values, score, cut, lower, area, zone)
    assert mask.any() == (score > cut)
    if zone is not None:
        assert not (mask & zone).any()
    if mask.any():
        labels = label(mask, connectivity=2)
        for number in range(1, labels.max() + 1):  # each region holds a seed, and none could be larger
            region = labels == number
            seeds = label(region & (values > cut), connectivity=2)
            assert np.bincount(seeds[seeds > 0]).max(initial=0) >= area
        allowed = values > min(lower, cut)
        if zone is not None:
            allowed &= ~zone
        whole = label(allowed, connectivity=2)
        for number in np.unique(labels[labels > 0]):
            assert len(np.unique(whole[labels == number])) == 1
            assert (whole == whole[labels == number][0]).sum() == (labels == number).sum()


def test_marked_regions_grow_to_the_lower_cut_and_no_further() -> None:
    values = np.zeros((7, 9), dtype=np.float32)
    values[1:4, 1:4] = 2
    values[2, 2] = 5
    values[5, 6:9] = 2  # as unusual as the first one's edge, but it never reaches the cut
    mask = draw_mask(values, image_score(values), cut=4, lower=1)
    assert mask.sum() == 9
    assert mask[1:4, 1:4].all()
    assert draw_mask(values, 5.0, cut=4, lower=3).sum() == 1
    assert draw_mask(values, 5.0, cut=4, lower=np.inf).sum() == 1
    assert not draw_mask(values, 4.0, cut=4, lower=1).any()


def test_a_score_beside_the_map_marks_its_peak() -> None:
    """Systems whose score is not their map's: a failed photo is never left empty."""
    values = np.array([[0, 1, 0], [0, 3, 0], [0, 0, 0]], dtype=np.float32)
    mask = draw_mask(values, score=9.0, cut=8.0, lower=2.0)
    assert mask.tolist() == [[False, False, False], [False, True, False], [False, False, False]]


@pytest.mark.parametrize("size", [(3, 3), (9, 14), (40, 17), (1, 1)])
def test_enlarged_masks_are_never_lost(size: tuple[int, int]) -> None:
    for row in range(9):
        mask = np.zeros((9, 14), dtype=bool)
        mask[row, (5 * row) % 14] = True
        large = enlarge_mask(mask, size)
        assert large.shape == size
        assert large.any()
    assert not enlarge_mask(np.zeros((9, 14), dtype=bool), size).any()
    full = enlarge_mask(np.ones((9, 14), dtype=bool), size)
    assert full.all()


def test_all_ignored_scores_nothing() -> None:
    values = np.ones((4, 4), dtype=np.float32)
    assert image_score(values, 1, np.ones((4, 4), dtype=bool)) == 0.0
    assert image_score(values, 17) == 0.0
    assert not draw_mask(values, 0.0, cut=0.0, lower=0.0, ignore=np.ones((4, 4), dtype=bool)).any()
