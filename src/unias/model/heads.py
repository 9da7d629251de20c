"""Reconstruction heads: from decoder tokens back to each level's features (spec section 8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.fused import (
    Composable,
    FusedHead,
    apply_head,
    compose_head,
    composed_head_is_cheaper,
    spread_matrix,
)
from unias.model.tokens import PATCH


class ConvHead(Composable):
    """Bilinear upsample to the level's size with align_corners=TRUE, three 3x3 convolutions with nothing between:
    (N, width, grid, grid) -> (N, channels, H, W).

    padding "each" (released): zeros round each of the three. "once" (paper): pad by 3, then convolve 'valid': the three
    are then one 7x7 convolution exactly. ``plain`` is the definition; ``composed`` and a fused head equal it to rounding
    (``fused.py``). Level 4 has no upsampling and nothing to gain: it stays plain in every form.
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
        self.fused: FusedHead | None = None

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The three, in the order they are applied."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "plain" or self.scale == 1:
            return self.plain(x)
        if self.form == "composed":
            return self.composed(x)
        if self.fused is not None:
            out: Tensor = self.fused(x)
            return out
        return self.composed(x) if self.training and self._cheaper(*x.shape[:3]) else self.plain(x)

    def plain(self, x: Tensor) -> Tensor:
        """As the class says it."""
        if self.scale > 1:
            x = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=True)
        if self.padding == "once":
            x = F.pad(x, (3, 3, 3, 3))
        out: Tensor = self.layers(x)
        return out

    def composed(self, x: Tensor) -> Tensor:
        """The same with the kernels composed here and now: gradients reach the three convolutions."""
        kernel, bias = compose_head(self.convolutions, self.padding)
        return apply_head(x, kernel, bias, spread_matrix(x.shape[-1], self.scale, self.padding, x))

    @torch.no_grad()
    def fuse(self, grid: int) -> None:
        if self.scale > 1:
            kernel, bias = compose_head(self.convolutions, self.padding)
            self.fused = FusedHead(kernel, bias, spread_matrix(grid, self.scale, self.padding, kernel))

    def unfuse(self) -> None:
        self.fused = None

    def _cheaper(self, batch: int, width: int, grid: int) -> bool:
        channels = self.convolutions[-1].out_channels
        return composed_head_is_cheaper(batch, width, channels, grid, self.scale, self.padding)


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
