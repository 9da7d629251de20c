"""The Gaussian of the systems that blur their maps: scipy's ``gaussian_filter``, in torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 4.0  # standard deviations, to the nearest pixel


def blurred(maps: Tensor, sigma: float = 4.0) -> Tensor:
    """(N, H, W) -> the same; kernel of 2 * round(4 sigma) + 1 taps, beyond the border the map mirrored, its edge repeated."""
    reach = int(REACH * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    line = (line / line.sum()).to(maps.dtype).to(maps.device)
    rows, columns = (_mirrored(side, reach).to(maps.device) for side in maps.shape[1:])
    x = maps[:, None, :, columns][:, :, rows]
    x = F.conv2d(x, line.view(1, 1, 1, -1))
    return F.conv2d(x, line.view(1, 1, -1, 1))[:, 0]


def _mirrored(side: int, reach: int) -> Tensor:
    """Which place stands for each of -reach .. side + reach - 1: 1 0 | 0 1 2 ... , again and again where the map is small."""
    place = torch.arange(-reach, side + reach) % (2 * side)
    return torch.where(place < side, place, 2 * side - 1 - place)
