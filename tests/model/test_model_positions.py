"""Sine positions and the neighbour mask, entry by entry (spec sections 4 and 7)."""

from __future__ import annotations

import math

import pytest
import torch

from unias.config import ModelConfig
from unias.errors import UsageError
from unias.model.build import build_unias
from unias.model.positions import neighbour_mask, sine_positions


@pytest.mark.parametrize(("width", "grid"), [(64, 14), (32, 8)])
def test_formula_by_loops(width: int, grid: int) -> None:
    positions = sine_positions(width, grid)
    assert positions.shape == (grid * grid, width)
    assert positions.dtype == torch.float32
    half = width // 2
    for row, column in ((0, 0), (0, grid - 1), (3, 5), (grid - 1, 2)):
        for channel in (0, 1, 2, 7, half - 1, half, half + 1, half + 6, width - 1):
            index, j = (row, channel) if channel < half else (column, channel - half)  # rows first, then columns
            angle = 2 * math.pi * (index + 1) / (grid + 1e-6)
            wavelength = 10000 ** (2 * (j // 2) / half)
            expected = math.sin(angle / wavelength) if j % 2 == 0 else math.cos(angle / wavelength)
            assert positions[row * grid + column, channel].item() == pytest.approx(expected, abs=2e-7)


def test_first_half_is_the_row_and_last_half_the_column() -> None:
    positions = sine_positions(16, 10).view(10, 10, 16)
    assert torch.equal(positions[4, 2, :8], positions[4, 9, :8])
    assert torch.equal(positions[2, 4, 8:], positions[9, 4, 8:])
    assert not torch.equal(positions[4, 2, :8], positions[5, 2, :8])


@pytest.mark.parametrize(("grid", "window"), [(8, 7), (14, 7), (16, 7), (8, 3), (8, 1)])
def test_mask_by_brute_force(grid: int, window: int) -> None:
    reach = window // 2
    expected = [
        [abs(qr - kr) <= reach and abs(qc - kc) <= reach for kr in range(grid) for kc in range(grid)]
        for qr in range(grid)
        for qc in range(grid)
    ]
    mask = neighbour_mask(grid, window)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, torch.tensor(expected))


def test_numbers_of_forbidden_places() -> None:
    """True = forbidden: 49 inside, 16 in a corner where the window is cut off."""
    forbidden = neighbour_mask(14).sum(dim=1).view(14, 14)
    assert int(forbidden[7, 7]) == 49
    assert int(forbidden[0, 0]) == 16
    assert int(forbidden[0, 7]) == 28
    assert bool(neighbour_mask(14).diagonal().all())  # least of all itself


def test_seven_by_seven_is_refused() -> None:
    with pytest.raises(ValueError, match="7 x 7 grid"):
        neighbour_mask(7)
    with pytest.raises(UsageError, match="size"):
        build_unias(ModelConfig(width=32, ffn=8, fpn_widths=(32,) * 4), {1: 4, 2: 4, 3: 4, 4: 4}, 7)


def test_eight_by_eight_forbids_no_row_everything() -> None:
    mask = neighbour_mask(8)
    assert not bool(mask.all(dim=1).any())
    assert int((~mask).sum(dim=1).min()) == 15
