"""Where a token stands: sine positions and the neighbour mask (spec sections 4 and 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(width: int, grid: int) -> Tensor:
    """2-D sine positions, (T, D) float32: the first half of the channels for the row, the last half for the column.

    Row r: a = 2 pi (r + 1) / (grid + 1e-6); channel j of a half = sin(a / w_j) for even j, cos(a / w_j) for odd j,
    w_j = 10000^(2 floor(j/2) / (width/2)).
    """
    half = width // 2
    index = torch.arange(half, dtype=torch.float64)
    wavelength = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    angle = (torch.arange(grid, dtype=torch.float64) + 1) / (grid + 1e-6) * 2 * math.pi
    phase = angle[:, None] / wavelength[None, :]
    line = torch.where(index.long() % 2 == 0, phase.sin(), phase.cos())
    rows = line[:, None, :].expand(grid, grid, half)
    columns = line[None, :, :].expand(grid, grid, half)
    return torch.cat([rows, columns], dim=-1).reshape(grid * grid, width).to(torch.float32)


def neighbour_mask(grid: int | tuple[int, int], window: int | tuple[int, int] = 7) -> Tensor:
    """(T, T) bool, True = forbidden: a query may not attend to the window centred on itself, cut off at the border.

    ``grid`` and ``window``: one side, or (rows, columns). Prevents the decoder from copying a token onto itself. Raises
    ValueError where the window would cover the grid.
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    high, wide = (window, window) if isinstance(window, int) else window
    if high >= rows and wide >= columns:
        raise ValueError(
            f"a {high} x {wide} window leaves the centre of a {rows} x {columns} grid nothing to attend to"
        )
    vertical, horizontal = (_near(side, reach) for side, reach in ((rows, high), (columns, wide)))
    mask = vertical[:, None, :, None] & horizontal[None, :, None, :]
    return mask.reshape(rows * columns, rows * columns)


def _near(side: int, window: int) -> Tensor:
    """(side, side) bool: places along one side at most half a window apart."""
    place = torch.arange(side)
    return (place[:, None] - place[None, :]).abs() <= window // 2
