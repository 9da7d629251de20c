"""One map a level: how far the reconstruction is from its target (spec section 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.filters import GaussianBlur
from unias.model.losses import cosine_similarity
from unias.model.unias import Reconstruction


def cosine_distance(target: Tensor, output: Tensor) -> Tensor:
    """1 - cosine similarity over channels (eps 1e-8): (N, C, H, W) twice -> (N, H, W) in [0, 2]."""
    return 1 - cosine_similarity(target, output)


class SmoothedLevel(nn.Module):
    """A level's distance, bilinear to level 1's size (align_corners=False), then smoothed (sigma = kernel / 3)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.blur = GaussianBlur(kernel, kernel / 3)

    def forward(self, distance: Tensor, size: int) -> Tensor:
        """(N, H_k, W_k) -> (N, size, size)."""
        lifted = F.interpolate(distance[:, None], size=(size, size), mode="bilinear", align_corners=False)
        out: Tensor = self.blur(lifted)[:, 0]
        return out


class LevelMaps(nn.Module):
    """Reconstruction -> {level: (N, size / 2, size / 2)}, coarse to fine.

    Args:
        kernels: smoothing kernels of levels 4, 3, 2, 1.
        size: side of level 1's map.
    """

    def __init__(self, kernels: Sequence[int], size: int) -> None:
        super().__init__()
        self.size = size
        self.smooth = nn.ModuleDict(
            {str(k): SmoothedLevel(kernel) for k, kernel in zip((4, 3, 2, 1), kernels, strict=True)}
        )

    def forward(self, distances: dict[int, Tensor]) -> dict[int, Tensor]:
        return {k: self.smooth[str(k)](distance, self.size) for k, distance in distances.items()}


def cosine_distances(reconstruction: Reconstruction) -> dict[int, Tensor]:
    """{level: (N, H_k, W_k)} at each level's own size."""
    return {k: cosine_distance(reconstruction.targets[k], output) for k, output in reconstruction.outputs.items()}


def to_input_size(fused: Tensor, size: int) -> Tensor:
    """The fused map (N, h, h) -> (N, size, size), bilinear with align_corners=TRUE (spec section 8)."""
    return F.interpolate(fused[:, None], size=(size, size), mode="bilinear", align_corners=True)[:, 0]


def product_fusion(levels: dict[int, Tensor]) -> Tensor:
    """The paper's fusion: the product of the level maps, (N, h, h)."""
    return torch.stack(list(levels.values())).prod(dim=0)
