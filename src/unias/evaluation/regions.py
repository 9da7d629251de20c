"""Connected regions of a stack of masks, in numpy alone: runs of pixels, joined by a union-find over whole arrays.

Legend: N masks, H rows, W columns, R runs (a run: the longest stretch of True pixels within one row), E pairs of runs
that touch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def region_of_pixels(masks: NDArray[np.bool_]) -> tuple[Ints, int]:
    """Number the 8-connected regions of each mask.

    Args:
        masks: bool, (N, H, W) or (H, W). Regions never cross from one mask into the next.

    Returns:
        (regions, count): for every True pixel, in the order of ``array[masks]``, its region 0 .. count - 1. Regions are
        numbered by their first pixel in that order (scipy.ndimage.label's and skimage.measure.label's order).
    """
    stack = masks[None] if masks.ndim == 2 else masks
    _, height, width = stack.shape
    starts, ends = _runs(stack.reshape(-1, width))
    parents = np.arange(len(starts))
    above, below = _touching(starts, ends, width, height)
    while True:
        first, second = parents[above], parents[below]
        high, low = np.maximum(first, second), np.minimum(first, second)
        apart = high != low
        if not apart.any():
            break
        np.minimum.at(parents, high[apart], low[apart])  # every root with a smaller neighbour is hung below it
        while True:  # let every run point straight at its root
            roots = parents[parents]
            if np.array_equal(roots, parents):
                break
            parents = roots
        parents = roots
    roots, run_region = np.unique(parents, return_inverse=True)
    return np.repeat(run_region.reshape(-1), ends - starts + 1), len(roots)


def label_regions(masks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The regions drawn: int32, shaped as ``masks``, 0 outside, 1 .. count inside (see :func:`region_of_pixels`)."""
    labels = np.zeros(masks.shape, dtype=np.int32)
    labels[masks] = region_of_pixels(masks)[0] + 1
    return labels


def _runs(rows: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First and last pixel of every run as keys row * (W + 2) + column + 1, both (R,) and ascending."""
    width = rows.shape[1]
    padded = np.zeros((rows.shape[0], width + 2), dtype=np.int8)
    padded[:, 1:-1] = rows
    steps = np.diff(padded.reshape(-1), prepend=np.int8(0))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1


def _touching(starts: Ints, ends: Ints, width: int, height: int) -> tuple[Ints, Ints]:
    """Pairs (run above, run below), each (E,), that touch at a side or a corner and lie in one mask."""
    stride = width + 2
    below = np.flatnonzero(starts // stride % height != 0)  # the first row of a mask has no row above it
    low = np.searchsorted(ends, starts[below] - stride - 1, side="left")
    high = np.searchsorted(starts, ends[below] - stride + 1, side="right")
    counts = high - low
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(low, counts) + offsets, np.repeat(below, counts)
