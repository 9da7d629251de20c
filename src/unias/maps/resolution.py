"""How small a defect may be before the maps lose it: geometry alone, before any training.

A level tells cells of its stride apart; its map is brought to level 1's grid and smoothed. A defect smaller than that is spread
over more than its own place and stands out less than a large one that looks as strange. The smallest defect is here the square
that keeps half of what a large one would reach in the map's maximum, at the level that keeps most, on average over where it
lies. How far it must stand out depends on the surface and on the training: some smaller defects are found, some larger ones
are not.

What it rests on: a cell is as strange as the share of it that the defect covers. Real features answer sooner: dark squares in a
drawn texture kept half from 4 pixels on at levels 4 to 2, from 8 on at level 1, where this says 9 (docs/LOG.md). So it is a size
on the safe side.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unias.config import LEVELS, STRIDES, Config

Line = NDArray[np.float64]

HALF = 0.5
CELLS = 24  # of level 4, in the line that is looked at: wide enough for a defect of its middle third
STEPS = 16  # places of the defect within the coarsest cell


def smallest_defect(
    photo: tuple[int, int], config: Config, min_area: int = 1, blurred: float = 0.0
) -> tuple[float, float]:
    """(height, width) in pixels of a photo of that (height, width).

    min_area: pixels of the model's map that a region must have to count; its square is the least. blurred: share of
    the product's fused map that is blurred once more, 0 to 1.
    """
    wide = config.maps.wide_sigma * config.size / 224 if blurred else 0.0
    side = max(smallest_square(config.maps.kernels, config.model.levels, wide, blurred), min_area**0.5)
    return side * photo[0] / config.input_size, side * photo[1] / config.input_size


@functools.cache
def smallest_square(
    kernels: tuple[int, ...], levels: tuple[int, ...] = LEVELS, wide: float = 0.0, share: float = 1.0
) -> float:
    """Side of the smallest defect in pixels of the model's input, to a quarter of one.

    kernels: smoothing kernels of levels 4, 3, 2, 1. wide: sigma of a last blur in cells of level 1. share: of the blurred map.
    """

    def height(side: float, level: int) -> float:
        kernel = kernels[LEVELS.index(level)]
        if wide == 0 or share == 0:
            return kept(side, level, kernel)
        sharp = (1 - share) * kept(side, level, kernel) if share < 1 else 0.0
        return sharp + share * kept(side, level, kernel, wide)

    sides = [quarter / 4 for quarter in range(1, 4 * 8 * STRIDES[4])]
    for side in sides:
        if max(height(side, level) for level in levels) >= HALF:
            return side
    return sides[-1]


def kept(side: float, level: int, kernel: int, wide: float = 0.0) -> float:
    """Share of a large defect's height in the level's map that a square of ``side`` input pixels keeps, mean over places."""
    stride = STRIDES[level]
    length = CELLS * STRIDES[4]
    edges = np.arange(0, length + 1, stride, dtype=np.float64)
    places = np.arange(1, length, STRIDES[1])  # the middles of level 1's cells
    weights = _gaussian(kernel // 2, kernel / 3)
    if wide > 0:
        weights = np.convolve(weights, _gaussian(round(2 * wide), wide))
    peaks = []
    for step in range(STEPS):
        start = length / 2 + stride * step / STEPS
        lifted = np.interp(places, edges[:-1] + stride / 2, _covered(edges, start, start + side))
        peaks.append(np.convolve(lifted, weights / weights.sum(), mode="same").max())
    return float(np.mean(peaks)) ** 2  # rows and columns alike: everything here is separable


def _gaussian(reach: int, sigma: float) -> Line:
    offsets = np.arange(-reach, reach + 1)
    return np.exp(-(offsets**2) / (2 * sigma**2))


def _covered(edges: Line, start: float, end: float) -> Line:
    """Share of each cell that lies between two places."""
    low, high = np.clip(edges[:-1], start, end), np.clip(edges[1:], start, end)
    covered: Line = (high - low) / (edges[1:] - edges[:-1])
    return covered


def describe(photo: tuple[int, int], defect: Sequence[float]) -> str:
    """For people: both as width x height."""
    return (
        f"smallest defect that keeps half its contrast: about {defect[1]:.0f} x {defect[0]:.0f} pixels of a photo of "
        f"{photo[1]} x {photo[0]}"
    )
