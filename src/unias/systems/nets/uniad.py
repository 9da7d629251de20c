"""UniAD (You et al., NeurIPS 2022): reconstruct all levels' features on one grid with layer-wise queries.

features -> one grid -> jitter -> tokens -> encoder (neighbours masked) -> decoder, a learned query a layer -> features
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.jitter import FeatureJitter
from unias.model.positions import neighbour_mask
from unias.systems.nets.tokens import (
    DecoderLayer,
    EncoderLayer,
    LearnedPosition,
    aligned,
    euclidean,
    to_map,
    to_tokens,
    xavier_linear,
)


class UniADOutput(NamedTuple):
    """clean, reconstruction: (N, C, g, g)."""

    clean: Tensor
    reconstruction: Tensor

    def map(self) -> Tensor:
        """(N, g, g), not negative, higher is more anomalous."""
        return euclidean(self.reconstruction, self.clean)

    def loss(self) -> Tensor:
        """Mean squared error over everything."""
        return F.mse_loss(self.reconstruction, self.clean)


class UniAD(nn.Module):
    """The network. Published: width 256, 8 heads, ffn 1024, 4 + 4 layers, dropout 0.1, jitter 20, window 7.

    Args:
        channels: C, the sum over the backbone's levels.
        grid: g, side of the token grid (14 at 224 pixels); must be larger than ``window``.
    """

    mask: Tensor

    def __init__(
        self,
        channels: int,
        grid: int = 14,
        *,
        width: int = 256,
        heads: int = 8,
        ffn: int = 1024,
        layers: int = 4,
        dropout: float = 0.1,
        jitter: float = 20.0,
        window: int = 7,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.jitter = FeatureJitter(jitter, 1.0, "channels")
        self.input_proj = nn.Linear(channels, width)
        self.position = LearnedPosition(width, grid)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, ffn, dropout) for _ in range(layers))
        self.queries = nn.ParameterList(nn.Parameter(torch.randn(grid * grid, width)) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, channels)
        self.register_buffer("mask", neighbour_mask(grid, window), persistent=False)
        xavier_linear(self)

    def forward(self, features: Mapping[int, Tensor]) -> UniADOutput:
        """features: {level: (N, C_k, H_k, W_k)}, raw from the backbone; noise is added in training mode alone, to what is
        seen and not to what is to be reconstructed."""
        clean = aligned(features, self.grid)
        tokens = self.input_proj(to_tokens(self.jitter(clean)))
        position = self.position()
        for layer in self.encoder:
            tokens = layer(tokens, position, self.mask)
        memory = previous = tokens
        for query, layer in zip(self.queries, self.decoder, strict=True):
            previous = layer(query.expand_as(memory), memory, previous, position, self.mask)
        return UniADOutput(clean, to_map(self.output_proj(self.norm(previous)), self.grid))
