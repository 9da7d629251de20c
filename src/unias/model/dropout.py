"""Dropout whose masks cost less on a processor (issue 4: the training step)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS = 1 << 16  # a place's chance is a multiple of 1 / STEPS


class Dropout(nn.Dropout):
    """torch's dropout; on a processor with masks from 16 random bits a place, where torch draws 64 for each.

    Drawing them is an eighth of a training step of `paper` in bfloat16. The chance p is kept to 1e-5, the factor is that of the
    chance as it was drawn, so that means stay. Seeded by torch's own generator.

    Attributes:
        form: "auto", or "plain" = torch's own everywhere (yardstick, tests).
    """

    form: str = "auto"

    def is_quick(self, x: Tensor) -> bool:
        """Whether masks for ``x`` are drawn here and not by torch."""
        return self.training and 0 < round(self.p * STEPS) < STEPS and self.form != "plain" and x.device.type == "cpu"

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_quick(x):
            return super().forward(x)
        kept = STEPS - round(self.p * STEPS)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)  # four places a word
        mask = words.view(torch.int16)[: x.numel()].view(x.shape) < kept - STEPS // 2
        return x * mask * (STEPS / kept)
