"""Pictures: shapes, colours at known places, and that the charts are drawn without a warning."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from unias.inference import pictures
from unias.report import figures


def photo(height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def test_colour_table_is_turbo() -> None:
    expected = (matplotlib.colormaps["turbo"](np.arange(256))[:, :3] * 255).round()
    assert np.abs(expected - pictures.COLOURS.astype(float)).max() < 12  # 17 anchors, straight lines between


def test_overlay_leaves_the_normal_and_colours_the_anomalous() -> None:
    values = np.zeros((20, 30), dtype=np.float32)
    values[5, 6], values[7, 8] = 1.0, 99.0  # beyond vmax is clipped
    picture = pictures.overlay(photo(), values, vmax=1.0)
    assert picture.dtype == np.uint8
    assert picture.shape == (20, 30, 3)
    assert (picture[0, 0] == 128).all()
    assert (picture[5, 6] == picture[7, 8]).all()
    assert picture[5, 6][0] > picture[5, 6][1]


@pytest.mark.parametrize("vmax", [0.0, float("nan"), -1.0])
def test_an_empty_colour_scale_colours_nothing(vmax: float) -> None:
    assert (pictures.overlay(photo(), np.ones((20, 30), dtype=np.float32), vmax=vmax) == 128).all()


def test_outline_lies_just_outside() -> None:
    mask = np.zeros((11, 11), dtype=bool)
    mask[5, 5] = True
    border = pictures.outline(mask, width=1)
    assert border.sum() == 8
    assert not border[5, 5]
    assert not pictures.outline(np.zeros((5, 5), dtype=bool)).any()
    assert pictures.outline(np.ones((9, 9), dtype=bool), width=2).sum() == 81 - 25
    assert tuple(pictures.contour(photo(11, 11), mask, width=1)[4, 4]) == pictures.RED


def test_a_pixel_survives_being_made_smaller() -> None:
    mask = np.zeros((1000, 800), dtype=bool)
    mask[333, 777] = True
    smaller = pictures.fit_mask(mask, 100)
    assert smaller.shape == (100, 80)
    assert smaller.any()
    larger = pictures.fit_mask(mask[330:340, 770:780], 100)
    assert larger.sum() == 100


def test_strips() -> None:
    values = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    mask = values > 0.9
    for truth in (mask, None):
        picture = pictures.case_strip(photo(), values, truth, mask, (0.0, 1.0), side=60)
        assert picture.shape == (40, 4 * 60 + 3 * pictures.GAP, 3)
    levels = dict.fromkeys((1, 2, 3, 4), values)
    assert pictures.level_strip(levels, values, (0.0, 1.0), side=30).shape == (20, 5 * 30 + 4 * pictures.GAP, 3)
    assert Image.open(io.BytesIO(pictures.jpeg(picture))).format == "JPEG"


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    return picture


@pytest.mark.parametrize("cut", [0.4, 0.0, None, float("nan"), 9.0])
def test_charts(cut: float | None) -> None:
    recall = np.linspace(1, 0.1, 50)
    assert opened(figures.pr_curve(1 - recall / 2, recall, np.linspace(0, 1, 50), cut)).width > 500
    scores = np.random.default_rng(0).random(40)
    opened(figures.histogram(scores[:20], scores[20:] + 1, cut))


def test_histogram_of_next_to_nothing() -> None:
    nothing = np.zeros(0)
    opened(figures.histogram(nothing, nothing, None))
    opened(figures.histogram(np.ones(1), nothing, 1.0))
    opened(figures.histogram(np.zeros(3), np.zeros(2), 0.0))


def test_charts_do_not_depend_on_the_users_settings() -> None:
    plain = figures.histogram(np.ones(3), np.ones(2) * 2, 1.5)
    with matplotlib.rc_context({"font.family": "serif", "font.size": 30, "axes.grid": False, "savefig.dpi": 40}):
        assert figures.histogram(np.ones(3), np.ones(2) * 2, 1.5) == plain
