"""Every file in configs/ is loaded, equals its preset, and is run shrunk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from unias.config import Config, load_config
from unias.maps.levels import LevelMaps, cosine_distances, product_fusion, to_input_size
from unias.model.build import build_unias
from unias.model.losses import level_losses
from unias.presets import PRESETS

FILES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))
NAMED = {"mvtec": "paper"}  # files with another name than their preset
CHANNELS = {4: 12, 3: 8, 2: 6, 1: 4}


def shrunk(config: Config) -> Config:
    model = dataclasses.replace(
        config.model,
        width=16,
        ffn=16,
        fpn_widths=(16, 16, 16, 8),
        patch_widths=tuple(16 for _ in config.model.patch_widths),
    )
    return dataclasses.replace(config, size=128, model=model)


def test_every_preset_is_spelled_out() -> None:
    assert {NAMED.get(file.stem, file.stem) for file in FILES} == set(PRESETS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_is_its_preset_and_runs(file: Path) -> None:
    config = load_config(file)
    assert config == PRESETS[NAMED.get(file.stem, file.stem)]
    small = shrunk(config)
    torch.manual_seed(0)
    model = build_unias(small.model, CHANNELS, small.grid)
    features = {k: torch.randn(2, c, 128 // 2**k, 128 // 2**k) for k, c in CHANNELS.items()}
    losses = level_losses(model(features))
    losses.total(small.train.loss_weight, small.train.cosine_sign).backward()
    with torch.no_grad():
        levels = LevelMaps(small.maps.kernels, 64)(cosine_distances(model.eval()(features)))
        final = to_input_size(product_fusion(levels), 128).numpy()
    assert final.shape == (2, 128, 128)
    assert np.isfinite(final).all()
