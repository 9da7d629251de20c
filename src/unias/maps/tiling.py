"""A photo as overlapping views, and the views' maps blended into one without seams.

Legend: N photos, n views of each, S x S a view, T x T the photo before it is cut, h x h a view's map, t x t the photo's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unias.config import Tiling


def unfolded(images: Tensor, tiling: Tiling) -> Tensor:
    """(N, C, T, T) -> (N * n, C, S, S): the views of a photo one after the other, row by row."""
    if tiling.grid == 1:
        return images
    size = tiling.size
    views = [images[:, :, top : top + size, left : left + size] for top in tiling.starts for left in tiling.starts]
    return torch.stack(views, dim=1).flatten(0, 1)


def photo_means(pooled: Tensor, views: int) -> Tensor:
    """(N * n, F) -> (N, F): the mean over each photo's views."""
    return pooled if views == 1 else pooled.reshape(-1, views, pooled.shape[1]).mean(dim=1)


class Blend(nn.Module):
    """(N * n, h, h) -> (N, t, t): views laid where they were cut. Where they overlap, each fades out as its neighbour fades in
    (raised cosine), so a blended map jumps nowhere that its views do not.

    Args:
        stride: pixels of the photo to one of the maps.
    """

    weights: Tensor

    def __init__(self, tiling: Tiling, stride: int) -> None:
        super().__init__()
        self.tiling = tiling
        self.stride = stride
        self.register_buffer("weights", blend_weights(tiling, stride), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        tiling, stride = self.tiling, self.stride
        if tiling.grid == 1:
            return maps
        views = maps.reshape(-1, tiling.views, *maps.shape[1:]) * self.weights
        side, size = tiling.side // stride, tiling.size // stride
        whole = maps.new_zeros(1)
        for number in range(tiling.views):
            top, left = (tiling.starts[place] // stride for place in divmod(number, tiling.grid))
            pads = (left, side - size - left, top, side - size - top)
            whole = whole + torch.nn.functional.pad(views[:, number], pads)
        return whole

    def each(self, levels: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The maps of every level blended."""
        return {level: self(maps) for level, maps in levels.items()}


def blend_weights(tiling: Tiling, stride: int) -> Tensor:
    """(n, h, h): how much of each pixel of a view counts; over a photo they sum to 1 at every place."""
    side, size, starts = tiling.side // stride, tiling.size // stride, [start // stride for start in tiling.starts]
    shared = tiling.overlap // stride
    ramp = torch.tensor([0.5 - 0.5 * math.cos(math.pi * (place + 0.5) / max(1, shared)) for place in range(shared)])
    lines = torch.ones(tiling.grid, size)
    for place in range(tiling.grid):
        if place:
            lines[place, :shared] *= ramp
        if place < tiling.grid - 1:
            lines[place, size - shared :] *= ramp.flip(0)
    total = torch.zeros(side)
    for line, start in zip(lines, starts, strict=True):
        total[start : start + size] += line
    lines = torch.stack([line / total[start : start + size] for line, start in zip(lines, starts, strict=True)])
    weights: Tensor = torch.einsum("ax,by->abxy", lines, lines).flatten(0, 1)
    return weights
