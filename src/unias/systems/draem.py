"""DRAEM as a system: losses, schedule, map and score around anomalib's two nets (six-systems section 5).

Widths and side are settings because two cores cannot train the published ones: every table says them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.config import Config
from unias.errors import UsageError
from unias.systems.base import Found, Parts, Seen, Shrink, System, at_least, check_side, config_of, shrunk
from unias.systems.corruption import SometimesCorrupted, Textures
from unias.systems.from_anomalib import draem_nets, require_anomalib
from unias.training.batches import Batch

PUBLISHED_SIDE, POOLED = 256, 21  # the score is the highest mean of so many pixels squared, at that side
WINDOW, SIGMA = 11, 1.5  # of SSIM
STABLE = ((0.01) ** 2, (0.03) ** 2)


@dataclass(frozen=True)
class DRAEMSettings:
    """Attributes:
    reconstructive, discriminative: base widths; published 128 and 64.
    side: pixels that photos are resized to inside; maps come back at the model's size. 0 = the model's size.
    probability: of a photo being corrupted. turned: of the clean photo being rotated first.
    textures: folder of photos that are blended in (DTD); "" = procedural ones and scikit-image's.
    """

    reconstructive: int = 128
    discriminative: int = 64
    side: int = 0
    probability: float = 0.5
    turned: float = 0.3
    textures: str = ""

    def __post_init__(self) -> None:
        at_least(4, reconstructive=self.reconstructive, discriminative=self.discriminative)
        check_side(self.side)
        if not 0 <= self.probability <= 1 or not 0 <= self.turned <= 1:
            raise UsageError("probability and turned must be in [0, 1].")


class DRAEMSystem(System):
    """Zavrtanik et al., ICCV 2021."""

    name: ClassVar[str] = "draem"
    title: ClassVar[str] = "DRAEM"
    source: ClassVar[str] = "Zavrtanik et al., ICCV 2021"
    reads: ClassVar[str] = "pixels"
    Settings: ClassVar[type] = DRAEMSettings

    def __init__(self, settings: DRAEMSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        self.side = settings.side or parts.size
        self.reconstructive, self.discriminative = draem_nets(settings.reconstructive, settings.discriminative)
        self.apply(_start)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def require(cls) -> None:
        require_anomalib("draem")

    @classmethod
    def presets(cls) -> dict[str, Config]:
        wishes = {"reconstructive": 32, "discriminative": 32, "side": 160}
        small = config_of(cls.name, "small", wishes, batch_size=8, learning_rate=3e-4)
        paper = config_of(
            cls.name,
            "paper",
            {},
            size=256,
            batch_size=8,
            learning_rate=1e-4,
            epochs=700,
            cache=False,
            precision="32-true",
        )
        return {"small": small, "paper": paper}

    def corruption(self) -> SometimesCorrupted:
        s = self.settings
        return SometimesCorrupted(
            Textures(s.textures or None, self.parts.size, self.parts.train.seed), s.probability, s.turned
        )

    def optimizers(self, device: torch.device) -> list[torch.optim.Optimizer]:
        fused = device.type in ("cpu", "cuda")
        return [torch.optim.Adam(self.parameters(), lr=self.parts.train.learning_rate, fused=fused)]

    def share(self, done: float) -> float:
        """A fifth from four fifths of the steps on, a twenty-fifth from nine tenths on."""
        return 1.0 if done < 0.8 else 0.2 if done < 0.9 else 0.04

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Reconstruction (N, 3, s, s), logits (N, 2, s, s)."""
        assert batch.images is not None
        return self._both(shrunk(batch.images, self.side))

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        reconstruction, logits = output
        assert batch.clean is not None
        assert batch.mask is not None
        clean = shrunk(batch.clean, self.side)
        mask = (shrunk(batch.mask, self.side) >= 0.5).float()
        return {
            "l2": F.mse_loss(reconstruction, clean),
            "ssim": ssim_loss(reconstruction, clean),
            "focal": focal_loss(logits.softmax(dim=1), mask),
        }

    def graph_form(self) -> None:
        super().graph_form()
        self.shrink = Shrink(self.parts.size, self.side) if self.side != self.parts.size else nn.Identity()

    def find(self, seen: Seen) -> Found:
        _, logits = self._both(self.shrink(seen.images) if self.in_graph else shrunk(seen.images, self.side))
        own = logits.float().softmax(dim=1)[:, 1:]
        size = self.parts.size
        maps = own if self.side == size else F.interpolate(own, size=(size, size), mode="bilinear", align_corners=False)
        return Found(maps[:, 0], pooled_maximum(own[:, 0], round(POOLED * self.side / PUBLISHED_SIDE) | 1))

    def _both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction = self.reconstructive(images)
        logits: Tensor = self.discriminative(torch.cat([reconstruction, images], dim=1))
        return reconstruction, logits


def pooled_maximum(maps: Tensor, window: int = POOLED) -> Tensor:
    """(N, s, s) -> (N,): the largest mean of a square, beyond the border counted as 0."""
    return F.avg_pool2d(maps[:, None], window, stride=1, padding=window // 2).amax(dim=(1, 2, 3))


def ssim_loss(one: Tensor, other: Tensor) -> Tensor:
    """1 - mean structural similarity of (N, 3, s, s) in a range of 1; Gaussian window, zeros beyond the border."""
    offsets = torch.arange(WINDOW, dtype=torch.float32, device=one.device) - WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    line = line / line.sum()
    kernel = (line[:, None] * line[None]).expand(one.shape[1], 1, WINDOW, WINDOW).contiguous()

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, padding=WINDOW // 2, groups=x.shape[1])

    m1, m2 = mean(one), mean(other)
    v1, v2, both = mean(one * one) - m1 * m1, mean(other * other) - m2 * m2, mean(one * other) - m1 * m2
    similar = ((2 * m1 * m2 + STABLE[0]) * (2 * both + STABLE[1])) / (
        (m1 * m1 + m2 * m2 + STABLE[0]) * (v1 + v2 + STABLE[1])
    )
    return 1 - similar.mean()


def focal_loss(likely: Tensor, mask: Tensor, gamma: float = 2.0, smooth: float = 1e-5) -> Tensor:
    """likely (N, 2, s, s), mask (N, 1, s, s) of 0 and 1: -(1 - p)^gamma log p of the true class, mean over pixels."""
    truth = torch.cat([1 - mask, mask], dim=1).clamp(smooth, 1 - smooth)
    chance = (truth * likely).sum(dim=1) + smooth
    return (-((1 - chance) ** gamma) * chance.log()).mean()


def _start(module: nn.Module) -> None:
    """The authors' start."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
