"""From pyramid maps to tokens on one grid (spec section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

PATCH = {1: 8, 2: 4, 3: 2, 4: 1}


class TokenEmbedding(nn.Module):
    """{level: y_k} -> {level: map (N, D, grid, grid)}: a convolution of kernel = stride = patch, then a 1x1 convolution.

    Args:
        patch_widths: channels between the two convolutions for levels 3, 2, 1; None = the patch convolution goes straight
            to D and the 1x1 is left out (the small model; nothing stands between them, so they are one linear map).
    """

    def __init__(
        self, levels: Sequence[int], widths: Mapping[int, int], width: int, patch_widths: Mapping[int, int] | None
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.patch = nn.ModuleDict()
        self.project = nn.ModuleDict()
        for level in self.levels:
            key, size = str(level), PATCH[level]
            if patch_widths is None:
                self.patch[key] = nn.Conv2d(widths[level], width, size, stride=size)
                self.project[key] = nn.Identity()
                continue
            between = widths[4] if level == 4 else patch_widths[level]
            self.patch[key] = nn.Identity() if level == 4 else nn.Conv2d(widths[level], between, size, stride=size)
            self.project[key] = nn.Conv2d(between, width, 1)
        self.level_embedding = nn.Parameter(torch.empty(len(self.levels), width))

    def forward(self, pyramid: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Tokens as maps, before the level embedding."""
        return {k: self.project[str(k)](self.patch[str(k)](pyramid[k])) for k in self.levels}

    def as_tokens(self, level: int, token_map: Tensor) -> Tensor:
        """(N, D, grid, grid) -> (N, T, D) with the level embedding added (so it is in keys and values)."""
        return token_map.flatten(2).transpose(1, 2) + self.level_embedding[self.levels.index(level)]
