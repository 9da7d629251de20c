"""Outlines of masks as polygons, by the library that draws matplotlib's contours.

Axes: H, W the mask's rows and columns; x, y coordinates in pixels, 0, 0 the outer corner of the first pixel.
"""

from __future__ import annotations

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

Outline = NDArray[np.float64]

MOST_LOST = 0.1  # of a ring's area, by leaving points out; a ring that would lose more keeps them all


def outlines(mask: NDArray[np.bool_]) -> list[Outline]:
    """Every outline of a mask (H, W), holes too: (n, 2) x, y, each closed without saying its first point again.

    Lines run half a pixel round the centres of the marked pixels, corners cut.
    """
    padded = np.pad(mask, 1).astype(np.float64)
    lines = contour_generator(z=padded).lines(0.5)
    return [np.asarray(line, dtype=np.float64)[:-1] - 0.5 for line in lines]


def outer_outline(mask: NDArray[np.bool_]) -> Outline:
    """The outline round all of one region, its holes left out: the one that spans most."""
    return max(outlines(mask), key=lambda line: float(np.ptp(line, axis=0).prod()))


def rings(mask: NDArray[np.bool_]) -> tuple[list[Outline], list[Outline]]:
    """The outlines of a mask as (outer ones, holes). A region whose parts touch at corners alone may have several outer ones.

    A pixel is marked exactly where its centre lies within an outer ring and in no hole.
    """
    outer: list[Outline] = []
    holes: list[Outline] = []
    for line in outlines(mask):
        (outer if ring_area(line) > 0 else holes).append(line)
    return outer, holes


def ring_area(ring: Outline) -> float:
    """Signed area within a ring (n, 2), in pixels: positive for an outer outline, negative for a hole."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def simplified(ring: Outline, tolerance: float = 0.45) -> Outline:
    """The ring with fewer points, none of those left out farther than ``tolerance`` pixels from it (Douglas and Peucker).

    A ring that would lose a tenth of its area (slivers, single pixels) comes back as it is.
    """
    far = int(np.square(ring - ring[0]).sum(axis=1).argmax())
    kept = np.zeros(len(ring) + 1, dtype=bool)
    kept[[0, far, len(ring)]] = True
    closed = np.concatenate([ring, ring[:1]])
    stack = [(0, far), (far, len(ring))]
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        distances = _from_chord(closed[first + 1 : last], closed[first], closed[last])
        if distances.max() <= tolerance:
            continue
        middle = first + 1 + int(distances.argmax())
        kept[middle] = True
        stack += [(first, middle), (middle, last)]
    fewer = ring[kept[:-1]]
    whole = ring_area(ring)
    if len(fewer) < 3 or abs(ring_area(fewer) - whole) > MOST_LOST * abs(whole):
        return ring
    return fewer


def _from_chord(points: Outline, start: Outline, end: Outline) -> NDArray[np.float64]:
    """Distance of each point (n, 2) from the stretch between two others, (n,)."""
    along = end - start
    length = float(along @ along)
    share = np.zeros(len(points)) if length == 0 else np.clip((points - start) @ along / length, 0, 1)
    distances: NDArray[np.float64] = np.sqrt(np.square(points - start - share[:, None] * along).sum(axis=1))
    return distances
