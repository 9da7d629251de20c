"""The decoder: one hybrid block and one gated CNN a level, coarse to fine (spec section 7)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unias.model.blocks import Branch, GatedCNN


class HybridBlock(nn.Module):
    """Spatial branch + channel branch, both reading the SAME query and tokens, summed.

    With pre-norm steps each branch carries the query itself, so one copy is taken off the sum.
    """

    def __init__(
        self, width: int, tokens: int, heads: int, ffn: int, dropout: float, norm_first: bool, channel_branch: bool
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.spatial = Branch(width, heads, ffn, dropout, norm_first)
        self.channel = Branch(tokens, 4, ffn, dropout, norm_first) if channel_branch else None

    def forward(self, query: Tensor, tokens: Tensor, query_position: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """query, tokens (N, T, D); positions (T, D); mask (T, T), True = forbidden -> (N, T, D)."""
        spatial: Tensor = self.spatial(query, tokens, query_position, position, mask)
        if self.channel is None:
            return spatial
        turned = self.channel(query.transpose(1, 2), tokens.transpose(1, 2), None, position.transpose(0, 1), None)
        both: Tensor = spatial + turned.transpose(1, 2)
        return both - query if self.norm_first else both


class DecoderLayer(nn.Module):
    """Hybrid block, then the gated CNN on the map; the output is the next layer's query."""

    def __init__(self, hybrid: HybridBlock, cnn: GatedCNN | None, cnn_residual: bool) -> None:
        super().__init__()
        self.hybrid = hybrid
        self.cnn = cnn
        self.cnn_residual = cnn_residual

    def forward(self, query: Tensor, tokens: Tensor, query_position: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        x: Tensor = self.hybrid(query, tokens, query_position, position, mask)
        if self.cnn is None:
            return x
        n, count, width = x.shape
        grid = int(count**0.5)
        y = self.cnn(x.transpose(1, 2).reshape(n, width, grid, grid)).flatten(2).transpose(1, 2)
        out: Tensor = x + y if self.cnn_residual else y
        return out


class Decoder(nn.Module):
    """Layers keyed by level; ``query_position`` (T, D) is learned and shared by them all."""

    def __init__(
        self, layers: Mapping[int, DecoderLayer], width: int, tokens: int, position: Tensor, mask: Tensor
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(level): layer for level, layer in layers.items()})
        self.query_position = nn.Parameter(torch.empty(tokens, width))
        self.register_buffer("position", position, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, query: Tensor, tokens: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """query (N, T, D); tokens {level: (N, T, D)} in the order of the layers -> {level: (N, T, D)}."""
        outputs: dict[int, Tensor] = {}
        for key, layer in self.layers.items():
            query = layer(query, tokens[int(key)], self.query_position, self.position, self.mask)
            outputs[int(key)] = query
        return outputs
