"""What UniAD and HVQ-Trans share: features on one grid, a learned position, post-norm transformer steps, the last resize.

Legend: N photos, C channels of all levels, g x g the grid, T = g * g tokens in row-major order, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def aligned(features: Mapping[int, Tensor], grid: int) -> Tensor:
    """{level: (N, C_k, H_k, W_k)} -> (N, C, g, g), finest level first; bilinear, align_corners=True in both directions."""
    levels = [
        F.interpolate(features[level], size=(grid, grid), mode="bilinear", align_corners=True)
        for level in sorted(features)
    ]
    return torch.cat(levels, dim=1)


def to_tokens(maps: Tensor) -> Tensor:
    """(N, C, g, g) -> (N, T, C)."""
    return maps.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, grid: int) -> Tensor:
    """(N, T, C) -> (N, C, g, g)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, grid, grid)


def euclidean(reconstruction: Tensor, clean: Tensor) -> Tensor:
    """(N, C, g, g) twice -> (N, g, g): the length of the difference at each place."""
    lengths: Tensor = torch.linalg.vector_norm(reconstruction - clean, dim=1)
    return lengths


def enlarged(maps: Tensor, size: int) -> Tensor:
    """(N, g, g) -> (N, size, size), bilinear, align_corners=True, no smoothing."""
    return F.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=True)[:, 0]


def pooled_score(maps: Tensor, window: int = 16) -> Tensor:
    """(N, S, S) -> (N,): the largest mean of a ``window`` x ``window`` square, stride 1, no padding (UniAD on MVTec-AD)."""
    return F.avg_pool2d(maps[:, None], window, stride=1).amax(dim=(1, 2, 3))


class LearnedPosition(nn.Module):
    """(T, D): half a learned vector of the column, then half one of the row. Start: uniform in [0, 1)."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.row_embed = nn.Embedding(grid, width // 2)
        self.col_embed = nn.Embedding(grid, width // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self) -> Tensor:
        rows = self.row_embed.weight[:, None].expand(-1, self.grid, -1)
        columns = self.col_embed.weight[None].expand(self.grid, -1, -1)
        return torch.cat([columns, rows], dim=2).flatten(0, 1)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between, dropout behind each."""

    def __init__(self, width: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))
        return out


class Attend(nn.Module):
    """Multi-head attention, positions added to queries and keys and never to values, dropout behind it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """query, memory (N, T, D); position (T, D); mask (T, T), True = forbidden -> (N, T, D)."""
        out, _ = self.attention(query + position, memory + position, memory, attn_mask=mask, need_weights=False)
        dropped: Tensor = self.dropout(out)
        return dropped


class EncoderLayer(nn.Module):
    """x = norm(x + attention), then x = norm(x + feed-forward)."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attend = Attend(width, heads, dropout)
        self.feed_forward = FeedForward(width, ffn, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.attend(x, x, position, mask))
        out: Tensor = self.norm2(x + self.feed_forward(x))
        return out


class DecoderLayer(nn.Module):
    """Two attentions, then feed-forward, each with its sum and norm behind."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.first = Attend(width, heads, dropout)
        self.second = Attend(width, heads, dropout)
        self.feed_forward = FeedForward(width, ffn, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self, query: Tensor, first: Tensor, second: Tensor, position: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """query (N, T, D) attends to ``first``, then to ``second``."""
        query = self.norm1(query + self.first(query, first, position, mask))
        query = self.norm2(query + self.second(query, second, position, mask))
        out: Tensor = self.norm3(query + self.feed_forward(query))
        return out


def xavier_linear(module: nn.Module) -> None:
    """UniAD's start: Xavier uniform weights and zero biases for Linear, attention's own out-projection among them."""
    for inner in module.modules():
        if isinstance(inner, nn.Linear):
            nn.init.xavier_uniform_(inner.weight)
            if inner.bias is not None:
                nn.init.zeros_(inner.bias)
