"""The first query: Sample-Aware Reweighting (supplement A.1 and Eq. 1; spec section 6; after CBAM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.blocks import GatedCNN


class ChannelWeight(nn.Module):
    """W_c, (N, D): how much each channel of the query counts for this photo.

    joint (paper, Eq. 1): sigmoid(MLP(avg + max)). Otherwise (released, CBAM): sigmoid(MLP(avg) + MLP(max)).
    """

    def __init__(self, width: int, joint: bool) -> None:
        super().__init__()
        self.joint = joint
        inner = width // 2
        self.layers = nn.ModuleList([nn.Linear(width, inner), nn.Linear(inner, inner), nn.Linear(inner, width)])

    def mlp(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out

    def forward(self, h: Tensor) -> Tensor:
        average, largest = h.mean(dim=(2, 3)), h.amax(dim=(2, 3))
        if self.joint:
            return torch.sigmoid(self.mlp(average + largest))
        return torch.sigmoid(self.mlp(average) + self.mlp(largest))


class SpatialWeight(nn.Module):
    """W_s, (N, 1, grid, grid): how much each position of the query counts for this photo."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, h: Tensor) -> Tensor:
        pooled = torch.cat([h.mean(dim=1, keepdim=True), h.amax(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(pooled))


class SampleAwareQuery(nn.Module):
    """Paper: q0 = q_ori * W_c * W_s. h (N, D, grid, grid) -> (N, D, grid, grid)."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, width, grid, grid))
        self.channel_weight = ChannelWeight(width, joint=True)
        self.spatial_weight = SpatialWeight()

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.query * self.channel_weight(h)[:, :, None, None] * self.spatial_weight(h)
        return out


class ReleasedQuery(nn.Module):
    """Released: two learned blocks, each q_g * W_c + q_g * W_s, interleaved to 2D channels (channel 2c + g = channel c of
    block g), then an MGG-CNN 2D -> D. The rows of block g are rows 196 g .. 196 g + 195 of the released embedding."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(2, width, grid, grid))
        self.channel_weight = ChannelWeight(width, joint=False)
        self.spatial_weight = SpatialWeight()
        self.adaptor = GatedCNN(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        channel = self.channel_weight(h)[:, None, :, None, None]
        spatial = self.spatial_weight(h)[:, None]
        blocks = self.query[None] * channel + self.query[None] * spatial  # (N, 2, D, grid, grid)
        out: Tensor = self.adaptor(blocks.transpose(1, 2).flatten(1, 2))
        return out


class PlainQuery(nn.Module):
    """Ablation (Table 3, first rows): the same learned query for every photo."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, width, grid, grid))

    def forward(self, h: Tensor) -> Tensor:
        return self.query.expand(len(h), -1, -1, -1)
