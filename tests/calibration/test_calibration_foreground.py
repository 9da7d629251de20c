"""Where the part lies: bars, rings and textures whose place is known."""

from __future__ import annotations

import numpy as np
import pytest

from unias.calibration.foreground import foreground, thickness


def photo(background: float, part: float, noise: float = 2.0, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A slanted bar on a plain background: (photo, where the bar is)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    bar = (np.abs((rows - columns) / np.sqrt(2)) < side / 16) & (np.abs(rows + columns - side) < 0.8 * side)
    grey = np.where(bar, part, background) + rng.normal(0, noise, (side, side))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), bar


@pytest.mark.parametrize(("background", "part"), [(200, 60), (20, 120)])
def test_a_bar_is_found(background: float, part: float) -> None:
    image, bar = photo(background, part)
    found = foreground(image)
    assert found[bar].mean() > 0.9
    assert found[~bar].mean() < 0.1


def test_light_that_falls_off_is_background_all_the_same() -> None:
    image, bar = photo(200, 60)
    light = np.linspace(0.6, 1, 256)[None, :, None]
    found = foreground((image * light).astype(np.uint8))
    assert found[bar].mean() > 0.9
    assert found[~bar].mean() < 0.1


def test_what_is_smooth_inside_a_part_belongs_to_it() -> None:
    """A ring: its middle is as plain as the background, but not joined to the border."""
    rows, columns = np.mgrid[:256, :256] - 128.0
    distance = np.hypot(rows, columns)
    image = np.full((256, 256, 3), 230, dtype=np.uint8)
    image[(distance > 60) & (distance < 100)] = 30
    found = foreground(image)
    assert found[distance < 95].all()
    assert not found[distance > 110].any()


def test_a_texture_fills_its_photo() -> None:
    rng = np.random.default_rng(1)
    quiet = np.linspace(0, 20, 256)[None, :]  # its noise fades to one side
    image = (120 + quiet * rng.normal(0, 1, (256, 256))).clip(0, 255).astype(np.uint8)
    assert foreground(np.repeat(image[..., None], 3, axis=2)).all()


def test_an_empty_photo_is_all_part() -> None:
    assert foreground(np.full((128, 128, 3), 90, dtype=np.uint8)).all()


def test_thickness_is_the_largest_square() -> None:
    part = np.zeros((60, 80), dtype=bool)
    assert thickness(part) == 0
    part[10:30, 5:70] = True
    part[40:59, 40:59] = True
    assert thickness(part) == 20
    assert thickness(np.ones((60, 80), dtype=bool)) == 60
    part[20, 5:70] = False
    assert thickness(part) == 19
