"""A system in the training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unias.systems.base import System
from unias.training.batches import Batch
from unias.training.task import Loss

FIRST = 20  # steps that do not depend on how many there will be, so that --minutes may time them


class _Whole:
    """A batch that the fabric does not look into: it would round photos and features to bfloat16 before autocast decides."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class _Steps(nn.Module):
    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, whole: _Whole) -> Any:
        return self.system(whole.batch)


class SystemTask:
    """See ``training.task.Task``."""

    ema = 0.0
    probe_steps = FIRST

    def __init__(self, system: System) -> None:
        self.system = system
        self.module: nn.Module = _Steps(system)
        self.clip = system.clip

    def optimizers(self, device: torch.device) -> list[torch.optim.Optimizer]:
        found = self.system.optimizers(device)
        for optimizer in found:
            for group in optimizer.param_groups:
                group["rate"] = group["lr"]
        return found

    def share(self, step: int, total: int | None, steps_per_epoch: int) -> float:
        return self.system.share(_done(step, total))

    def prepare(self, step: int, total: int | None) -> None:
        self.system.prepare(_done(step, total))

    def forward(self, model: Any, batch: Batch) -> Any:
        return model(_Whole(batch))

    def loss(self, output: Any, batch: Batch) -> Loss:
        terms = self.system.loss(output, batch)
        return Loss(torch.stack(list(terms.values())).sum(), terms)

    def times_first(self, batch: Batch) -> float:
        return self.system.times_first(batch)


def _done(step: int, total: int | None) -> float:
    """Share of the steps made; 0 for the first ones in any case."""
    return 0.0 if step < FIRST or total is None else step / total
