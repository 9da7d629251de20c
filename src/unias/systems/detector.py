"""A system in use: photo in, anomaly map out, with the recognition of products that UniAS has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unias.backbones.timm_backbone import FrozenBackbone
from unias.maps.detector import Maps
from unias.maps.statistics import ProductStatistics, pool
from unias.systems.base import Found, Seen, System


class SystemDetector(nn.Module):
    """(N, 3, S, S) in [0, 1] -> Maps, without level maps.

    A system's image score need not be its map's maximum. ``map_scale`` (P,) brings each product's maps to the scale of its
    scores: their held-out maxima become equal, so that one cut serves verdict and mask. Within a product it changes no ranking.

    Attributes:
        compute_type: what the system computes in under autocast, or None for float32.
    """

    map_scale: Tensor
    compute_type: torch.dtype | None = None

    def __init__(self, backbone: FrozenBackbone, system: System, statistics: ProductStatistics, size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.system = system
        self.statistics = statistics
        self.size = size
        self.register_buffer("map_scale", torch.ones(len(statistics.products)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    def compose(self) -> None:
        """Nothing is composed for use here."""

    def forward(self, images: Tensor, product: Tensor | None = None) -> Maps:
        """``product`` (N,) says which product each photo is; None = it is recognised."""
        features: Mapping[int, Tensor] = {}
        novelty = None
        if product is None or self.system.reads == "features":
            features = self.backbone(images)
        if product is None:
            product, novelty = self.statistics.recognise(pool(features))
        return self.judge(Seen(images, features, product), novelty)

    def judge(self, seen: Seen, novelty: Tensor | None = None) -> Maps:
        """The same of photos whose product is known, or has been recognised."""
        found = self._find(seen)
        scale = self.map_scale[seen.product][:, None, None]
        return Maps(seen.product, found.anomaly_map.float() * scale, {}, found.score.float(), novelty)

    def _find(self, seen: Seen) -> Found:
        if self.compute_type is None or not self.system.half_in_use:
            return self.system.find(seen)
        with torch.autocast(self.device.type, dtype=self.compute_type):
            return self.system.find(seen)
