"""Reconstruction losses (spec section 9). The model predicts, this names the losses, the training loop sums them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unias.model.unias import Reconstruction


def cosine_similarity(target: Tensor, output: Tensor, eps: float = 1e-8) -> Tensor:
    """Over channels: (N, C, H, W) twice -> (N, H, W), each norm at least ``eps``, in float32.

    Equals torch's to rounding; sums first and divides once a position, which spares three passes over C channels.
    """
    target, output = target.float(), output.float()
    dot = (target * output).sum(dim=1)
    lengths = torch.linalg.vector_norm(target, dim=1).clamp_min(eps) * torch.linalg.vector_norm(
        output, dim=1
    ).clamp_min(eps)
    similarity: Tensor = dot / lengths
    return similarity


@dataclass(frozen=True)
class LevelLosses:
    """The two plain means of each level: ``mse`` over all elements, ``cosine`` (not 1 - cosine) over images and positions."""

    mse: dict[int, Tensor]
    cosine: dict[int, Tensor]

    def total(self, weight: float = 10.0, cosine_sign: str = "paper") -> Tensor:
        """weight * sum over levels of mse + (1 - cosine). "released" adds + cosine instead: the published code's flipped
        sign, which pushes reconstructions away from their targets (spec section 12; for study only)."""
        terms = [self.mse[k] + (1 - self.cosine[k] if cosine_sign == "paper" else self.cosine[k]) for k in self.mse]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return weight * total


def level_losses(reconstruction: Reconstruction) -> LevelLosses:
    """Each level at its own size, in float32."""
    mse: dict[int, Tensor] = {}
    cosine: dict[int, Tensor] = {}
    for level, output in reconstruction.outputs.items():
        target = reconstruction.targets[level]
        mse[level] = F.mse_loss(output.float(), target.float())
        cosine[level] = cosine_similarity(target, output).mean()
    return LevelLosses(mse, cosine)
