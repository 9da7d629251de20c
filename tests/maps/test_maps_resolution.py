"""The smallest defect: the arithmetic against the maps' own modules, its scale, and who says it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from unias.config import LEVELS, STRIDES, Config, MapConfig
from unias.inference.predictor import Model
from unias.maps.levels import LevelMaps
from unias.maps.resolution import STEPS, describe, kept, smallest_defect, smallest_square

KERNELS = (3, 5, 7, 9)
SIZE = 384


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("side", [5.0, 9.0, 24.0])
def test_what_is_kept_is_what_the_level_maps_keep(level: int, side: float) -> None:
    """A square whose cells are as strange as the share it covers, through the module that makes the maps."""
    stride = STRIDES[level]
    edges = np.arange(0, SIZE + 1, stride)
    maps = LevelMaps(KERNELS, SIZE // 2)
    peaks = np.zeros((STEPS, STEPS))
    lines = []
    for step in range(STEPS):
        start = SIZE / 2 + stride * step / STEPS
        lines.append(np.diff(np.clip(edges, start, start + side)) / stride)
    for row in range(STEPS):
        cells = np.stack([np.outer(lines[row], line) for line in lines])
        found = maps({level: torch.from_numpy(cells).float()})[level]
        peaks[row] = found.amax(dim=(1, 2)).numpy()
    assert kept(side, level, KERNELS[LEVELS.index(level)]) == pytest.approx(peaks.mean(), abs=1e-4)


def test_the_smallest_square_is_where_half_is_kept() -> None:
    side = smallest_square(KERNELS)
    best = [
        max(kept(one, level, kernel) for level, kernel in zip(LEVELS, KERNELS, strict=True))
        for one in (side - 0.25, side)
    ]
    assert best[0] < 0.5 <= best[1]
    assert 8 < side < 11
    assert smallest_square(KERNELS, (1,)) > side  # the finest level is smoothed most
    assert smallest_square((1, 1, 1, 1)) < side  # without smoothing
    assert smallest_square(KERNELS, wide=8.0) > 2 * side
    assert smallest_square(KERNELS, wide=8.0, share=0.0) == side
    between = [smallest_square(KERNELS, wide=8.0, share=share) for share in (0.2, 0.5, 0.8, 1.0)]
    assert side < between[0] < between[1] < between[2] < between[3] == smallest_square(KERNELS, wide=8.0)


def test_it_grows_with_the_photo_and_shrinks_with_the_input() -> None:
    config = Config(size=224)
    height, width = smallest_defect((448, 2240), config)
    assert (height, width) == (2 * smallest_square(KERNELS), 10 * smallest_square(KERNELS))
    assert smallest_defect((448, 2240), dataclasses.replace(config, size=448)) == (height / 2, width / 2)
    assert smallest_defect((448, 2240), config, min_area=900) == (60, 300)
    blurring = dataclasses.replace(config, maps=MapConfig(wide_sigma=8.0))
    assert smallest_defect((448, 2240), blurring) == (height, width)
    assert smallest_defect((448, 2240), blurring, blurred=1.0)[0] > 2 * height
    sharper = dataclasses.replace(config, maps=MapConfig(kernels=(1, 1, 1, 1)))
    assert smallest_defect((448, 2240), sharper)[0] < height
    assert describe((448, 2240), (18.5, 92.5)).endswith("about 92 x 18 pixels of a photo of 2240 x 448")


def test_a_model_says_it(model: Model) -> None:
    sharp = smallest_defect((1000, 500), model.config)
    blurs = [tuple(dataclasses.replace(info, blurred=blur) for info in model.products) for blur in (0.0, 0.5)]
    told = [Model(dataclasses.replace(model._stored, products=infos)).smallest_defect((1000, 500)) for infos in blurs]
    assert told == [sharp, smallest_defect((1000, 500), model.config, blurred=0.5)]
    areas = tuple(dataclasses.replace(info, min_area=area) for info, area in zip(blurs[0], (1, 4000), strict=True))
    changed = Model(dataclasses.replace(model._stored, products=areas))
    assert changed.smallest_defect((1000, 500), model.products[0].name) == sharp
    assert changed.smallest_defect((1000, 500)) == smallest_defect((1000, 500), model.config, 4000)


def test_other_systems_have_grids_of_their_own(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "config", dataclasses.replace(model.config, system="patchcore"))
    assert model.smallest_defect((1000, 500)) is None
