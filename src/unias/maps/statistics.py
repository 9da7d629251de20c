"""What good parts of each product look like to the trained model: fitted on training photos alone, kept in the model.

Legend: P products, F pooled features, C channels of a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from unias.config import LEVELS
from unias.model.unias import Reconstruction

SHRINK = 0.01  # share of the mean variance added to every residual variance, so that no direction counts without bound


def pool(features: Mapping[int, Tensor]) -> Tensor:
    """The frozen features' spatial means, levels coarse to fine: (N, F)."""
    return torch.cat([features[level].float().mean(dim=(2, 3)) for level in LEVELS], dim=1)


class ProductStatistics(nn.Module):
    """Per product: the class mean of pooled features, the residual's mean and whitening a level, the level maps' means.

    Buffers: prototypes (P, F), pool_scale (F,), residual_mean_k (P, C_k), whitening_k (P, C_k, C_k), level_mean (P, 4) with
    columns for levels 4, 3, 2, 1. They change nothing until they are fitted.
    """

    prototypes: Tensor
    pool_scale: Tensor
    level_mean: Tensor

    def __init__(self, products: Sequence[str], channels: Mapping[int, int], whitened: bool) -> None:
        super().__init__()
        self.products = tuple(products)
        self.channels = dict(channels)
        self.whitened = whitened
        count, pooled = len(self.products), sum(channels[level] for level in LEVELS)
        self.register_buffer("prototypes", torch.zeros(count, pooled))
        self.register_buffer("pool_scale", torch.ones(pooled))
        self.register_buffer("level_mean", torch.ones(count, len(LEVELS)))
        if whitened:
            for level in LEVELS:
                self.register_buffer(f"residual_mean_{level}", torch.zeros(count, channels[level]))
                self.register_buffer(f"whitening_{level}", torch.eye(channels[level]).repeat(count, 1, 1))

    def nearest(self, pooled: Tensor) -> Tensor:
        """The product of each photo, (N,) int64: the nearest class mean, each pooled feature over its spread within
        products."""
        apart = torch.cdist(pooled / self.pool_scale, self.prototypes / self.pool_scale)
        return apart.argmin(dim=1)

    def whiten(self, level: int, residual: Tensor, product: Tensor) -> Tensor:
        """Squared Mahalanobis distance of the residual (N, C, H, W) under its product's good residuals, over C, so that
        good positions average about 1: (N, H, W)."""
        mean = getattr(self, f"residual_mean_{level}")[product]
        matrix = getattr(self, f"whitening_{level}")[product]
        n, channels, height, width = residual.shape
        centred = (residual - mean[:, :, None, None]).flatten(2)
        return torch.bmm(matrix, centred).square().mean(dim=1).view(n, height, width)

    @torch.no_grad()
    def fit_prototypes(self, pooled: Tensor, product: Tensor) -> None:
        """pooled (N, F) and product (N,) of training photos."""
        spread = torch.zeros_like(self.pool_scale)
        for index in range(len(self.products)):
            rows = pooled[product == index]
            self.prototypes[index] = rows.mean(dim=0)
            spread += (rows - self.prototypes[index]).square().sum(dim=0)
        scale = (spread / max(1, len(pooled))).sqrt()
        self.pool_scale.copy_(scale.clamp_min(1e-6 + 1e-3 * float(scale.mean())))

    @torch.no_grad()
    def fit_residuals(self, index: int, reconstructions: Iterable[Reconstruction]) -> None:
        """Mean and whitening of one product's residuals, in float64 sums over all positions of its training photos."""
        sums: dict[int, Tensor] = {}
        squares: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        for reconstruction in reconstructions:
            for level, output in reconstruction.outputs.items():
                rows = (reconstruction.targets[level] - output).float().transpose(0, 1).flatten(1).cpu().double()
                sums[level] = sums.get(level, torch.zeros(len(rows), dtype=torch.float64)) + rows.sum(dim=1)
                squares[level] = squares.get(level, torch.zeros(1, dtype=torch.float64)) + rows @ rows.T
                counts[level] = counts.get(level, 0) + rows.shape[1]
        for level, total in sums.items():
            mean = total / counts[level]
            covariance = squares[level] / counts[level] - torch.outer(mean, mean)
            ridge = SHRINK * covariance.diagonal().mean().clamp_min(1e-12)
            covariance = covariance + ridge * torch.eye(len(mean), dtype=torch.float64)
            inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
            getattr(self, f"residual_mean_{level}")[index] = mean.float()
            getattr(self, f"whitening_{level}")[index] = inverse.float()
