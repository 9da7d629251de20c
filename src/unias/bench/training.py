"""What a step of training costs in its forms: the features of a batch, forward, losses, backward, clipping, optimiser.

Photos are there already: decoding is not part of it. The forms take turns on ONE model, so that weights and the optimiser's state
are held once; what a step computes does not depend on the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unias.backbones.timm_backbone import FrozenBackbone
from unias.bench.rounds import ONCE, Round, interleave, ratio, typical
from unias.bench.variants import NO_BFLOAT16
from unias.config import Config
from unias.errors import UsageError
from unias.inference.store import load_model
from unias.maps.detector import Detector
from unias.model.fused import use_form
from unias.model.losses import level_losses
from unias.runtime import cpu_has_bfloat16, keep_freed_memory
from unias.training.optimizers import build_optimizers

# row: (title, form of heads and patch embedding, bfloat16)
STEPS: dict[str, tuple[str, str, bool]] = {
    "plain": ("`paper`, plain, float32 (the yardstick)", "plain", False),
    "fused": ("`paper`, fused, float32", "auto", False),
    "plain-bf16": ("`paper`, plain, bfloat16 autocast", "plain", True),
    "fused-bf16": ("`paper`, fused, bfloat16 autocast", "auto", True),
}
BACKBONES = {"backbone-nchw": "plain", "backbone": "auto"}


class Stepper:
    """Training steps of one model on one batch, as ``unias train`` takes them where features are not cached.

    ``plain`` has the backbone in NCHW, "auto" is what training chooses itself (composed where that is cheaper).
    """

    def __init__(self, detector: Detector, config: Config, images: Tensor) -> None:
        self.unias = detector.unias.train().requires_grad_(True)
        self.config = config.train
        self.images = images.to(detector.device)
        self.optimizers = build_optimizers(self.unias, config.train, detector.device)
        plain = copy.deepcopy(detector.backbone)
        plain.network.to(memory_format=torch.contiguous_format)
        self.backbones: dict[str, FrozenBackbone] = {"plain": plain, "auto": detector.backbone}

    def step(self, form: str, half: bool) -> float:
        """One step; gives the loss back. The backbone stays in float32, as in training."""
        use_form(self.unias, form)
        features = self.backbones[form](self.images)
        with torch.autocast(self.images.device.type, dtype=torch.bfloat16, enabled=half):
            reconstruction = self.unias(features)
        loss = level_losses(reconstruction).total(self.config.loss_weight, self.config.cosine_sign)
        value = float(loss.detach())
        self.unias.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.unias.parameters(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return value


def measure(folder: Path, images: Tensor, rounds: int) -> dict[str, Any]:
    """{"rounds": seconds of every row in every round, "batch": photos a step}. Rows that the processor cannot do are
    left out. Changes how this process keeps memory, as training does: call it in a process of its own."""
    keep_freed_memory()
    stored = load_model(folder, torch.device("cpu"))
    if not isinstance(stored.detector, Detector):
        raise UsageError(f"{folder}: is an export. Give the trained model's folder.")
    stepper = Stepper(stored.detector, stored.config, images)

    def row(form: str, half: bool) -> Callable[[], object]:
        return lambda: stepper.step(form, half)

    def backbone(form: str) -> Callable[[], object]:
        return lambda: stepper.backbones[form](stepper.images)

    calls: dict[str, Callable[[], object]] = {
        name: row(form, half) for name, (_, form, half) in STEPS.items() if not half or cpu_has_bfloat16()
    }
    calls |= {name: backbone(form) for name, form in BACKBONES.items()}
    done: list[Round] = interleave(calls, rounds, ONCE)
    return {"rounds": done, "batch": len(images)}


def rows_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The table's content from what ``measure`` gave: milliseconds a step, ratios to plain float32 in the same round."""
    done: list[Round] = answer["rounds"]
    rows: list[dict[str, Any]] = []
    for name, (title, _, half) in STEPS.items():
        if name not in done[0]:
            rows.append({"name": name, "title": title, "fault": NO_BFLOAT16})
            continue
        rows.append(
            {
                "name": name,
                "title": title,
                "fault": None,
                "milliseconds": 1000 * typical(done, name),
                "times_yardstick": ratio(done, name, "plain"),
                "times_plain_alike": ratio(done, name, "plain-bf16" if half else "plain"),
            }
        )
    backbone = {name: 1000 * typical(done, name) for name in BACKBONES}
    return {
        "fault": None,
        "batch": answer["batch"],
        "rounds": len(done),
        "rows": rows,
        "backbone_milliseconds": backbone,
        "peak_mib": answer["peak_mib"],
    }
