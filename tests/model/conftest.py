"""A model small enough to build in milliseconds, with features that fit it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unias.config import ModelConfig
from unias.model.build import build_unias
from unias.model.unias import UniAS

CHANNELS = {1: 4, 2: 6, 3: 8, 4: 10}
SMALL = ModelConfig(width=32, ffn=16, encoder_layers=1, fpn_widths=(32, 32, 32, 32), patch_widths=(32, 48, 64))

Tiny = Callable[..., tuple[UniAS, dict[int, Tensor]]]


@pytest.fixture
def tiny_model() -> Tiny:
    """tiny_model(grid=8, batch=2, base=..., **settings) -> (model, features), from seed 0."""

    def make(
        grid: int = 8, batch: int = 2, base: ModelConfig = SMALL, seed: int = 0, **settings: Any
    ) -> tuple[UniAS, dict[int, Tensor]]:
        torch.manual_seed(seed)
        model = build_unias(dataclasses.replace(base, **settings), CHANNELS, grid)
        generator = torch.Generator().manual_seed(1)
        features = {
            k: torch.randn(batch, CHANNELS[k], grid << (4 - k), grid << (4 - k), generator=generator)
            for k in (4, 3, 2, 1)
        }
        return model, features

    return make
