"""Multi-head attention with the weights and names of ``torch.nn.MultiheadAttention``, (N, T, D) in and out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.dropout import Dropout


class Attention(nn.Module):
    """softmax(q k^T / sqrt(D / heads) + mask) v in ``heads`` slices of D, between linear layers.

    Raises ValueError where ``heads`` does not divide ``width``.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.embed_dim = width
        self.num_heads = heads
        self.drop = Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query (N, T, D); key and value (N, S, D); mask (T, S), True = forbidden -> (N, T, D)."""
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(
                (query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        )
        allowed = None if mask is None else ~mask
        if self.drop.is_quick(q) or _plain_is_faster(q):
            attended = plain_attention(q, k, v, allowed, self.drop)
        else:
            drop = self.drop.p if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=drop)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``scaled_dot_product_attention`` written out; (N, heads, T, d) each, attn_mask (T, S), True = allowed, ``drop`` on the
    weights."""
    weights = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if attn_mask is not None:
        weights = weights.masked_fill(~attn_mask, float("-inf"))
    weights = weights.softmax(dim=-1).to(value.dtype)
    return torch.matmul(weights if drop is None else drop(weights), value)


def _plain_is_faster(x: Tensor) -> bool:
    """In bfloat16 on a CPU torch's own kernel takes four times as long at a few hundred tokens."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16
