"""Corrupted photos after DRAEM and DeSTSeg: another picture blended in where Perlin noise is high.

Axes: h, w = rows and columns of the picture, 3 = RGB; pictures are float32 in [0, 1], noise float64 of about -1 to 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
THRESHOLD = 0.5
EXPONENTS = 6  # cells along a side: 2^0 to 2^5
BLEND = 0.8  # largest share of the photo that shows through


def perlin(shape: tuple[int, int], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise (h, w) from the gradients' angles (rows + 1, columns + 1) at the corners of the cells; h and w must be multiples
    of rows and columns."""
    rows, columns = angles.shape[0] - 1, angles.shape[1] - 1
    if shape[0] % rows or shape[1] % columns:
        raise ValueError(f"{rows} x {columns} cells do not divide {shape[0]} x {shape[1]} pixels.")
    high, wide = shape[0] // rows, shape[1] // columns
    y = np.tile(np.arange(high) / high, rows)[:, None]
    x = np.tile(np.arange(wide) / wide, columns)[None]

    def corner(below: int, right: int) -> NDArray[np.float64]:
        chosen = angles[below : below + rows, right : right + columns]
        gradients = np.repeat(np.repeat(chosen, high, axis=0), wide, axis=1)
        dots: NDArray[np.float64] = np.cos(gradients) * (y - below) + np.sin(gradients) * (x - right)
        return dots

    down, across = _fade(y), _fade(x)
    left = corner(0, 0) * (1 - down) + corner(1, 0) * down
    right = corner(0, 1) * (1 - down) + corner(1, 1) * down
    noise: NDArray[np.float64] = math.sqrt(2) * (left * (1 - across) + right * across)
    return noise


def draw_mask(shape: tuple[int, int], rng: np.random.Generator) -> Bools:
    """(h, w), True where the noise, turned by any angle up to a quarter, is above one half; may be empty.

    Drawn at the next multiples of 32 and cut.
    """
    most = 2 ** (EXPONENTS - 1)
    whole = (math.ceil(shape[0] / most) * most, math.ceil(shape[1] / most) * most)
    rows, columns = (2 ** int(exponent) for exponent in rng.integers(EXPONENTS, size=2))
    noise = perlin(whole, 2 * np.pi * rng.random((rows + 1, columns + 1)))
    picture = Image.fromarray(noise.astype(np.float32))
    turned = picture.rotate(rng.uniform(-90, 90), resample=Image.Resampling.BILINEAR)  # zeros come in at the corners
    mask: Bools = np.asarray(turned)[: shape[0], : shape[1]] > THRESHOLD
    return mask


def blended(photo: Floats, texture: Floats, mask: Bools, beta: float) -> Floats:
    """photo, texture (h, w, 3), mask (h, w): the photo outside, (1 - beta) * texture + beta * photo inside."""
    inside = mask[..., None]
    out: Floats = np.where(inside, (1 - beta) * texture + beta * photo, photo).astype(np.float32)
    return out


def corrupted(photo: Floats, texture: Floats, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """The photo with a random part covered, and which part: (h, w, 3), (h, w)."""
    mask = draw_mask(photo.shape[:2], rng)
    return blended(photo, texture, mask, rng.uniform(0, BLEND)), mask


def _fade(t: NDArray[np.float64]) -> NDArray[np.float64]:
    faded: NDArray[np.float64] = 6 * t**5 - 15 * t**4 + 10 * t**3
    return faded
