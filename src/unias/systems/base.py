"""What a system beside UniAS is: one class with settings, a loss or a memory, and maps. docs/systems.md adds one.

Legend: N photos, S x S the model's input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.backbones.timm_backbone import FrozenBackbone
from unias.config import BackboneConfig, Config, TrainConfig, from_dict
from unias.errors import UsageError
from unias.model.filters import Standardize
from unias.progress import Progress
from unias.systems.corruption import Corruption
from unias.training.batches import Batch

SCHEDULES = ("constant", "drop", "cosine")


@dataclass(frozen=True)
class Parts:
    """What a system is built around.

    Attributes:
        backbone: frozen; shared with the recognition of products, so a system must not register it as its own.
        products: in the order of their indices.
        size: S.
        backbone_name: timm's.
        train: settings of the run; of these a system reads ``batch_size``, ``learning_rate`` and ``seed``.
        half: whether steps are made under bfloat16 autocast.
    """

    backbone: FrozenBackbone
    products: tuple[str, ...]
    size: int
    backbone_name: str
    train: TrainConfig
    half: bool = False

    @property
    def channels(self) -> dict[int, int]:
        """{level: channels} of the backbone, level 1 = stride 2 ... 4 = stride 16."""
        return self.backbone.channels


class Seen(NamedTuple):
    """N photos in use. images (N, 3, S, S) in [0, 1]; features {level: (N, C, H, W)}; product (N,) int64."""

    images: Tensor
    features: Mapping[int, Tensor]
    product: Tensor


class Found(NamedTuple):
    """anomaly_map (N, S, S), not negative; score (N,), what photos are ranked by. Higher is more anomalous."""

    anomaly_map: Tensor
    score: Tensor


class System(nn.Module):
    """One model for all products of a run. A subclass gives ``Settings``, ``presets``, ``find``, and either ``forward`` and
    ``loss`` (trained by gradients) or ``collect`` and ``finish`` (filled in one pass).

    Where the settings have ``standardize`` and it is True, ``scaled`` brings each channel of the features to mean 0 and deviation
    1 by the training photos' statistics, which the run fits before the first step; else it changes nothing.

    Attributes:
        name: what --system takes. title: for tables. source: paper and venue.
        reads: "features" of the frozen backbone, or "pixels".
        by_gradient: False for systems that are filled in one pass.
        half_in_use: False where the nearest of many is looked for, which half precision gets wrong.
        least_steps: with fewer a warning is given.
        clip: largest total L2 norm of the gradient; None = as it comes.
        in_graph: whether this is a copy that is being exported (``graph_form``).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    reads: ClassVar[str] = "features"
    by_gradient: ClassVar[bool] = True
    half_in_use: ClassVar[bool] = True
    least_steps: ClassVar[int] = 0
    Settings: ClassVar[type]
    clip: float | None = None
    in_graph: bool = False

    def __init__(self, settings: Any, parts: Parts) -> None:
        super().__init__()
        self.settings = settings
        self.standardize = nn.ModuleDict()
        if getattr(settings, "standardize", False):
            self.standardize.update({str(level): Standardize(count) for level, count in parts.channels.items()})
        self.parts = parts  # a plain dataclass: the backbone in it is not registered here

    @classmethod
    def presets(cls) -> dict[str, Config]:
        """ "small" for two CPU cores, and "paper" as published."""
        raise NotImplementedError

    @classmethod
    def require(cls) -> None:
        """Raises MissingError where a package that the system needs is not installed: before anything is computed."""

    @classmethod
    def settings_of(cls, config: Config) -> Any:
        """The system's own settings, checked. Raises UsageError for one that it does not have."""
        return from_dict(cls.Settings, dict(config.settings), f"settings of {cls.name}")

    @classmethod
    def told(cls, settings: Any) -> dict[str, Any]:
        """The system's own settings for tables, by name."""
        return asdict(settings)

    def scaled(self, features: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The features, standardised where the settings say so."""
        if not self.standardize:
            return dict(features)
        return {level: self.standardize[str(level)](values.float()) for level, values in features.items()}

    def find(self, seen: Seen) -> Found:
        """Maps and scores of photos in use."""
        raise NotImplementedError

    def graph_form(self) -> None:
        """Make ready for an export, in a copy: ``find`` must then come to the same without Python that depends on the photos
        (loops over them, ``tolist``) and without operators that runtimes lack. What needs more than ``in_graph`` extends it.
        """
        self.in_graph = True

    # Trained by gradients.

    def corruption(self) -> Corruption | None:
        """How photos are corrupted before a step sees them; None = not at all. For systems that read pixels."""
        return None

    def forward(self, batch: Batch) -> Any:
        """A step's output, under autocast where the precision says so."""
        raise NotImplementedError

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Its terms by name, scalars; their sum is minimised."""
        raise NotImplementedError

    def optimizers(self, device: torch.device) -> list[torch.optim.Optimizer]:
        """AdamW over all that is trained, unless a system says otherwise."""
        fused = device.type in ("cpu", "cuda")
        decay = float(getattr(self.settings, "weight_decay", 0.0))
        return [
            torch.optim.AdamW(self.parameters(), lr=self.parts.train.learning_rate, weight_decay=decay, fused=fused)
        ]

    def share(self, done: float) -> float:
        """The rate where ``done`` of the steps are made (0 to 1), as a share of its start."""
        return fallen(str(getattr(self.settings, "schedule", "constant")), done)

    def prepare(self, done: float) -> None:
        """Before a step: which parts are in training mode, where that changes on the way."""

    def times_first(self, batch: Batch) -> float:
        """Seconds of a step on average over the run, as a multiple of the first ones'."""
        return 1.0

    # Filled in one pass.

    def collect(self, batch: Batch) -> None:
        """Look at one batch of training photos."""
        raise NotImplementedError

    def finish(self, seed: int, seconds: float | None, progress: Progress) -> dict[str, Any]:
        """After the last batch, in ``seconds`` where minutes were given. Gives back the settings that repeat this exactly."""
        raise NotImplementedError


def fallen(schedule: str, done: float) -> float:
    """constant: 1. drop: a tenth after four fifths of the steps. cosine: to nought."""
    if schedule == "drop":
        return 1.0 if done < 0.8 else 0.1
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 1.0


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises UsageError for another value."""
    if value not in allowed:
        raise UsageError(f"{name}: {value!r} is not one of {', '.join(allowed)}.")


def at_least(least: float, **values: float) -> None:
    """Raises UsageError for a value below ``least``."""
    for name, value in values.items():
        if not value >= least:
            raise UsageError(f"{name}: {value} must be at least {least:g}.")


def check_transformer(width: int, heads: int, dropout: float) -> None:
    """Raises UsageError where the width does not divide by 4 and by the heads, or the dropout is no probability."""
    if width % 4 or width % heads:
        raise UsageError(f"width: {width} must divide by 4 and by heads ({heads}).")
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout: {dropout} must be in [0, 1).")


def check_side(side: int) -> None:
    """Raises UsageError for a side inside a system that is neither 0 nor a multiple of 32 from 64 up."""
    if side and (side < 64 or side % 32):
        raise UsageError(f"side: {side} must be a multiple of 32 from 64 up, or 0.")


def shrunk(images: Tensor, side: int) -> Tensor:
    """(N, C, S, S) -> (N, C, side, side), antialiased; as they are where ``side`` is 0 or S."""
    if not side or side == images.shape[-1]:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def shrinking(size: int, side: int) -> Tensor:
    """(side, size): what ``shrunk`` does to one axis, as a matrix."""
    eye = torch.eye(size)[None, None]
    return F.interpolate(eye, size=(side, size), mode="bilinear", align_corners=False, antialias=True)[0, 0]


class Shrink(nn.Module):
    """``shrunk`` by two matrix products, to rounding: OpenVINO has no antialiased resizing that is the same."""

    matrix: Tensor

    def __init__(self, size: int, side: int) -> None:
        super().__init__()
        self.register_buffer("matrix", shrinking(size, side), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C, side, side)."""
        out: Tensor = self.matrix @ images @ self.matrix.T
        return out


def config_of(
    system: str,
    preset: str,
    settings: Mapping[str, Any],
    *,
    backbone: BackboneConfig | None = None,
    size: int = 224,
    **train: Any,
) -> Config:
    """A system's preset: lite2 at 224 pixels unless said otherwise; ``train``: settings of the run."""
    wishes: dict[str, Any] = {"recipe": "none", "cache": True, "epochs": 32, **train}
    return Config(
        preset=preset,
        size=size,
        system=system,
        settings=dict(settings),
        backbone=backbone or BackboneConfig(),
        train=TrainConfig(**wishes),
    )
