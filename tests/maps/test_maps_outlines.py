"""Outlines: where they run, and that they enclose what is marked."""

from __future__ import annotations

import numpy as np
from matplotlib.path import Path as Polygon

from unias.maps.outlines import outer_outline, outlines


def test_a_block() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 3:7] = True
    (line,) = outlines(mask)
    assert (line.min(axis=0) == [3, 2]).all()
    assert (line.max(axis=0) == [7, 4]).all()
    assert not np.array_equal(line[0], line[-1])


def test_holes_are_outlines_of_their_own_and_left_out_of_the_outer_one() -> None:
    mask = np.ones((9, 9), dtype=bool)
    mask[4, 4] = False
    assert len(outlines(mask)) == 2
    outer = outer_outline(mask)
    assert np.ptp(outer, axis=0).tolist() == [9, 9]


def test_encloses_every_marked_centre() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 8:22] = True
    mask[5:9, 8:12] &= rng.random((4, 4)) < 0.5
    inside = Polygon(np.vstack([outer_outline(mask), outer_outline(mask)[:1]]))
    rows, columns = np.nonzero(mask)
    assert inside.contains_points(np.stack([columns + 0.5, rows + 0.5], axis=1)).mean() > 0.97


def test_nothing_marked() -> None:
    assert outlines(np.zeros((4, 4), dtype=bool)) == []
