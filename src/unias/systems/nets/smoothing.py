"""The Gaussian of the systems that blur their maps: scipy's ``gaussian_filter``, in torch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unias.data.textures import mirrored

REACH = 4.0  # standard deviations, to the nearest pixel


def blurred(maps: Tensor, sigma: float = 4.0) -> Tensor:
    """(N, H, W) -> the same; kernel of 2 * round(4 sigma) + 1 taps, beyond the border the map mirrored, its edge repeated."""
    reach = int(REACH * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    line = (line / line.sum()).to(maps.dtype).to(maps.device)
    rows, columns = (
        torch.from_numpy(mirrored(np.arange(-reach, side + reach, dtype=np.float64), side)).to(maps.device)
        for side in maps.shape[1:]
    )
    x = maps[:, None, :, columns][:, :, rows]
    x = F.conv2d(x, line.view(1, 1, 1, -1))
    return F.conv2d(x, line.view(1, 1, -1, 1))[:, 0]
