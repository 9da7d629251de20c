"""UniAD as a system: losses, schedule, maps and score around ``nets/uniad.py`` (six-systems section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from unias.config import Config
from unias.errors import UsageError
from unias.presets import SOURCE_BACKBONE
from unias.systems.base import SCHEDULES, Found, Parts, Seen, System, at_least, check_transformer, config_of, one_of
from unias.systems.nets.tokens import enlarged, pooled_score
from unias.systems.nets.uniad import UniAD, UniADOutput
from unias.training.batches import Batch


@dataclass(frozen=True)
class UniADSettings:
    """The network's, the published values where not said otherwise, and the run's."""

    width: int = 256
    heads: int = 8
    ffn: int = 1024
    layers: int = 4
    dropout: float = 0.1
    jitter: float = 20.0
    window: int = 7
    clip: float = 0.1
    weight_decay: float = 1e-4
    standardize: bool = False  # features per channel to mean 0, deviation 1; published: as they come
    schedule: str = "drop"  # after four fifths of the steps that are made; published: after 801 of 1000 epochs

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        check_transformer(self.width, max(1, self.heads), self.dropout)
        at_least(1, width=self.width, heads=self.heads, ffn=self.ffn, layers=self.layers, window=self.window)


class UniADSystem(System):
    """You et al., NeurIPS 2022."""

    name: ClassVar[str] = "uniad"
    title: ClassVar[str] = "UniAD"
    source: ClassVar[str] = "You et al., NeurIPS 2022"
    Settings: ClassVar[type] = UniADSettings

    def __init__(self, settings: UniADSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        if settings.window % 2 == 0 or settings.window >= parts.size // 16:
            raise UsageError(
                f"window: {settings.window} must be odd and below the {parts.size // 16} tokens along a side, or the middle one "
                "sees nothing. Choose a smaller window or larger photos."
            )
        self.clip = settings.clip
        self.net = UniAD(
            sum(parts.channels.values()),
            parts.size // 16,
            width=settings.width,
            heads=settings.heads,
            ffn=settings.ffn,
            layers=settings.layers,
            dropout=settings.dropout,
            jitter=settings.jitter,
            window=settings.window,
        )

    @classmethod
    def presets(cls) -> dict[str, Config]:
        wishes = {"standardize": True, "jitter": 5.0, "dropout": 0.0, "schedule": "cosine"}
        small = config_of(cls.name, "small", wishes, batch_size=8, learning_rate=1e-3)
        paper = config_of(
            cls.name,
            "paper",
            {},
            backbone=SOURCE_BACKBONE,
            batch_size=8,
            learning_rate=1e-4,
            epochs=1000,
            cache=False,
            precision="32-true",
        )
        return {"small": small, "paper": paper}

    def forward(self, batch: Batch) -> UniADOutput:
        out: UniADOutput = self.net(self.scaled(batch.features))
        return out

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return {"mse": output.loss()}

    def find(self, seen: Seen) -> Found:
        output: UniADOutput = self.net(self.scaled(seen.features))
        maps = enlarged(UniADOutput(*(part.float() for part in output)).map(), self.parts.size)
        return Found(maps, pooled_score(maps))
