"""PatchCore as a system: one bank for all products around ``nets/patchcore.py`` (six-systems section 6).

Ours and not anomalib's: its model keeps every embedding on the device twice before it chooses, enlarges maps by nearest
neighbour, and takes distances where the authors square them; ours is proven on the authors' numbers. Photos are resized
and not cropped (the authors crop 224 of 256), so that nothing at a part's border is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unias.config import BackboneConfig, Config
from unias.errors import UsageError
from unias.progress import Progress
from unias.systems.base import Found, Parts, Seen, System, at_least, config_of, one_of
from unias.systems.nets.patchcore import PatchCore, anomaly_map, authors_patches, image_score, patches
from unias.training.batches import Batch

FINE, COARSE = 3, 4  # levels at strides 8 and 16


@dataclass(frozen=True)
class PatchCoreSettings:
    """Attributes:
    embedding: "mean" for any backbone; "authors" where the coarse level has twice the channels (ResNets).
    ratio: share of the patches that the bank keeps. most: so many at most.
    pool: patches a product, at most, that the bank is chosen from; more photos give fewer each, drawn at random.
    """

    embedding: str = "mean"
    ratio: float = 0.1
    most: int = 20_000
    pool: int = 40_000
    sigma: float = 4.0

    def __post_init__(self) -> None:
        one_of("embedding", self.embedding, ("mean", "authors"))
        at_least(1, most=self.most, pool=self.pool)
        if not 0 < self.ratio <= 1 or not self.sigma > 0:
            raise UsageError("ratio must be in (0, 1], sigma above 0.")


class PatchCoreSystem(System):
    """Roth et al., CVPR 2022. Filled in one pass over the photos; few minutes make its bank smaller, many no larger."""

    name: ClassVar[str] = "patchcore"
    title: ClassVar[str] = "PatchCore"
    source: ClassVar[str] = "Roth et al., CVPR 2022"
    by_gradient: ClassVar[bool] = False
    half_in_use: ClassVar[bool] = False
    Settings: ClassVar[type] = PatchCoreSettings

    def __init__(self, settings: PatchCoreSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        channels = parts.channels
        if settings.embedding == "authors" and channels[COARSE] != 2 * channels[FINE]:
            raise UsageError(
                f"embedding: the authors' needs twice the channels at stride 16; this backbone has {channels[FINE]} and "
                f"{channels[COARSE]}. Use embedding: mean, or a ResNet."
            )
        self.memory = PatchCore(settings.ratio, settings.most)
        self.kept: dict[int, list[Tensor]] = {}

    @classmethod
    def presets(cls) -> dict[str, Config]:
        small = config_of(cls.name, "small", {}, batch_size=8)
        published = BackboneConfig(name="wide_resnet50_2.tv_in1k")
        wishes = {"embedding": "authors", "most": 300_000, "pool": 200_000}
        paper = config_of(cls.name, "paper", wishes, backbone=published, batch_size=8, cache=False)
        return {"small": small, "paper": paper}

    @classmethod
    def told(cls, settings: PatchCoreSettings) -> dict[str, Any]:
        found = super().told(settings)
        most, share, pool = (found.pop(name) for name in ("most", "ratio", "pool"))
        return {**found, "bank": f"at most {most} patches and a share of {share:g}, chosen from {pool} a product"}

    def embed(self, features: dict[int, Tensor]) -> Tensor:
        """(N, g, g, D)."""
        by = authors_patches if self.settings.embedding == "authors" else patches
        return by(features[FINE].float(), features[COARSE].float())

    def collect(self, batch: Batch) -> None:
        for vectors, product in zip(self.embed(batch.features), batch.product.tolist(), strict=True):
            self.kept.setdefault(product, []).append(vectors.flatten(0, 1).cpu())

    def finish(self, seed: int, seconds: float | None, progress: Progress) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        rows = []
        for product in sorted(self.kept):
            share = -(-self.settings.pool // len(self.kept[product]))  # patches a photo
            for vectors in self.kept[product]:
                chosen = rng.permutation(len(vectors))[:share]
                rows.append(vectors[torch.from_numpy(np.sort(chosen))])
        self.kept = {}
        self.memory.fill(torch.cat(rows).to(self.memory.bank.device), seed, seconds, progress)
        if len(self.memory.bank) < self.settings.most and seconds is not None:
            progress.say(
                f"the bank holds {len(self.memory.bank)} patches (repeat exactly with --set most={len(self.memory.bank)})"
            )
        return {"most": len(self.memory.bank)}

    def graph_form(self) -> None:
        super().graph_form()
        self.memory.in_graph = True

    def find(self, seen: Seen) -> Found:
        distances = self.memory(self.embed(dict(seen.features)))
        return Found(anomaly_map(distances, self.parts.size, self.settings.sigma), image_score(distances))
