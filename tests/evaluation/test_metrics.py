"""Metrics against tables worked out by hand, scikit-learn and slow direct definitions."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import label as skimage_label
from sklearn import metrics as sk

from unias.errors import DataError
from unias.evaluation import metrics
from unias.maps import regions

# Labels and scores with many ties, both kinds of label present.
TABLES = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.bool_, n).filter(lambda a: 0 < a.sum() < len(a)),
        hnp.arrays(np.float32, n, elements=st.integers(-6, 6).map(lambda v: v / 4)),
    )
)


# A table by hand. Sorted by score: 4+ 3+ 3- 2- 2- 1+ ; thresholds 4, 3, 2, 1.
#   threshold   tp  fp   precision  recall   sum     F1
#   4           1   0    1          1/3      4/3     2/4
#   3           2   1    2/3        2/3      4/3     4/6
#   2           2   3    2/5        2/3      16/15   4/8
#   1           3   3    1/2        1        3/2     6/9
LABELS = np.array([1, 1, 0, 0, 0, 1], dtype=bool)
SCORES = np.array([4, 3, 3, 2, 2, 1], dtype=np.float32)


def test_hand_table_ranking() -> None:
    assert metrics.average_precision(LABELS, SCORES) == pytest.approx(1 / 3 + 2 / 9 + 1 / 6)
    # pairs (3 x 3): 4 beats all three; 3 ties one and beats two; 1 loses all three
    assert metrics.auroc(LABELS, SCORES) == pytest.approx((3 + 2.5 + 0) / 9)
    assert metrics.oracle_threshold(LABELS, SCORES) == 1.0
    f1, threshold = metrics.f1_max(LABELS, SCORES)
    assert (f1, threshold) == (pytest.approx(2 / 3), 1.0)  # 4/6 and 6/9 are equal: the lowest threshold


def test_hand_table_curve_is_ascending_with_the_end_point() -> None:
    precision, recall, thresholds = metrics.precision_recall_curve(LABELS, SCORES)
    np.testing.assert_array_equal(thresholds, [1, 2, 3, 4])
    np.testing.assert_allclose(precision, [1 / 2, 2 / 5, 2 / 3, 1, 1])
    np.testing.assert_allclose(recall, [1, 2 / 3, 2 / 3, 1 / 3, 0])


def test_oracle_of_equal_sums_takes_the_lowest_threshold() -> None:
    # threshold 3: 1 + 1/2; threshold 2: 1/2 + 1/2; threshold 1: 1/2 + 1
    assert metrics.oracle_threshold([1, 0, 0, 1], [3.0, 2.0, 2.0, 1.0]) == 1.0


def test_auroc_below_one_half_stays_there() -> None:
    assert metrics.auroc([1, 1, 0, 0], [0.0, 1.0, 2.0, 3.0]) == 0.0
    assert metrics.auroc([1, 0, 1, 0], [5.0, 5.0, 5.0, 5.0]) == 0.5


def test_undefined_is_nan() -> None:
    nothing, everything = np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
    scores = np.arange(4.0)
    for value in (
        metrics.average_precision(nothing, scores),
        metrics.auroc(nothing, scores),
        metrics.auroc(everything, scores),
        metrics.oracle_threshold(nothing, scores),
        *metrics.f1_max(nothing, scores),
        metrics.aupro(nothing.reshape(1, 2, 2), scores.reshape(1, 2, 2)),
        metrics.aupro(everything.reshape(1, 2, 2), scores.reshape(1, 2, 2)),
        metrics.anomaly_ratio(nothing.reshape(1, 2, 2)),
        metrics.dsc_at(nothing.reshape(1, 2, 2), scores.reshape(1, 2, 2), math.nan),
        metrics.empty_mask_dsc(np.zeros((0, 2, 2), dtype=bool)),
        metrics.auroc([], []),
    ):
        assert math.isnan(value)
    assert metrics.average_precision(everything, scores) == 1.0  # defined: as scikit-learn
    assert np.isnan(metrics.precision_recall_curve(nothing, scores)[1][:-1]).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_scores_that_are_not_finite_are_refused(bad: float, place: int) -> None:
    scores = np.zeros(2)
    scores[place] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        metrics.auroc([1, 0], scores)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="differ"):
        metrics.auroc([1, 0, 1], [1.0, 2.0])
    with pytest.raises(DataError, match="differ"):
        metrics.dice_per_sample(np.zeros((1, 2, 2), dtype=bool), np.zeros((1, 2, 3), dtype=bool))


def hand_masks() -> tuple[np.ndarray, np.ndarray]:
    """Four 2 x 2 photos: half anomalous, all anomalous, good, good; and maps for them."""
    masks = np.array([[[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=bool)
    maps = np.array([[[9, 4], [5, 1]], [[9, 9], [6, 2]], [[3, 3], [0, 0]], [[7, 0], [0, 0]]], dtype=np.float32)
    return masks, maps


def test_hand_table_dice_and_iou() -> None:
    masks, maps = hand_masks()
    at_five = metrics.at_least(maps, 5.0)  # drawn: (0,0),(1,0) | three of four | nothing | one pixel
    np.testing.assert_allclose(metrics.dice_per_sample(masks, at_five), [2 / 4, 6 / 7, 1, 0])
    np.testing.assert_allclose(metrics.iou_per_sample(masks, at_five), [1 / 3, 3 / 4, 1, 0])
    assert metrics.dsc_at(masks, maps, 5.0) == pytest.approx((0.5 + 6 / 7 + 1) / 4)


def test_empty_prediction() -> None:
    masks, maps = hand_masks()
    nothing = np.zeros_like(masks)
    np.testing.assert_array_equal(metrics.dice_per_sample(masks, nothing), [0, 0, 1, 1])
    np.testing.assert_array_equal(metrics.iou_per_sample(masks, nothing), [0, 0, 1, 1])
    assert metrics.empty_mask_dsc(masks) == 0.5
    assert metrics.dsc_at(masks, maps, 100.0) == 0.5


def test_anomaly_ratio_counts_anomalous_photos_alone() -> None:
    masks, _ = hand_masks()
    assert metrics.anomaly_ratio(masks) == pytest.approx(6 / 8)
    assert metrics.anomaly_ratio(masks, np.array([True, True, True, False])) == pytest.approx(6 / 12)


def test_best_dsc_by_hand() -> None:
    masks, maps = hand_masks()
    # 9: 2/3 + 2*2/6 + 1 + 1 = 3.333; 7: the last photo falls to 0. 9 wins.
    best = metrics.best_dsc(masks, maps)
    assert best.value == pytest.approx((2 / 3 + 2 / 3 + 2) / 4)
    assert metrics.dsc_at(masks, maps, best.threshold) == best.value


def test_best_dsc_may_be_to_predict_nothing() -> None:
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[0, 0, 0] = True
    maps = np.ones((3, 2, 2), dtype=np.float32)
    best = metrics.best_dsc(masks, maps)
    assert best.value == pytest.approx(2 / 3)
    assert best.threshold > 1.0


def test_best_dsc_is_exact_where_scores_are_few_and_close_where_they_are_many() -> None:
    rng = np.random.default_rng(3)
    masks = np.zeros((12, 24, 24), dtype=bool)
    masks[:8, 5:12, 4:15] = True
    maps = (rng.standard_normal(masks.shape) + 1.5 * masks).astype(np.float32)
    exact = max(metrics.dsc_at(masks, maps, float(t)) for t in [*np.unique(maps[masks]), 1e9])
    assert metrics.best_dsc(masks, maps, candidates=10_000).value == pytest.approx(exact, abs=1e-12)
    assert exact - 2e-3 <= metrics.best_dsc(masks, maps, candidates=40).value <= exact + 1e-12


def test_comparisons_with_float32_maps_are_exact() -> None:
    stored = np.float32(0.1)  # a little above 0.1
    maps = np.full((1, 1), stored)
    assert metrics.above(maps, 0.1).all()
    assert not metrics.above(maps, float(stored)).any()
    assert metrics.at_least(maps, 0.1).all()
    assert metrics.at_least(maps, float(stored)).all()
    assert not metrics.at_least(maps, float(stored) + 1e-12).any()
    assert metrics.above(maps, float(stored) - 1e-12).all()
    assert not metrics.above(maps, 1e300).any()
    assert not metrics.at_least(maps, 1e300).any()


@settings(deadline=None, max_examples=200)
@given(TABLES)
def test_agrees_with_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = table
    assert metrics.average_precision(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-12
    )
    assert metrics.auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    theirs = sk.precision_recall_curve(labels, scores)
    for ours, other in zip(metrics.precision_recall_curve(labels, scores), theirs, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-12)
    precision, recall, thresholds = theirs
    best = int(np.argmax((precision + recall)[:-1]))
    assert metrics.oracle_threshold(labels, scores) == thresholds[best]
    f1, threshold = metrics.f1_max(labels, scores)
    each = [sk.f1_score(labels, scores >= t) for t in thresholds]
    assert f1 == pytest.approx(max(each), abs=1e-12)
    assert sk.f1_score(labels, scores >= threshold) == pytest.approx(f1, abs=1e-12)


def test_agrees_with_scikit_learn_on_many_pixels() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.02
    scores = (rng.standard_normal(200_000) + labels).astype(np.float32)
    assert metrics.average_precision(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-12
    )
    assert metrics.auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


def test_curve_for_a_drawing_keeps_both_ends() -> None:
    labels = np.ones(5000, dtype=bool)
    precision, recall, thresholds = metrics.PixelRanking(labels, np.arange(5000.0)).curve(points=100)
    assert len(precision) == len(recall) == len(thresholds) == 100
    assert (thresholds[0], thresholds[-1], recall[0]) == (0.0, 4999.0, 1.0)


@settings(deadline=None, max_examples=200)
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_labelling_agrees_with_scikit_image(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(regions.label_regions(mask), skimage_label(mask, connectivity=2))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.41, 0.6, 1.0])
def test_labelling_of_large_noise(share: float) -> None:
    mask = np.random.default_rng(1).random((200, 190)) < share
    np.testing.assert_array_equal(regions.label_regions(mask), skimage_label(mask, connectivity=2))


def test_labelling_of_a_spiral_and_of_stacks() -> None:
    spiral = np.zeros((41, 41), dtype=bool)
    for ring in range(0, 20, 2):
        spiral[ring, ring : 41 - ring] = spiral[ring : 41 - ring, 40 - ring] = spiral[40 - ring, ring : 41 - ring] = (
            True
        )
        spiral[ring + 2 : 41 - ring, ring] = True
        spiral[ring + 2, ring : ring + 3] = True
    np.testing.assert_array_equal(regions.label_regions(spiral), skimage_label(spiral, connectivity=2))
    full = np.ones((3, 4, 5), dtype=bool)  # masks that touch in memory stay apart
    np.testing.assert_array_equal(regions.label_regions(full)[:, 0, 0], [1, 2, 3])
    assert regions.region_of_pixels(np.zeros((2, 3, 3), dtype=bool))[1] == 0


def slow_aupro(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    """The definition, point by point."""
    parts = []
    for mask, scores in zip(masks, maps, strict=True):
        labels = skimage_label(mask, connectivity=2)
        parts += [scores[labels == k] for k in range(1, labels.max() + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for t in np.unique(maps)[::-1]:
        points.append((float((normal >= t).mean()), float(np.mean([(p >= t).mean() for p in parts]))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@settings(deadline=None, max_examples=150)
@given(
    hnp.arrays(np.bool_, (2, 5, 6)).filter(lambda a: 0 < a.sum() < a.size),
    hnp.arrays(np.float32, (2, 5, 6), elements=st.integers(0, 9).map(float)),
    st.sampled_from([0.05, 0.3, 1.0]),
)
def test_aupro_agrees_with_the_definition(masks: np.ndarray, maps: np.ndarray, limit: float) -> None:
    assert metrics.aupro(masks, maps, limit) == pytest.approx(slow_aupro(masks, maps, limit), abs=1e-12)


def test_aupro_by_hand() -> None:
    # Two regions in one photo, 1 and 2 pixels; ten defect-free pixels.
    masks = np.zeros((1, 1, 13), dtype=bool)
    masks[0, 0, [0, 5, 6]] = True
    maps = np.zeros((1, 1, 13), dtype=np.float32)
    maps[0, 0, [0, 1, 5, 6]] = [9, 8, 7, 0]
    # points (fpr, overlap): (0, 1/2), (1/10, 1/2), (1/10, 3/4), then in one step of ties to (1, 1)
    at_limit = 0.75 + 0.25 * (0.3 - 0.1) / 0.9
    assert metrics.aupro(masks, maps) == pytest.approx((0.1 * 0.5 + 0.2 * (0.75 + at_limit) / 2) / 0.3)


def test_no_warning_comes_from_undefined_figures() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.best_dsc(np.zeros((0, 2, 2), dtype=bool), np.zeros((0, 2, 2), dtype=np.float32))
        metrics.best_dsc(np.zeros((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=np.float32))
        metrics.best_dsc(np.ones((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=np.float32))


@pytest.mark.parametrize("seed", range(5))
def test_best_dsc_of_some_photos_by_trying_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 12, (6, 7, 7)).astype(np.float32)
    masks = rng.random((6, 7, 7)) < 0.25
    counted = np.array([True, False, True, True, False, True])
    found = metrics.best_dsc(masks, maps, counted=counted)
    tried = {
        threshold: metrics.dice_per_sample(masks[counted], maps[counted] >= threshold).mean()
        for threshold in np.unique(maps[masks])
    }
    assert found.value == pytest.approx(max(tried.values()))
    assert found.value >= metrics.dice_per_sample(masks[counted], maps[counted] >= found.threshold).mean() - 1e-12
    assert np.isnan(metrics.best_dsc(masks, maps, counted=np.zeros(6, dtype=bool)).value)
