"""Metrics as pure functions of arrays (spec section 10; supplement A.2), without torch and scikit-learn.

Scores are higher where more anomalous. Predicted = score >= threshold. Equal scores share one threshold, exactly as in
scikit-learn. Undefined is NaN and never mended: an AUROC below 0.5 stays below 0.5.

One fact keeps tens of millions of pixels cheap: of all thresholds only those at the score of a *positive* can end a
step of recall, or be the best by F1 or by precision + recall (lowering the threshold past negatives alone only adds
false positives). :class:`PixelRanking` therefore sorts positives and negatives apart, once, at 4 bytes a float32 pixel.

Legend: N photos, H x W pixels, P positives, Q negatives, K distinct scores of positives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unias.data.split import spaced
from unias.errors import DataError
from unias.maps.regions import region_of_pixels

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
NAN = float("nan")


class Best(NamedTuple):
    """The highest value of a measure and the threshold that gives it (predicted = score >= threshold)."""

    value: float
    threshold: float


class Overlap(NamedTuple):
    """Pixels of each photo, (N,) each: in both truth and prediction, in the truth, in the prediction."""

    both: NDArray[np.int64]
    truth: NDArray[np.int64]
    drawn: NDArray[np.int64]

    def dice(self) -> Floats:
        """(N,), in [0, 1]; with an empty truth 1 if nothing is predicted, else 0."""
        share = 2 * self.both / np.maximum(self.truth + self.drawn, 1)
        return np.asarray(np.where(self.truth == 0, self.drawn == 0, share), dtype=np.float64)

    def iou(self) -> Floats:
        """Intersection over union, (N,), in [0, 1]; an empty truth as in :meth:`dice`."""
        share = self.both / np.maximum(self.truth + self.drawn - self.both, 1)
        return np.asarray(np.where(self.truth == 0, self.drawn == 0, share), dtype=np.float64)


class PixelRanking:
    """Labels and scores sorted once, for every ranking metric (pixels of a class, or its photos' scores).

    Args:
        labels: bool (or 0 / 1), any shape; True = anomalous.
        scores: the same shape, any finite numbers; float32 and float64 keep their type.

    Raises:
        DataError: shapes differ, or a score is NaN or infinite.
    """

    def __init__(self, labels: ArrayLike, scores: ArrayLike) -> None:
        truth, values = _pair(labels, scores)
        self.positives: NDArray[Any] = values[truth]  # (P,), ascending after the sort
        self.negatives: NDArray[Any] = values[~truth]  # (Q,), ascending after the sort
        self.order: NDArray[np.int64] = np.argsort(self.positives, kind="stable")  # of values[truth]
        self.positives = self.positives[self.order]
        self.negatives.sort()
        for part in (self.positives, self.negatives):
            if len(part) and not (np.isfinite(part[0]) and np.isfinite(part[-1])):
                raise DataError("scores: NaN or infinite values. Look for the photo or model that gave them.")

    @cached_property
    def thresholds(self) -> NDArray[Any]:
        """Distinct scores of positives, (K,), ascending."""
        return np.unique(self.positives)

    @cached_property
    def true_positives(self) -> NDArray[np.int64]:
        """Positives predicted at each of ``thresholds``, (K,)."""
        return len(self.positives) - np.searchsorted(self.positives, self.thresholds, side="left")

    @cached_property
    def false_positives(self) -> NDArray[np.int64]:
        """Negatives predicted at each of ``thresholds``, (K,): those with a score that is not lower."""
        return len(self.negatives) - np.searchsorted(self.negatives, self.thresholds, side="left")

    @cached_property
    def negatives_above(self) -> NDArray[np.int64]:
        """Negatives with a score strictly higher than each of ``thresholds``, (K,)."""
        return len(self.negatives) - np.searchsorted(self.negatives, self.thresholds, side="right")

    @property
    def precision(self) -> Floats:
        """Precision at each of ``thresholds``, (K,), in (0, 1]."""
        return np.asarray(self.true_positives / (self.true_positives + self.false_positives), dtype=np.float64)

    @property
    def recall(self) -> Floats:
        """Recall at each of ``thresholds``, (K,), in (0, 1], falling from 1."""
        return np.asarray(self.true_positives / max(len(self.positives), 1), dtype=np.float64)

    def average_precision(self) -> float:
        """Sum over thresholds of precision times the step of recall; NaN without a positive."""
        if not len(self.positives):
            return NAN
        steps = -np.diff(self.recall, append=0.0)
        return float(np.sum(steps * self.precision))

    def auroc(self) -> float:
        """Share of (positive, negative) pairs in the right order, ties counting half; NaN without both kinds."""
        if not len(self.positives) or not len(self.negatives):
            return NAN
        counts = -np.diff(self.true_positives, append=0)  # positives at each threshold
        wrong_twice = int(np.sum(counts * (self.false_positives + self.negatives_above)))
        return 1.0 - wrong_twice / (2 * len(self.positives) * len(self.negatives))

    def f1_max(self) -> Best:
        """Highest F1 and its threshold (of equals the lowest); NaN without a positive."""
        predicted = self.true_positives + self.false_positives
        return self._best(2 * self.true_positives / np.maximum(predicted + len(self.positives), 1))

    def oracle(self) -> Best:
        """Highest precision + recall and its threshold, of equal sums the lowest; NaN without a positive."""
        return self._best(self.precision + self.recall)

    def _best(self, values: Floats) -> Best:
        if not len(self.positives):
            return Best(NAN, NAN)
        index = int(np.argmax(values))  # the first of equals, and thresholds ascend
        return Best(float(values[index]), float(self.thresholds[index]))

    def curve(self, points: int = 1000) -> tuple[Floats, Floats, Floats]:
        """(precision, recall, thresholds) for a drawing: at most ``points`` each, thresholds ascending, no end."""
        picked = _every(np.arange(len(self.thresholds)), points)
        return self.precision[picked], self.recall[picked], self.thresholds[picked].astype(np.float64)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision (scikit-learn's average_precision_score), in [0, 1]; NaN without a positive."""
    return PixelRanking(labels, scores).average_precision()


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve (scikit-learn's roc_auc_score), in [0, 1]; NaN without both kinds of label."""
    return PixelRanking(labels, scores).auroc()


def f1_max(labels: ArrayLike, scores: ArrayLike) -> Best:
    """(F1, threshold): the highest F1 over all thresholds, of equals the lowest threshold; NaN without a positive."""
    return PixelRanking(labels, scores).f1_max()


def oracle_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The score that maximises precision + recall, of equal sums the lowest (the paper's, chosen on test labels)."""
    return PixelRanking(labels, scores).oracle().threshold


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, NDArray[Any]]:
    """The whole curve, as scikit-learn gives it: (precision, recall, thresholds).

    ``thresholds``: every distinct score, ascending, (T,). ``precision`` and ``recall``: (T + 1,), in the same order,
    recall falling; the last point is (1, 0) and has no threshold. Without a positive recall is NaN but for that point.
    """
    ranking = PixelRanking(labels, scores)
    thresholds = np.union1d(ranking.positives, ranking.negatives)
    true = len(ranking.positives) - np.searchsorted(ranking.positives, thresholds, side="left")
    false = len(ranking.negatives) - np.searchsorted(ranking.negatives, thresholds, side="left")
    recall = true / len(ranking.positives) if len(ranking.positives) else np.full(len(true), NAN)
    return np.append(true / (true + false), 1.0), np.append(recall, 0.0), thresholds


def aupro(masks: Bools, maps: NDArray[Any], max_fpr: float = 0.3, ranking: PixelRanking | None = None) -> float:
    """Area under the per-region overlap curve up to ``max_fpr``, divided by ``max_fpr``, in [0, 1].

    Overlap: the share of a region (8-connected, within one mask) that is predicted, mean over the regions of all masks.
    False-positive rate: over all defect-free pixels. Trapezoids between the points of distinct scores, with the curve
    interpolated at the limit (the way of MVTec's own evaluation code).

    Args:
        masks: bool, (N, H, W).  maps: (N, H, W).  max_fpr: in (0, 1].
        ranking: ``PixelRanking(masks, maps)`` where the caller has it already.

    Returns:
        NaN without an anomalous or without a defect-free pixel.
    """
    ranked = ranking if ranking is not None else PixelRanking(masks, maps)
    if not len(ranked.positives) or not len(ranked.negatives):
        return NAN
    regions, count = region_of_pixels(masks)
    share = 1.0 / (np.bincount(regions, minlength=count)[regions] * count)  # what one pixel adds to the mean overlap
    gained = np.cumsum(share[ranked.order][::-1])  # by falling score
    overlap = gained[ranked.true_positives - 1][::-1]  # (K,), by falling threshold
    total = len(ranked.negatives)
    # Two corners a threshold: the curve is level while negatives alone pass, then rises over the scores both share.
    rate = np.stack([ranked.negatives_above[::-1], ranked.false_positives[::-1]], axis=1).reshape(-1) / total
    height = np.stack([np.append(0.0, overlap[:-1]), overlap], axis=1).reshape(-1)
    return area_until(rate, height, max_fpr)


def area_until(rate: Floats, height: Floats, limit: float) -> float:
    """Area below the corners (rate, height), both (K,) and rising, from rate 0 to ``limit``, divided by ``limit``.

    Trapezoids between the corners, from (0, 0) on; the curve is level behind its last corner.
    """
    rate, height = np.append(rate, 1.0), np.append(height, height[-1])
    inside = int(np.searchsorted(rate, limit, side="right"))
    if inside < len(rate):
        x0, y0 = (rate[inside - 1], height[inside - 1]) if inside else (0.0, 0.0)
        at_limit = y0 + (height[inside] - y0) * (limit - x0) / (rate[inside] - x0)
        rate, height = np.append(rate[:inside], limit), np.append(height[:inside], at_limit)
    x, y = np.append(0.0, rate), np.append(0.0, height)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / limit)


def dice_per_sample(masks: Bools, predicted: Bools) -> Floats:
    """Dice of each photo, (N,), in [0, 1]; with an empty truth 1 if nothing is predicted, else 0.

    Both arguments bool, (N, H, W).
    """
    return overlaps(masks, predicted).dice()


def iou_per_sample(masks: Bools, predicted: Bools) -> Floats:
    """Intersection over union of each photo, (N,), in [0, 1]; an empty truth as in :func:`dice_per_sample`."""
    return overlaps(masks, predicted).iou()


def overlaps(masks: Bools, predicted: Bools) -> Overlap:
    """What truth and prediction share, photo by photo; both bool, (N, H, W). DataError where their shapes differ."""
    if masks.shape != predicted.shape:
        raise DataError(f"masks and predictions: shapes {masks.shape} and {predicted.shape} differ. Resize one.")
    truth, drawn = masks.reshape(len(masks), -1), predicted.reshape(len(masks), -1)
    return Overlap((truth & drawn).sum(axis=1), truth.sum(axis=1), drawn.sum(axis=1))


def dsc_at(masks: Bools, maps: NDArray[Any], threshold: float) -> float:
    """Mean over photos of Dice, predicted = map >= threshold; NaN for a threshold of NaN or no photo."""
    if np.isnan(threshold) or not len(masks):
        return NAN
    return float(np.mean(dice_per_sample(masks, at_least(maps, threshold))))


def best_dsc(
    masks: Bools,
    maps: NDArray[Any],
    ranking: PixelRanking | None = None,
    candidates: int = 500,
    counted: Bools | None = None,
) -> Best:
    """The single threshold that maximises mean Dice, and that mean: what one threshold could reach with the labels.

    Tried: ``candidates`` quantiles of the anomalous pixels' scores, as many of the others' counted from the top on a
    logarithmic scale, one just above each defect-free photo's maximum, and one above every score (nothing predicted);
    then as many again around the best of them. A lower bound of the true maximum, close to it; exact wherever the class
    has no more distinct anomalous scores than ``candidates``. Of equals the highest threshold.

    Args:
        masks: bool, (N, H, W).  maps: (N, H, W), floating.
        ranking: ``PixelRanking(masks, maps)`` where the caller has it already.
        counted: (N,), the photos whose Dice is averaged; None = all.
    """
    if not len(masks) or (counted is not None and not counted.any()):
        return Best(NAN, NAN)
    chosen = range(len(masks)) if counted is None else np.flatnonzero(counted).tolist()
    ranked = ranking if ranking is not None else PixelRanking(masks, maps)
    good: Bools = np.asarray(~masks.reshape(len(masks), -1).any(axis=1))
    peaks = maps.reshape(len(maps), -1).max(axis=1)
    highest = ranked.negatives[len(ranked.negatives) - top_ranks(len(ranked.negatives), candidates)]
    grid = dice_grid(_every(ranked.thresholds, candidates), highest, peaks, good, candidates)

    def measure(grid: NDArray[Any]) -> Floats:
        return mean_dice(((maps[place], maps[place][masks[place]]) for place in chosen), grid)

    def between(low: Any, high: Any) -> NDArray[Any]:
        near = ranked.thresholds[(ranked.thresholds >= low) & (ranked.thresholds <= high)]
        return _every(near, candidates)

    return best_on_grid(grid, measure, between)


def top_ranks(count: int, candidates: int) -> NDArray[np.int64]:
    """At most ``candidates`` of the numbers 1 .. ``count``, evenly on a logarithmic scale, both ends among them."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.geomspace(1, count, candidates).round().astype(np.int64))


def dice_grid(
    anomalous: NDArray[Any], others: NDArray[Any], peaks: NDArray[Any], good: Bools, candidates: int
) -> NDArray[Any]:
    """The thresholds that :func:`best_dsc` tries first, ascending, of one floating type.

    Args:
        anomalous: scores of anomalous pixels.  others: scores of the others.
        peaks: (N,), each photo's highest score.  good: (N,), True where a photo has no anomalous pixel.
    """
    parts = [
        anomalous,
        others,
        np.nextafter(_every(np.unique(peaks[good]), 4 * candidates), np.inf, dtype=peaks.dtype),
        np.nextafter(peaks.max(keepdims=True), np.inf, dtype=peaks.dtype),
    ]
    return np.unique(np.concatenate(parts))


def best_on_grid(
    grid: NDArray[Any], measure: Callable[[NDArray[Any]], Floats], between: Callable[[Any, Any], NDArray[Any]]
) -> Best:
    """The highest of ``measure(grid)``, or of ``measure`` at the scores between the best threshold's neighbours.

    Args:
        grid: thresholds, ascending.  measure: mean Dice at each of the thresholds given.
        between: (low, high) -> scores of anomalous pixels from low to high, ascending, few enough to try them all.
    """
    best = _highest(grid, measure(grid))
    place = int(np.searchsorted(grid, best.threshold))
    near = between(grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)])
    return max(best, _highest(near, measure(near))) if len(near) else best


def mean_dice(photos: Iterable[tuple[NDArray[Any], NDArray[Any]]], grid: NDArray[Any]) -> Floats:
    """Mean over photos of Dice at every threshold of ``grid``, (G,), ascending.

    Args:
        photos: of each photo the scores of all its pixels and those of the anomalous ones, of any shape.
    """
    total, number = np.zeros(len(grid)), 0
    for scores, anomalous in photos:
        drawn = _counts(scores, grid)
        both = _counts(anomalous, grid) if anomalous.size else drawn
        total += Overlap(both, np.full(len(grid), anomalous.size), drawn).dice()
        number += 1
    return total / number


def anomaly_ratio(masks: Bools, is_defect: Bools | None = None) -> float:
    """AR: the share of anomalous pixels in the anomalous photos, in [0, 1]; NaN without an anomalous photo.

    The AR column printed in the paper's Tables 1 and 2 is about three times this, its own definition.

    Args:
        masks: bool, (N, H, W).  is_defect: bool, (N,); left out: the photos whose mask is not empty.
    """
    anomalous = masks.reshape(len(masks), -1).any(axis=1) if is_defect is None else is_defect
    return float(np.mean(masks[anomalous])) if anomalous.any() else NAN


def empty_mask_dsc(masks: Bools) -> float:
    """Mean Dice of predicting nothing anywhere: the share of photos without an anomalous pixel; NaN without a photo."""
    return float(np.mean(~masks.reshape(len(masks), -1).any(axis=1))) if len(masks) else NAN


def at_least(maps: NDArray[Any], threshold: float) -> Bools:
    """``maps >= threshold``, bool, compared exactly although ``maps`` may be float32 and the threshold is not."""
    with np.errstate(over="ignore"):
        value = maps.dtype.type(threshold)
    if float(value) < threshold:
        value = np.nextafter(value, maps.dtype.type(np.inf))
    return np.asarray(maps >= value)


def above(maps: NDArray[Any], cut: float) -> Bools:
    """``maps > cut``, bool, compared exactly although ``maps`` may be float32 and the cut is not."""
    with np.errstate(over="ignore"):
        value = maps.dtype.type(cut)
    if float(value) > cut:
        value = np.nextafter(value, maps.dtype.type(-np.inf))
    return np.asarray(maps > value)


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[Bools, NDArray[Any]]:
    truth, values = np.asarray(labels), np.asarray(scores)
    if truth.shape != values.shape:
        raise DataError(f"labels and scores: shapes {truth.shape} and {values.shape} differ. Give one score a label.")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    return truth.astype(np.bool_, copy=False).reshape(-1), values.reshape(-1)


def _every(values: NDArray[Any], count: int) -> NDArray[Any]:
    return values[spaced(len(values), count)]


def _counts(scores: NDArray[Any], grid: NDArray[Any]) -> NDArray[np.int64]:
    """How many ``scores`` are not lower than each threshold of ``grid``: (G,)."""
    return scores.size - np.searchsorted(np.sort(scores, axis=None), grid, side="left")


def _highest(grid: NDArray[Any], values: Floats) -> Best:
    index = len(values) - 1 - int(np.argmax(values[::-1]))
    return Best(float(values[index]), float(grid[index]))
