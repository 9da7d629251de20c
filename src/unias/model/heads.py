"""Reconstruction heads: from decoder tokens back to each level's features (spec section 8)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.tokens import PATCH


class ConvHead(nn.Module):
    """Bilinear upsample to the level's size with align_corners=TRUE, three 3x3 convolutions with nothing between.

    padding "each" (released): zeros round each of the three. "once" (paper): pad by 3, then convolve 'valid': the three
    are then one 7x7 convolution exactly.
    """

    def __init__(self, width: int, channels: int, level: int, padding: str) -> None:
        super().__init__()
        self.scale = PATCH[level]
        self.padding = padding
        pad = 1 if padding == "each" else 0
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=pad),
            nn.Conv2d(width, width, 3, padding=pad),
            nn.Conv2d(width, channels, 3, padding=pad),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.scale > 1:
            x = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=True)
        if self.padding == "once":
            x = F.pad(x, (3, 3, 3, 3))
        out: Tensor = self.layers(x)
        return out


class SubpixelHead(nn.Module):
    """One 3x3 convolution on the token grid to channels * scale^2, then pixel shuffle (the small model)."""

    def __init__(self, width: int, channels: int, level: int) -> None:
        super().__init__()
        self.scale = PATCH[level]
        self.conv = nn.Conv2d(width, channels * self.scale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), self.scale)


class Heads(nn.Module):
    """ONE LayerNorm for all levels, then a head a level: {level: (N, T, D)} -> {level: (N, C_k, H_k, W_k)}."""

    def __init__(self, width: int, heads: dict[int, nn.Module]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({str(level): head for level, head in heads.items()})

    def forward(self, outputs: dict[int, Tensor]) -> dict[int, Tensor]:
        reconstructions: dict[int, Tensor] = {}
        for level, tokens in outputs.items():
            n, count, width = tokens.shape
            grid = int(count**0.5)
            x = self.norm(tokens).transpose(1, 2).reshape(n, width, grid, grid)
            reconstructions[level] = self.heads[str(level)](x)
        return reconstructions
