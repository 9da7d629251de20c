"""RD4AD as a system: losses and maps around ``nets/rd4ad.py`` or the published mirror of a ResNet (six-systems section 4).

The mirror's decoder is anomalib's. Its bottleneck is anomalib's class at the authors' width: what anomalib builds by itself
is half as wide for wide networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unias.config import BackboneConfig, Config
from unias.errors import UsageError
from unias.systems.base import SCHEDULES, Found, Parts, Seen, System, at_least, config_of, one_of
from unias.systems.from_anomalib import published_rd4ad
from unias.systems.nets.rd4ad import LEVELS, RD4AD, anomaly_map, whole_map_loss
from unias.systems.nets.smoothing import blurred
from unias.training.batches import Batch


@dataclass(frozen=True)
class RD4ADSettings:
    """Attributes:
    mirror: "" = our net for any backbone, of ``width`` and ``depth``; else the ResNet that is mirrored block by block
        (resnet18, wide_resnet50_2, ...; extra ``bench``), which must be the backbone.
    """

    mirror: str = ""
    width: int = 64
    depth: int = 2
    sigma: float = 4.0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        at_least(1, width=self.width, depth=self.depth)
        at_least(0.1, sigma=self.sigma)


class Mirror(nn.Module):
    """{2, 3, 4: ...} -> the same, rebuilt by the published nets."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.bottleneck, self.decoder = published_rd4ad(name)

    def forward(self, features: Mapping[int, Tensor]) -> dict[int, Tensor]:
        code = self.bottleneck([features[k] for k in LEVELS])
        return dict(zip(LEVELS, self.decoder(code), strict=True))


class RD4ADSystem(System):
    """Deng and Li, CVPR 2022."""

    name: ClassVar[str] = "rd4ad"
    title: ClassVar[str] = "RD4AD"
    source: ClassVar[str] = "Deng and Li, CVPR 2022"
    Settings: ClassVar[type] = RD4ADSettings

    def __init__(self, settings: RD4ADSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        self.net: nn.Module
        if settings.mirror:
            self.net = Mirror(settings.mirror)
            widths = {k: parts.channels[k] for k in LEVELS}
            rebuilt = _widths(self.net)
            if widths != rebuilt:
                raise UsageError(
                    f"mirror: {settings.mirror} rebuilds {list(rebuilt.values())} channels, the backbone has "
                    f"{list(widths.values())}. Choose the same ResNet for both, or leave mirror empty."
                )
        else:
            self.net = RD4AD(parts.channels, width=settings.width, depth=settings.depth)

    @classmethod
    def presets(cls) -> dict[str, Config]:
        small = config_of(cls.name, "small", {"schedule": "cosine"}, batch_size=16, learning_rate=5e-3)
        paper = config_of(
            cls.name,
            "paper",
            {"mirror": "wide_resnet50_2"},
            backbone=BackboneConfig(name="wide_resnet50_2.tv_in1k"),
            size=256,
            batch_size=16,
            learning_rate=5e-3,
            epochs=200,
            cache=False,
            precision="32-true",
        )
        return {"small": small, "paper": paper}

    def optimizers(self, device: torch.device) -> list[torch.optim.Optimizer]:
        fused = device.type in ("cpu", "cuda")
        rate = self.parts.train.learning_rate
        return [torch.optim.Adam(self.parameters(), lr=rate, betas=(0.5, 0.999), fused=fused)]

    def forward(self, batch: Batch) -> dict[int, Tensor]:
        out: dict[int, Tensor] = self.net(batch.features)
        return out

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return {"cosine": whole_map_loss(batch.features, {k: v.float() for k, v in output.items()})}

    def find(self, seen: Seen) -> Found:
        outputs = {k: v.float() for k, v in self.net(seen.features).items()}
        maps = blurred(anomaly_map(seen.features, outputs, self.parts.size), self.settings.sigma)
        return Found(maps.clamp_min(0), maps.amax(dim=(1, 2)))


def _widths(net: nn.Module) -> dict[int, int]:
    """{level: channels} that the decoder gives: half of each stage's input."""
    decoder: Any = net.decoder
    stages = {4: decoder.layer1, 3: decoder.layer2, 2: decoder.layer3}
    return {k: [m for m in stages[k].modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features for k in LEVELS}
