"""One map decides verdict and mask: a photo's score, and the pixels that are marked where it fails.

A pixel counts where no ignore-zone covers it. The score is the highest t at which a region of at least ``min_area`` pixels
(8-connected) lies at or above t; with one pixel that is the map's maximum. A photo fails where its score is above the cut,
so there is then a region of that size above the cut: it is marked, grown down to the lower cut (hysteresis). Nothing is ever
marked in a photo that passes, and never nothing in one that fails.

Axes: H, W the map's rows and columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unias.maps.regions import label_regions, region_runs

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


def image_score(anomaly_map: Map, min_area: int = 1, ignore: Mask | None = None) -> float:
    """The photo's score.

    Args:
        anomaly_map: (H, W), not negative, higher is more anomalous.
        min_area: pixels of the map that a region must have to count, >= 1.
        ignore: (H, W), True where nothing counts.

    Returns 0 where no region of that size is left outside the ignore-zones.
    """
    values = anomaly_map if ignore is None else anomaly_map[~ignore]
    if values.size < max(1, min_area):
        return 0.0
    if min_area <= 1:
        return float(values.max())
    falling = np.sort(values, axis=None)[::-1]
    reached = min_area - 1  # fewer pixels than this lie above falling[reached]
    step = max(1, min_area)
    missed = reached - 1
    while not _holds(anomaly_map, falling[reached], min_area, ignore):
        missed = reached
        if reached == len(falling) - 1:
            return 0.0
        reached = min(len(falling) - 1, reached + step)
        step *= 2
    while reached - missed > 1:
        middle = (reached + missed) // 2
        if _holds(anomaly_map, falling[middle], min_area, ignore):
            reached = middle
        else:
            missed = middle
    return float(falling[reached])


def draw_mask(
    anomaly_map: Map, score: float, cut: float, lower: float, min_area: int = 1, ignore: Mask | None = None
) -> Mask:
    """The pixels marked in one photo: (H, W), empty exactly where ``score`` is not above ``cut``.

    Regions above the lower cut that hold a region of ``min_area`` pixels above the cut. Where a system's score is not its
    map's, nothing may lie above the cut though the photo fails: then the region round the map's highest pixel is marked.
    """
    if not score > cut:
        return np.zeros(anomaly_map.shape, dtype=bool)
    values = anomaly_map.astype(np.float64)  # in float32 the cut itself would be rounded
    if ignore is not None:
        values = np.where(ignore, -np.inf, values)
    seeds = _of_size(values > cut, min_area)
    if not seeds.any():
        seeds = values == values.max()
    grown = label_regions((values > min(lower, cut)) | seeds)
    held = np.zeros(int(grown.max()) + 1, dtype=bool)
    held[grown[seeds]] = True
    held[0] = False
    marked: Mask = held[grown]
    return marked


def enlarge_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """(H, W) -> ``size`` = (h, w), nearest neighbour; never empty where the mask is not, though the photo be smaller."""
    height, width = size
    rows = np.minimum((np.arange(height) + 0.5) * mask.shape[0] / height, mask.shape[0] - 1).astype(np.intp)
    columns = np.minimum((np.arange(width) + 0.5) * mask.shape[1] / width, mask.shape[1] - 1).astype(np.intp)
    resized: Mask = mask[rows][:, columns]
    if mask.any() and not resized.any():
        marked = np.argwhere(mask)
        resized = resized.copy()
        for row, column in marked:
            resized[row * height // mask.shape[0], column * width // mask.shape[1]] = True
    return resized


def _holds(anomaly_map: Map, least: np.float32, min_area: int, ignore: Mask | None) -> bool:
    mask = anomaly_map >= least
    if ignore is not None:
        mask &= ~ignore
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    sizes = region_runs(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).sizes()
    return bool(sizes.max() >= min_area)


def _of_size(mask: Mask, min_area: int) -> Mask:
    """The regions of at least ``min_area`` pixels."""
    if min_area <= 1 or not mask.any():
        return mask
    labels = label_regions(mask)
    large = np.bincount(labels.reshape(-1)) >= min_area
    large[0] = False
    kept: Mask = large[labels]
    return kept
