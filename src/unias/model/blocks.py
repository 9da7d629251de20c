"""The repeated parts: attention steps, feed-forward steps, the gated CNN (spec sections 4 and 7)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.attention import Attention
from unias.model.dropout import Dropout


class Step(nn.Module):
    """One residual step round ``body``. post: x = norm(x + drop(body(x))). pre: x = x + drop(body(norm(x)))."""

    def __init__(self, width: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.drop = Dropout(dropout)
        self.norm_first = norm_first

    def around(self, x: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            added: Tensor = self.drop(body(self.norm(x)))
            return x + added
        normed: Tensor = self.norm(x + self.drop(body(x)))
        return normed


class AttentionStep(Step):
    """Standard multi-head attention with positions on query and key only; self-attention where ``memory`` is None."""

    def __init__(self, width: int, heads: int, dropout: float = 0.1, norm_first: bool = False) -> None:
        super().__init__(width, dropout, norm_first)
        self.attention = Attention(width, heads, dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        query_position: Tensor | None = None,
        key_position: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x (N, T, D); memory (N, S, D); positions broadcastable to them; mask (T, S), True = forbidden."""

        def attend(y: Tensor) -> Tensor:
            values = y if memory is None else memory
            query = y if query_position is None else y + query_position
            keys = values if key_position is None else values + key_position
            out: Tensor = self.attention(query, keys, values, mask)
            return out

        return self.around(x, attend)


class FeedForwardStep(Step):
    """Linear, ReLU, linear."""

    def __init__(self, width: int, inner: int, dropout: float = 0.1, norm_first: bool = False) -> None:
        super().__init__(width, dropout, norm_first)
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)
        self.inner_drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.around(x, lambda y: self.linear2(self.inner_drop(F.relu(self.linear1(y)))))


class Branch(nn.Module):
    """Cross-attention to the level's tokens, self-attention, feed-forward: half of a hybrid block.

    The spatial half sees T tokens of width D; the channel half sees the transposed maps, D tokens of width T.
    """

    def __init__(self, width: int, heads: int, ffn: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.cross = AttentionStep(width, heads, dropout, norm_first)
        self.self = AttentionStep(width, heads, dropout, norm_first)
        self.feed_forward = FeedForwardStep(width, ffn, dropout, norm_first)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        query_position: Tensor | None = None,
        key_position: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        x = self.cross(x, memory, query_position, key_position, mask)
        x = self.self(x, None, query_position, query_position, mask)
        out: Tensor = self.feed_forward(x)
        return out


class GatedCNN(nn.Module):
    """MGG-CNN: parallel branches of one to three convolutions, a GELU gate at each branch's end, summed (section 7).

    kind: "mgg"; "mg" = the same without the gate; "conv3" = three 3x3 convolutions in a row, then GELU (Table 3).
    (N, C_in, H, W) -> (N, D, H, W). GELU is the exact (erf) one.
    """

    def __init__(self, channels: int, width: int, kind: str = "mgg") -> None:
        super().__init__()
        self.gate: nn.Module = nn.Identity() if kind == "mg" else nn.GELU()

        def convolution(first: bool, size: int) -> nn.Conv2d:
            return nn.Conv2d(channels if first else width, width, size, padding=size // 2)

        def chain(length: int) -> nn.Sequential:
            return nn.Sequential(*(convolution(index == 0, 3) for index in range(length)))

        branches = (
            [chain(3)] if kind == "conv3" else [nn.Sequential(convolution(True, 1)), chain(1), chain(2), chain(3)]
        )
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.gate(self.branches[0](x))
        for branch in self.branches[1:]:
            total = total + self.gate(branch(x))
        return total
