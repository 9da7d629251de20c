"""Connected regions of a stack of masks, in numpy alone: runs of pixels, joined by a union-find over whole arrays.

Legend: N masks, H rows, W columns, R runs (a run: the longest stretch of True pixels within one row), E pairs of runs
that touch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Runs(NamedTuple):
    """The True pixels of one or more masks as runs, in the order of ``array[masks]``.

    Attributes:
        starts: (R,), the place of each run's first pixel in the flattened masks, ascending.
        lengths: (R,), pixels in the run, >= 1.
        regions: (R,), the 8-connected region that the run belongs to, 0 .. number - 1.
        number: how many regions there are.
    """

    starts: Ints
    lengths: Ints
    regions: Ints
    number: int

    def places(self) -> Ints:
        """The place of every True pixel in the flattened masks, ascending: (P,)."""
        before = np.cumsum(self.lengths) - self.lengths
        places: Ints = np.arange(self.lengths.sum()) + np.repeat(self.starts - before, self.lengths)
        return places

    def sizes(self) -> Ints:
        """Pixels in the region of each run: (R,), >= 1."""
        sizes: Ints = np.bincount(self.regions, weights=self.lengths, minlength=self.number).astype(np.int64)
        of_run: Ints = sizes[self.regions]
        return of_run


def region_runs(masks: NDArray[np.bool_]) -> Runs:
    """The 8-connected regions of each mask, run by run: all that is to be known of them in O(R) memory.

    Args:
        masks: bool, (N, H, W) or (H, W). Regions never cross from one mask into the next; they are numbered by their
            first pixel in the order of ``array[masks]`` (scipy.ndimage.label's and skimage.measure.label's order).
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
    rows, columns = np.divmod(starts, width + 2)
    return Runs(rows * width + columns - 1, ends - starts + 1, run_region.reshape(-1), len(roots))


def region_of_pixels(masks: NDArray[np.bool_]) -> tuple[Ints, int]:
    """Number the 8-connected regions of each mask.

    Args:
        masks: bool, (N, H, W) or (H, W), as in :func:`region_runs`.

    Returns:
        (regions, count): for every True pixel, in the order of ``array[masks]``, its region 0 .. count - 1.
    """
    runs = region_runs(masks)
    return np.repeat(runs.regions, runs.lengths), runs.number


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
