"""Where in a photo the part lies, and how thick it is: so that defects drawn into it lie on the part and are no larger than it.

No learning: the background is what is smooth and joined to the photo's border, where it ends at a sharp edge. A texture fills its
photo: its quiet places fade into the others without an edge.

Axes: h, w = the photo's rows and columns.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unias.maps.regions import label_regions

Bools = NDArray[np.bool_]

SMOOTH = 6.0  # grey levels of 255: deviation within a window that counts as smooth
SHARP = 2.0  # times that: the least deviation along the edge of a background
WINDOW = 64  # windows to a photo's shorter side
LEAST = 0.01  # of the photo: a smaller part is none


def foreground(photo: NDArray[np.uint8]) -> Bools:
    """(h, w, 3) -> (h, w): True on the part; everywhere where there is no background to be told from it."""
    grey = torch.from_numpy(np.ascontiguousarray(photo)).float().mean(dim=2)
    window = min(grey.shape) // WINDOW // 2 * 2 + 1
    deviation = (_mean(grey.square(), window) - _mean(grey, window).square()).clamp_min(0).sqrt()
    smooth = deviation < SMOOTH
    labels = label_regions(smooth.numpy())
    edges = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    background = torch.from_numpy(np.isin(labels, edges[edges > 0]))
    part = _opened(~_opened(background, window), window)
    rim = part & _grown(~part, window)
    if not rim.any() or float(deviation[rim].median()) < SHARP * SMOOTH or float(part.float().mean()) < LEAST:
        return np.ones(photo.shape[:2], dtype=bool)
    found: Bools = part.numpy()
    return found


def thickness(part: Bools) -> int:
    """Side in pixels of the largest upright square that lies in the part: (h, w) -> 0 .. min(h, w)."""
    table = np.zeros((part.shape[0] + 1, part.shape[1] + 1), dtype=np.int64)
    table[1:, 1:] = part.cumsum(axis=0).cumsum(axis=1)
    low, high = 0, min(part.shape)
    while low < high:
        side = (low + high + 1) // 2
        sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
        low, high = (side, high) if bool((sums == side * side).any()) else (low, side - 1)
    return low


def _mean(values: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(values[None, None], window, 1, window // 2, count_include_pad=False)[0, 0]


def _grown(mask: Tensor, window: int) -> Tensor:
    return F.max_pool2d(mask[None, None].float(), window, 1, window // 2)[0, 0] > 0


def _opened(mask: Tensor, window: int) -> Tensor:
    """Without what is narrower than the window."""
    return _grown(~_grown(~mask, window), window)
