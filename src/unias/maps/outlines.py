"""Outlines of masks as polygons, by the library that draws matplotlib's contours.

Axes: H, W the mask's rows and columns; x, y coordinates in pixels, 0, 0 the outer corner of the first pixel.
"""

from __future__ import annotations

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

Outline = NDArray[np.float64]


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
