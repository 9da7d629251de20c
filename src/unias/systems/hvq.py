"""HVQ-Trans as a system: losses, schedule, maps and score around ``nets/hvq.py`` (six-systems section 2).

Its products' codebooks and heads are chosen by the product: told in training, recognised by the frozen features in use (the
released code takes the true one in use too).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from unias.config import Config
from unias.presets import SOURCE_BACKBONE
from unias.systems.base import SCHEDULES, Found, Parts, Seen, System, at_least, check_transformer, config_of, one_of
from unias.systems.nets.hvq import TRANSPORT, HVQOutput, HVQTrans
from unias.systems.nets.tokens import enlarged, pooled_score
from unias.training.batches import Batch


@dataclass(frozen=True)
class HVQSettings:
    """The network's, the published values where not said otherwise, and the run's."""

    width: int = 256
    heads: int = 8
    ffn: int = 1024
    codes: int = 512
    dropout: float = 0.1
    start: str = "ones"  # of the codes' counts; "authors": at 0, from which codes explode (nets/hvq.py)
    transport: float = TRANSPORT  # weight of the transport cost in the map
    clip: float = 0.1
    weight_decay: float = 1e-4
    standardize: bool = False  # features per channel to mean 0, deviation 1; published: as they come
    schedule: str = "drop"

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        check_transformer(self.width, max(1, self.heads), self.dropout)
        one_of("start", self.start, ("ones", "authors"))
        at_least(1, width=self.width, heads=self.heads, ffn=self.ffn, codes=self.codes)
        at_least(0, transport=self.transport)


class HVQSystem(System):
    """Lu et al., NeurIPS 2023."""

    name: ClassVar[str] = "hvq"
    title: ClassVar[str] = "HVQ-Trans"
    source: ClassVar[str] = "Lu et al., NeurIPS 2023"
    half_in_use: ClassVar[bool] = False
    Settings: ClassVar[type] = HVQSettings

    def __init__(self, settings: HVQSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        self.clip = settings.clip
        self.net = HVQTrans(
            sum(parts.channels.values()),
            len(parts.products),
            parts.size // 16,
            width=settings.width,
            heads=settings.heads,
            ffn=settings.ffn,
            codes=settings.codes,
            dropout=settings.dropout,
            start=settings.start,
        )

    @classmethod
    def presets(cls) -> dict[str, Config]:
        small = config_of(
            cls.name,
            "small",
            {"standardize": True, "width": 128, "ffn": 512, "codes": 64, "dropout": 0.0, "schedule": "cosine"},
            batch_size=8,
            learning_rate=1e-3,
            precision="32-true",  # nearest codes and their running means are not for half precision
        )
        paper = config_of(
            cls.name,
            "paper",
            {},
            backbone=SOURCE_BACKBONE,
            batch_size=16,
            learning_rate=1e-4,
            epochs=1000,
            cache=False,
            precision="32-true",
        )
        return {"small": small, "paper": paper}

    def forward(self, batch: Batch) -> HVQOutput:
        out: HVQOutput = self.net(self.scaled(batch.features), batch.product)
        return out

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return {"loss": output.loss()}

    def graph_form(self) -> None:
        super().graph_form()
        self.net.graph_form()

    def find(self, seen: Seen) -> Found:
        output: HVQOutput = self.net(self.scaled(seen.features), seen.product)
        maps = enlarged(HVQOutput(*(part.float() for part in output)).map(self.settings.transport), self.parts.size)
        return Found(maps, pooled_score(maps))
