"""From pyramid maps to tokens on one grid (spec section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.fused import Composable, FusedPatch, compose_patch, composed_patch_is_cheaper

PATCH = {1: 8, 2: 4, 3: 2, 4: 1}


class TokenEmbedding(Composable):
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
        self.fused = nn.ModuleDict()
        self.level_embedding = nn.Parameter(torch.empty(len(self.levels), width))

    def forward(self, pyramid: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Tokens as maps, before the level embedding."""
        return {k: self._embed(str(k), pyramid[k]) for k in self.levels}

    def _embed(self, key: str, y: Tensor) -> Tensor:
        """One level's map, in the form that ``Composable`` says."""
        patch, project = self.patch[key], self.project[key]
        if self.form != "plain" and isinstance(patch, nn.Conv2d) and isinstance(project, nn.Conv2d):
            if self.form == "auto" and key in self.fused:
                fused: Tensor = self.fused[key](y)
                return fused
            tokens = (y.shape[-1] // patch.stride[0]) ** 2
            cheaper = self.training and composed_patch_is_cheaper(y.shape[0], tokens, patch, project)
            if self.form == "composed" or cheaper:
                kernel, bias = compose_patch(patch, project)
                return F.conv2d(y, kernel, bias, stride=patch.stride)
        out: Tensor = project(patch(y))
        return out

    @torch.no_grad()
    def fuse(self, grid: int) -> None:
        """Two convolutions become one where there are two: levels 3, 2 and 1 with ``patch_widths``."""
        for key in self.patch:
            patch, project = self.patch[key], self.project[key]
            if isinstance(patch, nn.Conv2d) and isinstance(project, nn.Conv2d):
                self.fused[key] = FusedPatch(*compose_patch(patch, project))

    def unfuse(self) -> None:
        self.fused = nn.ModuleDict()

    def as_tokens(self, level: int, token_map: Tensor) -> Tensor:
        """(N, D, grid, grid) -> (N, T, D) with the level embedding added (so it is in keys and values)."""
        return token_map.flatten(2).transpose(1, 2) + self.level_embedding[self.levels.index(level)]
