"""Photos corrupted by Perlin noise: what the noise is, what is covered, what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from unias.data.perlin import blended, corrupted, draw_mask, perlin


def test_noise_is_nought_at_the_corners_of_its_cells() -> None:
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, (5, 3))
    noise = perlin((64, 48), angles)
    assert np.abs(noise[::16, ::24]).max() < 1e-12
    assert 0.1 < np.abs(noise).max() <= np.sqrt(2)


def test_noise_of_one_slope_by_hand() -> None:
    """All gradients point down the rows: half-way between two rows of corners the slopes cancel, a quarter on they do not."""
    noise = perlin((8, 8), np.zeros((2, 2)))
    t = 0.25
    fade = 6 * t**5 - 15 * t**4 + 10 * t**3
    assert noise[4] == pytest.approx(np.zeros(8), abs=1e-12)
    assert noise[2] == pytest.approx(np.full(8, np.sqrt(2) * (t * (1 - fade) + (t - 1) * fade)))


def test_cells_must_divide_the_picture() -> None:
    with pytest.raises(ValueError, match="3 x 2 cells do not divide 32 x 32"):
        perlin((32, 32), np.zeros((4, 3)))


@pytest.mark.parametrize("shape", [(128, 128), (100, 70)])
def test_masks_vary_and_repeat_with_the_seed(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    masks = [draw_mask(shape, rng) for _ in range(40)]
    assert all(mask.shape == shape and mask.dtype == bool for mask in masks)
    shares = [float(mask.mean()) for mask in masks]
    assert 0.01 < np.mean(shares) < 0.4
    assert len(set(shares)) > 20
    again = np.random.default_rng(5)
    assert np.array_equal(masks[0], draw_mask(shape, again))


def test_outside_the_mask_the_photo_stays() -> None:
    rng = np.random.default_rng(1)
    photo, texture = (rng.random((64, 64, 3)).astype(np.float32) for _ in range(2))
    mask = np.zeros((64, 64), bool)
    mask[10:20, 30:50] = True
    out = blended(photo, texture, mask, 0.25)
    assert np.array_equal(out[~mask], photo[~mask])
    assert out[mask] == pytest.approx(0.75 * texture[mask] + 0.25 * photo[mask])


def test_corrupted_photo_differs_where_its_mask_says() -> None:
    photo = np.full((128, 128, 3), 0.5, np.float32)
    texture = np.ones((128, 128, 3), np.float32)
    rng = np.random.default_rng(2)
    for _ in range(20):
        out, mask = corrupted(photo, texture, rng)
        assert out.dtype == np.float32
        assert np.array_equal((out != photo).any(axis=2), mask)
