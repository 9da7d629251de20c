"""What good parts of each product look like to the trained model: fitted on training photos alone, kept in the model.

Legend: P products, F pooled features, n photos, h x h the size of level maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unias.config import LEVELS
from unias.maps.fusion import Rule
from unias.model.filters import GaussianBlur

POOL_SHRINK, SHRINK = 0.1, 1e-3  # of each pooled feature's variance, and of their mean, added to the diagonal
NOISE_FLOOR = 0.02  # of the local noise, as a share of the product's mean: quiet surroundings do not blow a map up
LEAST_PHOTOS = 8  # of a product, for a word on what is no product at all
BESIDE = 0.65  # where a model knows one product only, another one counts as lying at this part of the distance
TINY = 1e-12
SUM = Rule((1.0, 1.0, 1.0, 1.0), 1.0)
SPREAD_LEVELS = (3, 2)  # the levels whose local noise decides; the finest is noisy everywhere, the coarsest nowhere


def pool(features: Mapping[int, Tensor]) -> Tensor:
    """The frozen features' spatial means, levels coarse to fine: (N, F)."""
    return torch.cat([features[level].float().mean(dim=(2, 3)) for level in LEVELS], dim=1)


class ProductStatistics(nn.Module):
    """Per product: the class mean of pooled features, the level maps' means, and how far surroundings decide.

    Buffers: prototypes (P, F), whitening (F, F), reach (P,), level_mean (P, 4) with columns for levels 4, 3, 2, 1, local_share
    (P,) in [0, 1], weights (P, 4), power (P,) and wide (P,) in [0, 1] of the fusion. They change nothing until they are fitted.
    """

    prototypes: Tensor
    whitening: Tensor
    reach: Tensor
    level_mean: Tensor
    local_share: Tensor
    weights: Tensor
    power: Tensor
    wide: Tensor

    def __init__(self, products: Sequence[str], channels: Mapping[int, int], rule: Rule = SUM) -> None:
        super().__init__()
        self.products = tuple(products)
        count, pooled = len(self.products), sum(channels[level] for level in LEVELS)
        self.register_buffer("prototypes", torch.zeros(count, pooled))
        self.register_buffer("whitening", torch.eye(pooled))
        self.register_buffer("reach", torch.full((count,), torch.inf))
        self.register_buffer("level_mean", torch.ones(count, len(LEVELS)))
        self.register_buffer("local_share", torch.zeros(count))
        self.register_buffer("weights", torch.tensor(rule.weights).repeat(count, 1))
        self.register_buffer("power", torch.full((count,), float(rule.power)))
        self.register_buffer("wide", torch.full((count,), float(rule.wide)))

    @torch.no_grad()
    def set_rule(self, index: int, rule: Rule) -> None:
        """Fuse one product's levels by another rule."""
        self.weights[index] = torch.tensor(rule.weights)
        self.power[index] = rule.power
        self.wide[index] = float(rule.wide)

    def rule(self, index: int) -> Rule:
        """By which one product's levels are fused."""
        first, second, third, fourth = self.weights[index].tolist()
        return Rule((first, second, third, fourth), float(self.power[index]), float(self.wide[index]))

    def recognise(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(product, novelty) of each photo, (N,) int64 and (N,) float32.

        product: the nearest class mean of pooled features, distances by their covariance within products (Mahalanobis), so
        that what varies within every product tells little. novelty: above 1 the photo is of no product that the model knows.
        It is the distance over the product's reach, times the distance over that of the second nearest product: a badly
        broken part lies far from its own product, but it comes no nearer to another one, and what is neither lies far from both.

        Differences are taken before squares are summed: a matrix product would cancel, and by batch size.
        """
        apart = (pooled @ self.whitening)[:, None] - (self.prototypes @ self.whitening)[None]
        squares = apart.square().sum(dim=2)
        if len(self.products) == 1:
            return squares.argmin(dim=1), BESIDE * squares[:, 0].sqrt() / self.reach[0]
        nearest, which = squares.topk(2, dim=1, largest=False)
        product = which[:, 0]
        return product, nearest[:, 0] / nearest[:, 1].clamp_min(TINY).sqrt() / self.reach[product]

    def nearest(self, pooled: Tensor) -> Tensor:
        """The product of each photo, (N,) int64."""
        return self.recognise(pooled)[0]

    @torch.no_grad()
    def fit_prototypes(self, pooled: Tensor, product: Tensor, reach: float) -> None:
        """pooled (n, F) and product (n,) of training photos; the covariance is shrunk towards its diagonal.

        A product reaches ``reach`` times as far as the farthest of its own photos, each measured as if it had not been among
        them (exactly so but for the shrinkage): with few photos the others say little of where the next one lies. With fewer
        than ``LEAST_PHOTOS`` nothing is said, and no photo is ever too far.
        """
        rows = pooled.cpu().double()
        within = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        for index in range(len(self.products)):
            own = rows[product.cpu() == index]
            mean = own.mean(dim=0)
            self.prototypes[index] = mean.float()
            within += (own - mean).T @ (own - mean)
        within = within / max(1, len(rows))
        spread = within.diagonal()
        floor = SHRINK * spread.mean() + 1e-12
        within = within + torch.diag(POOL_SHRINK * spread + floor)
        self.whitening.copy_(torch.linalg.cholesky(torch.linalg.inv(within)).float())
        for index in range(len(self.products)):
            own = rows[product.cpu() == index]
            if len(own) < LEAST_PHOTOS:
                self.reach[index] = torch.inf
                continue
            whitening = self.whitening.cpu().double()
            squares = ((own - self.prototypes[index].cpu().double()) @ whitening).square().sum(dim=1)
            left = len(own) / (
                len(own) - 1
            )  # the mean moves away from a photo that is left out, the covariance shrinks
            squares = left**2 * squares / (1 - squares * left / len(rows)).clamp_min(1e-3)
            self.reach[index] = reach * float(squares.max().sqrt())

    @torch.no_grad()
    def fit_levels(self, index: int, levels: Mapping[int, Tensor], blur: GaussianBlur | None, spread: float) -> None:
        """One product's level means, and its local share, from level maps {level: (n, h, h)} of training photos.

        The local share says whether a level map is judged against the product's mean noise (0) or against its own
        surroundings in the photo (1). Where parts lie still or surfaces are even, the noise around a place is much the same
        in every good photo; where no two parts are alike (printed boards), it differs by factors from photo to photo, and
        only the surroundings tell what is usual. Measured: s = deviation over photos, at the same place, of the log of the
        local noise, mean over SPREAD_LEVELS; share = s^4 / (s^4 + spread^4).
        """
        for level, maps in levels.items():
            self.level_mean[index, LEVELS.index(level)] = maps.mean()
        if blur is None or len(next(iter(levels.values()))) < 2:
            return
        chosen = [level for level in SPREAD_LEVELS if level in levels] or list(levels)
        deviation = 0.0
        for level in chosen:
            maps = levels[level]
            local = blur((maps / maps.mean().clamp_min(1e-12))[:, None])[:, 0] + NOISE_FLOOR
            deviation += float(local.log().var(dim=0).mean().sqrt()) / len(chosen)
        self.local_share[index] = deviation**4 / (deviation**4 + spread**4)
