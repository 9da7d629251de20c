"""What the training loop trains: a model, its optimisers, its rates and its loss. UniAS's own is here; the systems beside it
bring theirs (systems/base.py)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from unias.config import TrainConfig
from unias.model.losses import level_losses
from unias.model.unias import Reconstruction, UniAS
from unias.training.batches import Batch
from unias.training.optimizers import build_optimizers


class Loss(NamedTuple):
    """total: what is minimised, a scalar; terms: its parts by name, for the loggers."""

    total: Tensor
    terms: dict[str, Tensor]


class Task(Protocol):
    """Attributes:
    module: what is trained, kept for --resume and, where ``ema`` is above 0, averaged.
    clip: largest total L2 norm of the gradient; None = as it comes.
    probe_steps: how many first steps do not depend on the number of steps, so that they may be timed for --minutes.
    """

    module: nn.Module
    clip: float | None
    ema: float
    probe_steps: int

    def optimizers(self, device: torch.device) -> list[torch.optim.Optimizer]:
        """Each group's "rate" is what its "lr" is a share of."""

    def share(self, step: int, total: int | None, steps_per_epoch: int) -> float:
        """The rate of one step, counted from 0, as a share of the group's own."""

    def prepare(self, step: int, total: int | None) -> None:
        """Before a step: which parts are in training mode, where that changes on the way."""

    def forward(self, model: Any, batch: Batch) -> Any:
        """``model`` is ``module`` as the fabric wraps it; under autocast where the precision says so."""

    def loss(self, output: Any, batch: Batch) -> Loss:
        """In float32."""

    def times_first(self, batch: Batch) -> float:
        """Seconds of a step on average over the run, as a multiple of the first ones'."""


def learning_rate(step: int, total: int | None, steps_per_epoch: int, config: TrainConfig) -> float:
    """The rate of one step, counted from 0. During warm-up it does not depend on ``total`` (which --minutes may not have
    fixed yet).

    step: x 0.1 after every ``drop_epochs`` epochs. step_released: the same, one epoch later (401, 400, 199 epochs of 1000).
    """
    if config.schedule in ("step", "step_released"):
        epoch = step // steps_per_epoch
        late = 1 if config.schedule == "step_released" else 0
        return config.learning_rate * 0.1 ** (max(epoch - late, 0) // config.drop_epochs)
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    assert total is not None, "the number of steps is fixed before warm-up ends"
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class UniASTask:
    """UniAS under its settings (spec section 9)."""

    def __init__(self, model: UniAS, config: TrainConfig) -> None:
        self.module: nn.Module = model
        self.unias = model
        self.config = config
        self.clip: float | None = config.clip
        self.ema = config.ema
        self.probe_steps = config.warmup_steps if config.schedule == "cosine" else 50

    def optimizers(self, device: torch.device) -> list[torch.optim.Optimizer]:
        return build_optimizers(self.unias, self.config, device)

    def share(self, step: int, total: int | None, steps_per_epoch: int) -> float:
        return learning_rate(step, total, steps_per_epoch, self.config) / self.config.learning_rate

    def prepare(self, step: int, total: int | None) -> None:
        """All of it is in training mode from first to last."""

    def forward(self, model: Any, batch: Batch) -> Reconstruction:
        out: Reconstruction = model(batch.features)
        return out

    def loss(self, output: Reconstruction, batch: Batch) -> Loss:
        losses = level_losses(output)
        terms = {f"mse/level{k}": v for k, v in losses.mse.items()}
        terms |= {f"cosine/level{k}": v for k, v in losses.cosine.items()}
        return Loss(losses.total(self.config.loss_weight, self.config.cosine_sign), terms)

    def times_first(self, batch: Batch) -> float:
        return 1.0
