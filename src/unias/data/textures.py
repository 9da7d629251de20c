"""Smooth noise, irregular shapes and procedural textures from numpy and Pillow alone: what defects are made of.

Axes: h, w = rows and columns of the picture, 3 = RGB. Noise is float32 and centred on 0, an opacity is
float32 from 0 to 1, a texture uint8. The same generator state gives the same picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Reals = NDArray[np.floating]


def cloud(shape: tuple[int, int], rng: np.random.Generator, cell: float) -> Floats:
    """Smooth noise (h, w) of about -1 to 1 (normal, spread one half): random values every ``cell`` pixels, bicubic."""
    height, width = shape
    cell = max(1.0, cell)
    rows, columns = int(np.ceil(height / cell)) + 3, int(np.ceil(width / cell)) + 3
    grid = rng.normal(0, 0.5, (rows, columns)).astype(np.float32)
    left, top = rng.uniform(0, 1, 2)
    box = (1 + left, 1 + top, min(columns, 1 + left + width / cell), min(rows, 1 + top + height / cell))
    picture = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.array(picture, dtype=np.float32)


def octaves(shape: tuple[int, int], rng: np.random.Generator, cell: float, count: int = 3, fall: float = 0.5) -> Floats:
    """``count`` clouds (h, w), each of half the cell and ``fall`` times the height of the one before."""
    total = np.zeros(shape, np.float32)
    for octave in range(count):
        total += np.float32(fall**octave) * cloud(shape, rng, cell / 2**octave)
    return total


def texture(shape: tuple[int, int], rng: np.random.Generator, kind: str | None = None) -> Bytes:
    """One texture (h, w, 3) of ``TEXTURES``, drawn by chance when ``kind`` is None."""
    chosen = kind if kind is not None else list(TEXTURES)[int(rng.integers(len(TEXTURES)))]
    field = TEXTURES[chosen](shape, rng)  # (h, w), 0 to 1
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    if np.abs(first - second).max() < 80:  # two colours that can be told apart
        second = np.where(first > 127, first - 100, first + 100)
    picture = first + (second - first) * field[..., None]
    picture += 8 * rng.normal(0, 1, (*shape, 1))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def blob(
    shape: tuple[int, int], rng: np.random.Generator, area: float, soft: float, ragged: float = 0.5, long: float = 2.5
) -> Floats:
    """Opacity (h, w) of an irregular patch covering ``area`` of the photo: a tilted ellipse, its edge moved by noise.

    ``soft`` is the width of the edge and ``long`` the largest length to width; ``ragged`` 0 is a true ellipse.
    """
    height, width = shape
    radius = float(np.sqrt(area * height * width / np.pi))
    stretch, angle = np.sqrt(rng.uniform(1, long)), rng.uniform(0, np.pi)
    middle = rng.uniform(0.12, 0.88, 2) * (height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = np.cos(angle) * (x - middle[1]) + np.sin(angle) * (y - middle[0])
    across = np.cos(angle) * (y - middle[0]) - np.sin(angle) * (x - middle[1])
    distance = np.hypot(along / stretch, across * stretch)
    field = 1 - distance / radius + ragged * octaves(shape, rng, radius, count=4)
    field[distance > 2.5 * radius] -= 9  # no islands far away
    edge = max(soft * radius, 0.7) / radius
    level = float(np.quantile(field, 1 - area))
    return smooth((field - level) / edge + 0.5)


def smooth(value: Reals) -> Floats:
    clipped = np.clip(value, 0, 1).astype(np.float32)
    steps: Floats = clipped * clipped * (3 - 2 * clipped)
    return steps


def stroke(shape: tuple[int, int], points: Reals, radii: Reals, strength: Reals) -> Floats:
    """Opacity (h, w) of a soft line through ``points`` (n, 2: row, column), with a radius and a strength a point."""
    opacity = np.zeros(shape, np.float32)
    for (row, column), radius, power in zip(points, radii, strength, strict=True):
        reach = int(np.ceil(radius)) + 1
        top, left = max(0, int(row) - reach), max(0, int(column) - reach)
        bottom, right = min(shape[0], int(row) + reach + 2), min(shape[1], int(column) + reach + 2)
        if top >= bottom or left >= right:
            continue
        y, x = np.ogrid[top:bottom, left:right]
        stamp = power * np.clip(radius + 0.5 - np.hypot(y - row, x - column), 0, 1)
        window = opacity[top:bottom, left:right]
        np.maximum(window, stamp, out=window)
    return opacity


def shifted(field: Floats, rows: float, columns: float) -> Floats:
    """A field (h, w, ...) moved by whole pixels, its border repeated."""
    y = np.clip(np.arange(field.shape[0]) - round(rows), 0, field.shape[0] - 1)
    x = np.clip(np.arange(field.shape[1]) - round(columns), 0, field.shape[1] - 1)
    return field[y[:, None], x[None, :]]


def relief(opacity: Floats, rng: np.random.Generator, width: float) -> Floats:
    """Lit and shaded edges (h, w) of a raised patch, from -1 to 1, light falling from a random side."""
    angle = rng.uniform(0, 2 * np.pi)
    down, right = max(width, 1.0) * np.sin(angle), max(width, 1.0) * np.cos(angle)
    return shifted(opacity, down, right) - shifted(opacity, -down, -right)


def softened(field: Floats, radius: float) -> Floats:
    """A Gaussian blur of values in -1 to 1 through Pillow's 8 bits (1 / 127 is fine enough for shading)."""
    picture = Image.fromarray(np.clip(np.rint(127 * field + 128), 0, 255).astype(np.uint8))
    soft = picture.filter(ImageFilter.GaussianBlur(max(float(radius), 0.5)))
    return ((np.array(soft, dtype=np.float32) - 128) / 127).astype(np.float32)


def mirrored(index: Reals, length: int) -> NDArray[np.intp]:
    """Any coordinate, rounded and reflected into 0 to ``length`` - 1."""
    folded = np.rint(index).astype(np.intp) % (2 * length)
    return np.asarray(np.minimum(folded, 2 * length - 1 - folded))


def _squeezed(field: Floats) -> Floats:
    """Any field onto 0 to 1."""
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - low) / max(high - low, 1e-6), np.float32)


def _axis(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Coordinates (h, w) in pixels along a random direction and across it, slightly bent."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    bend = 0.04 * min(shape) * cloud(shape, rng, min(shape) / 3)
    along = np.cos(angle) * x + np.sin(angle) * y + bend
    across = np.cos(angle) * y - np.sin(angle) * x + bend
    return along.astype(np.float32), across.astype(np.float32)


def _period(shape: tuple[int, int], rng: np.random.Generator) -> float:
    return max(3.0, min(shape) * float(np.exp(rng.uniform(np.log(0.02), np.log(0.12)))))


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Multi-octave noise, from marble to felt."""
    return _squeezed(octaves(shape, rng, 4 * _period(shape, rng), count=5, fall=float(rng.uniform(0.4, 0.9))))


def _stripes(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    along, _ = _axis(shape, rng)
    return np.asarray(0.5 + 0.5 * np.sin(along * (2 * np.pi / _period(shape, rng))), np.float32)


def _checks(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    along, across = _axis(shape, rng)
    period = 1.5 * _period(shape, rng)
    odd = (np.floor(along / period) + np.floor(across / period)) % 2
    return np.asarray(0.85 * odd + 0.15 * _squeezed(cloud(shape, rng, period)), np.float32)


def _cells(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Voronoi cells, one tone each, dark at the borders: one seed in every square of a jittered grid."""
    step = 2.0 * _period(shape, rng)
    rows, columns = int(np.ceil(shape[0] / step)) + 3, int(np.ceil(shape[1] / step)) + 3
    seeds, tones = rng.uniform(0, 1, (rows, columns, 2)), rng.uniform(0.3, 1, (rows, columns))
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / np.float32(step) + 1
    row, column = y.astype(int), x.astype(int)
    nearest, second, tone = (np.full(shape, value, np.float32) for value in (9, 9, 0))
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            r, c = row + down, column + right
            distance = np.hypot(r + seeds[r, c, 0] - y, c + seeds[r, c, 1] - x).astype(np.float32)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            tone = np.where(closer, tones[r, c], tone).astype(np.float32)
            nearest = np.where(closer, distance, nearest)
    return np.asarray(tone * np.clip((second - nearest) * 5, 0.2, 1), np.float32)


def _speckle(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    return _squeezed(octaves(shape, rng, max(1.5, min(shape) / 150), count=2, fall=0.7))


def _two_tone(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Two tones in patches: noise cut at its middle."""
    return np.asarray(np.clip(0.5 + 4 * octaves(shape, rng, 2 * _period(shape, rng), count=4), 0, 1), np.float32)


TEXTURES: dict[str, Callable[[tuple[int, int], np.random.Generator], Floats]] = {
    "clouds": _clouds,
    "stripes": _stripes,
    "checks": _checks,
    "cells": _cells,
    "speckle": _speckle,
    "two_tone": _two_tone,
}
