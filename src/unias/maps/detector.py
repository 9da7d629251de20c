"""Photo in, anomaly map out: backbone, UniAS, level maps, fusion and the product's statistics in one module.

This is the only path from pixels to a map: training's cuts, prediction and evaluation all take it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unias.backbones.timm_backbone import FrozenBackbone
from unias.config import LEVELS, STRIDES, MapConfig, Tiling
from unias.maps.fusion import Rule, power_mean
from unias.maps.levels import LevelMaps, cosine_distances, product_fusion, to_input_size
from unias.maps.statistics import NOISE_FLOOR, ProductStatistics, pool
from unias.maps.tiling import Blend, photo_means, unfolded
from unias.model.filters import GaussianBlur
from unias.model.unias import Reconstruction, UniAS


class Maps(NamedTuple):
    """What a batch of N photos gives.

    Attributes:
        product: (N,) int64, index into the model's products.
        anomaly_map: (N, S, S), not negative, higher is more anomalous.
        levels: {level: (N, S/2, S/2)}, coarse to fine; empty for systems without levels.
        score: (N,), what photos are judged by; None = the map decides (``calibration.verdict``).
        novelty: (N,), above 1 where a photo is of no product that the model knows; None where the product was told.
    """

    product: Tensor
    anomaly_map: Tensor
    levels: dict[int, Tensor]
    score: Tensor | None = None
    novelty: Tensor | None = None

    def scores(self) -> Tensor:
        """(N,), higher is more anomalous, where regions of one pixel count and nothing is ignored."""
        return self.anomaly_map.amax(dim=(1, 2)) if self.score is None else self.score


class Detector(nn.Module):
    """(N, 3, S, S) in [0, 1] -> Maps. Where photos are tiled S is the side of the whole, and features and reconstructions are
    those of its views, photo by photo; level maps, and all that comes of them, are the photo's again.

    Args:
        size: side of the square that UniAS sees: of a photo, or of a view.
        config: fusion and smoothing.
        tiling: how photos are cut into views; None = not at all.

    Attributes:
        compute_type: what UniAS computes in under autocast, or None for float32. All else is float32 always.
    """

    compute_type: torch.dtype | None = None

    def __init__(
        self,
        backbone: FrozenBackbone,
        unias: UniAS,
        statistics: ProductStatistics,
        config: MapConfig,
        size: int,
        tiling: Tiling | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.unias = unias
        self.statistics = statistics
        self.config = config
        self.tiling = tiling or Tiling(1, size, 0)
        self.size = self.tiling.side
        self.blend = Blend(self.tiling, STRIDES[1])
        self.level_maps = LevelMaps(config.kernels, size // 2)
        self.local = _blur(config.local_sigma * size / 224)
        self.wide = _blur(config.wide_sigma * size / 224)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.unias.parameters()).device

    def compose(self) -> None:
        """Compose what is linear, for use."""
        self.unias.fuse()

    def forward(self, images: Tensor, product: Tensor | None = None) -> Maps:
        """``product`` (N,) says which product each photo is; None = it is recognised."""
        return self.from_features(self.features(images), product)

    def features(self, images: Tensor) -> dict[int, Tensor]:
        """The frozen backbone's, of every view."""
        found: dict[int, Tensor] = self.backbone(unfolded(images, self.tiling))
        return found

    def pooled(self, features: Mapping[int, Tensor]) -> Tensor:
        """What products are recognised by: (N, F), the mean over a photo's views."""
        return photo_means(pool(features), self.tiling.views)

    def from_features(self, features: Mapping[int, Tensor], product: Tensor | None = None) -> Maps:
        """The same from the backbone's features, which may come from a cache."""
        novelty = None
        if product is None:
            product, novelty = self.statistics.recognise(self.pooled(features))
        levels = self.levels_of(self.reconstruct(features))
        return Maps(product, to_input_size(self.fuse(levels, product), self.size), levels, novelty=novelty)

    def reconstruct(self, features: Mapping[int, Tensor]) -> Reconstruction:
        """Targets and outputs of UniAS, in float32 whatever it computed in."""
        if self.compute_type is None:
            reconstruction: Reconstruction = self.unias(features)
            return reconstruction
        with torch.autocast(self.device.type, dtype=self.compute_type):
            targets, outputs = self.unias(features)
        return Reconstruction({k: v.float() for k, v in targets.items()}, {k: v.float() for k, v in outputs.items()})

    def levels_of(self, reconstruction: Reconstruction) -> dict[int, Tensor]:
        """The smoothed level maps of whole photos, before fusion."""
        maps: dict[int, Tensor] = self.level_maps(cosine_distances(reconstruction))
        return self.blend.each(maps)

    def fuse(self, levels: Mapping[int, Tensor], product: Tensor) -> Tensor:
        """product (paper): the levels multiplied. mean: the product's own rule (``maps.fusion``) over ``ratios``."""
        if self.config.fusion == "product":
            return product_fusion(dict(levels))
        statistics = self.statistics
        fused = power_mean(self.ratios(levels, product), statistics.weights[product], statistics.power[product])
        return fused if self.wide is None else self.widened(fused, statistics.wide[product])

    def widened(self, fused: Tensor, share: Tensor) -> Tensor:
        """(N, h, h), as much of it blurred as ``share`` (N,) says, 0 to 1."""
        assert self.wide is not None
        blurred: Tensor = self.wide(fused[:, None])[:, 0]
        return fused + share[:, None, None] * (blurred - fused)

    def ratios(self, levels: Mapping[int, Tensor], product: Tensor) -> dict[int, Tensor]:
        """Each level over what is usual: its product's mean on training photos, and, as far as the product's local share says,
        its surroundings in this photo."""
        share = self.statistics.local_share[product][:, None, None]
        found = {}
        for level, values in levels.items():
            usual = self.statistics.level_mean[product, LEVELS.index(level)].clamp_min(1e-12)
            values = values / usual[:, None, None]
            if self.local is not None:
                values = values / (self.local(values[:, None])[:, 0] + NOISE_FLOOR) ** share
            found[level] = values
        return found

    def maps_by(self, ratios: Mapping[int, Tensor], rules: Iterable[Rule]) -> Iterator[Tensor]:
        """The maps by other rules than the product's own; what a rule and its blurred twin share is computed once."""
        one = next(iter(ratios.values()))
        every = torch.ones(len(one), device=one.device)
        sharp: dict[Rule, Tensor] = {}
        for rule in rules:
            plain = rule._replace(wide=0.0)
            if plain not in sharp:
                weights = torch.tensor(rule.weights, device=one.device).expand(len(one), -1)
                sharp[plain] = power_mean(ratios, weights, rule.power * every)
            yield self.widened(sharp[plain], rule.wide * every) if rule.wide else sharp[plain]

    @property
    def default_rule(self) -> Rule:
        """The settings' own."""
        first, second, third, fourth = self.config.weights
        return Rule((first, second, third, fourth), self.config.power)


def _blur(sigma: float) -> GaussianBlur | None:
    """Two sigmas far; None for 0."""
    return GaussianBlur(2 * round(2 * sigma) + 1, sigma) if sigma > 0 else None
