"""Defects drawn into a good photo, with the mask of exactly the pixels they change.

No labels and no learning: eight kinds of damage seen on real products, each one small function of numpy and Pillow.
The demo's test photos are made with it.

Axes: h, w = the photo's rows and columns, 3 = RGB; sizes below are fractions of the shorter side, so that a defect
looks alike at any resolution. A painter gets the photo (float32, 0 to 255) and returns its painted copy and its
opacity (h, w) from 0 to 1. ``draw_defect`` turns that into bytes: a pixel belongs to the mask when one of its channels
differs by ``VISIBLE`` or more, every other pixel is the photo's own, bit for bit. Where a painter covers more than
half and the new value happens to equal the old one, it is moved to ``VISIBLE`` away: masks have no chance holes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.data.textures import Floats, blob, cloud, mirrored, octaves, relief, shifted, softened, stroke, texture
from unias.errors import UsageError

VISIBLE = 6  # grey levels of 255
MIN_SIDE = 32  # pixels
MAX_AREA = 0.25  # of the photo
MIN_AREA = 0.0008  # of the shorter side's square, and never under MIN_PIXELS
MIN_PIXELS = 8
MIN_CONTRAST = 14.0  # grey levels, mean over the mask, on a smooth photo; more on a texture
ATTEMPTS = 12

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Donors = Sequence[NDArray[Any]]
Painter = Callable[[Floats, np.random.Generator, Donors], tuple[Floats, Floats]]


def draw_defect(
    photo: Bytes, rng: np.random.Generator, kind: str | None = None, donors: Donors | None = None
) -> tuple[Bytes, Bools, str]:
    """A copy of ``photo`` (h, w, 3) with one defect, its mask (h, w) and its kind.

    ``kind`` is one of ``KINDS``, drawn by chance when None. ``donors`` are other photos, (h', w') or (h', w', 3) uint8
    of any size, that foreign patches are cut from; without them the patches are procedural textures. A grey photo
    (three equal channels) stays grey. The mask is never empty and covers at most ``MAX_AREA`` of the photo.
    """
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or min(photo.shape[:2]) < MIN_SIDE:
        raise UsageError(
            f"photo: {photo.dtype} of shape {photo.shape}, where uint8 (h, w, 3) of at least {MIN_SIDE} pixels a side "
            "is needed. Convert it to RGB first."
        )
    chosen = kind if kind is not None else KINDS[int(rng.integers(len(KINDS)))]
    if chosen not in PAINTERS:
        raise UsageError(f"kind '{chosen}': no such defect. Choose one of {', '.join(KINDS)}.")
    grey = _is_grey(photo)
    clean = photo.astype(np.float32)
    for _ in range(ATTEMPTS):
        painted, opacity = PAINTERS[chosen](clean, rng, donors or ())
        result, mask = _composite(photo, painted, opacity >= 0.5, grey)
        if _fits(photo, result, mask):
            return result, mask, chosen
    result, mask = _last_resort(photo, rng)
    return result, mask, chosen


def _composite(photo: Bytes, painted: Floats, core: Bools, grey: bool) -> tuple[Bytes, Bools]:
    """Bytes and mask of a painted photo: what is not visibly changed goes back, what must be seen is made visible."""
    if grey:
        painted = np.repeat(painted.mean(axis=2, keepdims=True), 3, axis=2)
    result = np.clip(np.rint(painted), 0, 255).astype(np.int16)
    before = photo.astype(np.int16)
    change = result - before
    weak = core & (np.abs(change).max(axis=2) < VISIBLE)
    if weak.any():
        overall = 1 if change[core].mean() >= 0 else -1
        direction = np.sign(change[weak].sum(axis=1))
        direction[direction == 0] = overall
        values = before[weak]
        direction[values.min(axis=1) > 255 - VISIBLE] = -1
        direction[values.max(axis=1) < VISIBLE] = 1
        result[weak] = np.clip(values + VISIBLE * direction[:, None], 0, 255)
    mask: Bools = np.abs(result - before).max(axis=2) >= VISIBLE
    return np.where(mask[..., None], result, before).astype(np.uint8), mask


def _fits(photo: Bytes, result: Bytes, mask: Bools) -> bool:
    """Whether a defect is neither too small, too large nor too faint for the texture that it lies on."""
    pixels = int(mask.sum())
    if not max(MIN_PIXELS, MIN_AREA * min(mask.shape) ** 2) <= pixels <= MAX_AREA * mask.size:
        return False
    before = photo[mask].astype(np.int16)
    change = np.abs(result[mask].astype(np.int16) - before).max(axis=1)
    return float(change.mean()) >= MIN_CONTRAST + 0.5 * min(50.0, float(before.mean(axis=1).std()))


def _last_resort(photo: Bytes, rng: np.random.Generator) -> tuple[Bytes, Bools]:
    """A plain disc, far from the photo's own values: possible in every photo."""
    side = min(photo.shape[:2])
    radius = max(2.0, side * rng.uniform(0.05, 0.1))
    middle = rng.uniform(0.3, 0.7, 2) * photo.shape[:2]
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    mask: Bools = np.hypot(y - middle[0], x - middle[1]) <= radius
    dark = photo.mean(axis=2, keepdims=True) < 128
    moved = np.where(dark, photo.astype(np.int16) + 90, photo.astype(np.int16) - 90)
    return np.where(mask[..., None], np.clip(moved, 0, 255), photo).astype(np.uint8), mask


# ---------------------------------------------------------------------------------------------- tones


def _is_grey(photo: NDArray[Any]) -> bool:
    return bool((photo[..., 0] == photo[..., 1]).all() and (photo[..., 1] == photo[..., 2]).all())


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _resampled(points: NDArray[Any], step: float = 0.5) -> NDArray[np.float64]:
    """A polyline (n, 2) with a point every ``step`` pixels."""
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    at = np.arange(0, lengths[-1] + step, step)
    return np.stack([np.interp(at, lengths, points[:, 0]), np.interp(at, lengths, points[:, 1])], axis=1)


def _busy(photo: Floats) -> float:
    """1 on a smooth photo up to 1.8 on a busy texture, where a thin line would be lost."""
    return 1 + min(0.8, float(np.abs(np.diff(photo, axis=1)).mean()) / 20)


def _tone(
    photo: Floats, opacity: Floats, rng: np.random.Generator, low: float, high: float, dark: float = 0.5
) -> NDArray[np.float64]:
    """A change of colour (3,) of ``low`` to ``high`` grey levels, more on a busy texture; darker with chance ``dark``.

    It turns round where there is no room for it; a grey photo gets a grey change, a coloured one a slightly tinted.
    """
    covered = photo[opacity > 0.3] if bool((opacity > 0.3).any()) else photo.reshape(-1, 3)
    mean, spread = float(covered.mean()), min(50.0, float(covered.mean(axis=1).std()))
    size = rng.uniform(low, high) + 0.8 * spread
    sign = -1.0 if rng.random() < dark else 1.0
    if (mean if sign < 0 else 255 - mean) < max(low, 30):
        sign = -sign
    tint = np.ones(3) if _is_grey(photo) else rng.uniform(0.75, 1.25, 3)
    return sign * size * tint


def _mixed(photo: Floats, layer: NDArray[Any], opacity: Floats) -> Floats:
    return (photo + (layer - photo) * opacity[..., None]).astype(np.float32)


# ---------------------------------------------------------------------------------------------- the eight kinds


def _scratch(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A thin bent line of changing width and depth, dark or bright, sometimes with a lit rim or a second line."""
    shape, side = photo.shape[:2], min(photo.shape[:2])
    length, angle = side * rng.uniform(0.25, 0.9), rng.uniform(0, 2 * np.pi)
    start = np.array(rng.uniform(0.15, 0.85, 2) * shape)
    if rng.random() < 0.8:  # run towards the middle, so that most of it is in the picture
        toward = np.array(shape) / 2 - start
        angle = np.arctan2(toward[0], toward[1]) + rng.normal(0, 0.7)
    t = np.linspace(0, 1, 24)
    heading = angle + rng.normal(0, 0.5) * t + 0.15 * np.cumsum(rng.normal(0, 0.35, t.size))
    steps = (length / t.size) * np.stack([np.sin(heading), np.cos(heading)], axis=1)
    points = _resampled(start + np.cumsum(steps, axis=0))
    t = np.linspace(0, 1, len(points))
    wide = max(0.8, side * _log_uniform(rng, 0.003, 0.011)) * _busy(photo)
    wobble = cloud((2, len(points)), rng, max(4.0, side / 12))[0]
    radii = wide * np.clip(0.35 + 0.9 * np.sin(np.pi * t) ** 0.5 + 0.5 * wobble, 0.3, None)
    strength = np.clip(0.85 + 0.5 * cloud((2, len(points)), rng, max(4.0, side / 10))[0], 0.55, 1)
    opacity = stroke(shape, points, radii, strength)
    if rng.random() < 0.3:
        beside = points + rng.uniform(3, 8) * wide * np.array([np.cos(angle), -np.sin(angle)])
        part = slice(len(points) // 4, int(len(points) * rng.uniform(0.5, 1)))
        opacity = np.maximum(opacity, stroke(shape, beside[part], 0.7 * radii[part], 0.9 * strength[part]))
    tone = _tone(photo, opacity, rng, 40, 90)
    layer = photo.mean(axis=(0, 1)) * 0.5 + photo * 0.5 + tone
    painted = _mixed(photo, layer, opacity)
    if rng.random() < 0.5:
        rim = np.clip(shifted(opacity, wide, wide) - opacity, 0, 1)
        painted = painted - (0.35 * tone * rim[..., None]).astype(np.float32)
    return painted, opacity


def _stain(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A faint patch of uneven depth with a soft irregular border, sometimes with the dark ring of a dried drop."""
    shape = photo.shape[:2]
    opacity = blob(
        shape, rng, _log_uniform(rng, 0.018 * _busy(photo) ** 2, 0.14), soft=rng.uniform(0.25, 0.6), ragged=0.45
    )
    depth = np.clip(0.85 + 0.35 * octaves(shape, rng, min(shape) / 8), 0.4, 1.2)
    if rng.random() < 0.4:
        depth = depth * (0.55 + 2.2 * opacity * (1 - opacity))
    tone = _tone(photo, opacity, rng, 24, 52, dark=0.7)
    fade = 0.25 if rng.random() < 0.5 else 0.0  # a film that also takes away some of the texture
    layer = photo + fade * (photo.mean(axis=(0, 1)) - photo) + tone * depth[..., None]
    return _mixed(photo, layer, opacity), opacity


def _foreign(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A patch of another texture, of a donor photo if there is one, mostly opaque, with a shaded edge."""
    shape, side = photo.shape[:2], min(photo.shape[:2])
    opacity = blob(shape, rng, _log_uniform(rng, 0.006 * _busy(photo), 0.11), soft=rng.uniform(0.03, 0.2))
    layer = _donated(shape, rng, donors) if donors else texture(shape, rng).astype(np.float32)
    if _is_grey(photo):
        layer = np.repeat(layer.mean(axis=2, keepdims=True), 3, axis=2)
    inside = opacity > 0.5
    if bool(inside.any()):
        gap = float(layer[inside].mean() - photo[inside].mean())
        wanted = float(_tone(photo, opacity, rng, 20, 45).mean())
        if abs(gap) < abs(wanted):
            layer += np.float32(wanted - gap)
    painted = _mixed(photo, layer, opacity * np.float32(rng.uniform(0.75, 1)))
    return painted + 30 * relief(opacity, rng, side / 150)[..., None], opacity


def _donated(shape: tuple[int, int], rng: np.random.Generator, donors: Donors) -> Floats:
    """A random part of a random donor, brought to (h, w, 3)."""
    donor = np.asarray(donors[int(rng.integers(len(donors)))], dtype=np.uint8)
    part = rng.uniform(0.4, 1)
    rows, columns = (max(1, round(part * n)) for n in donor.shape[:2])
    top, left = (int(rng.integers(n - m + 1)) for n, m in zip(donor.shape[:2], (rows, columns), strict=True))
    piece = Image.fromarray(np.ascontiguousarray(donor[top : top + rows, left : left + columns])).convert("RGB")
    return np.array(piece.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), dtype=np.float32)


def _cut_paste(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A piece of the same photo, turned, resized and a little lighter or darker, stuck on elsewhere."""
    shape, side = photo.shape[:2], min(photo.shape[:2])
    ragged = 0.0 if rng.random() < 0.3 else 0.4
    opacity = blob(shape, rng, _log_uniform(rng, 0.01, 0.11), soft=rng.uniform(0.02, 0.12), ragged=ragged, long=4)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    weight = opacity + 1e-6
    here = np.array([(y * weight).sum(), (x * weight).sum()]) / weight.sum()
    there = max((rng.uniform(0.1, 0.9, 2) * shape for _ in range(4)), key=lambda p: float(np.hypot(*(p - here))))
    angle, scale = rng.uniform(np.pi / 6, 11 * np.pi / 6), _log_uniform(rng, 0.6, 1.5)
    down, right = (y - here[0]) * scale, (x - here[1]) * scale
    rows = there[0] + np.cos(angle) * down - np.sin(angle) * right
    columns = there[1] + np.sin(angle) * down + np.cos(angle) * right
    layer = photo[mirrored(rows, shape[0]), mirrored(columns, shape[1])]
    layer = (layer + 0.6 * _tone(photo, opacity, rng, 25, 65)).astype(np.float32)
    painted = _mixed(photo, layer, opacity)
    return painted + 45 * relief(opacity, rng, side / 130)[..., None], opacity


def _crack(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A jagged dark (seldom bright) line that wanders, branches and tapers."""
    shape, side = photo.shape[:2], min(photo.shape[:2])
    wide = max(0.8, side * _log_uniform(rng, 0.003, 0.008)) * _busy(photo)
    start = rng.uniform(0.15, 0.85, 2) * shape
    toward = np.array(shape) / 2 - start
    trunk = (start, np.arctan2(toward[0], toward[1]) + rng.normal(0, 0.8), side * rng.uniform(0.3, 0.8), wide)
    waiting, drawn = [trunk], 0
    opacity = np.zeros(shape, np.float32)
    while waiting and drawn < 7:
        start, heading, length, thick = waiting.pop(0)
        drawn += 1
        stride = max(2.0, side * rng.uniform(0.015, 0.035))
        count = max(3, int(length / stride))
        drift = np.cumsum(rng.normal(0, 0.16, count)) + rng.normal(0, 0.5, count)
        steps = stride * np.stack([np.sin(heading + drift), np.cos(heading + drift)], axis=1)
        corners = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
        points = _resampled(corners)
        taper = np.linspace(1, 0.35, len(points))
        opacity = np.maximum(opacity, stroke(shape, points, np.maximum(0.5, thick * taper), np.ones(len(points))))
        for corner in range(1, count):
            if rng.random() < 1.6 / count:
                turn = rng.choice((-1, 1)) * rng.uniform(0.5, 1.2)
                branch = heading + drift[corner] + turn
                waiting.append((corners[corner], branch, length * rng.uniform(0.25, 0.6), 0.75 * thick))
    tone = _tone(photo, opacity, rng, 45, 95, dark=0.85)
    layer = photo.mean(axis=(0, 1)) * 0.6 + photo * 0.4 + tone
    return _mixed(photo, layer, opacity), opacity


def _hole(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A dark spot with a lit rim, or a dent that only bends the light: one side lit, the other in shadow."""
    shape = photo.shape[:2]
    area = _log_uniform(rng, 0.0025 * _busy(photo) ** 2, 0.04)
    radius = float(np.sqrt(area * shape[0] * shape[1] / np.pi))
    opacity = blob(shape, rng, area, soft=rng.uniform(0.1, 0.35), ragged=rng.uniform(0.05, 0.3), long=1.8)
    if rng.random() < 0.6:
        tone = _tone(photo, opacity, rng, 55, 120, dark=1.0)
        inside = np.clip(0.9 + 0.25 * octaves(shape, rng, radius, count=2), 0.5, 1.2)
        layer = photo.mean(axis=(0, 1)) * 0.6 + photo * 0.4 + tone * inside[..., None]
        painted = _mixed(photo, layer, opacity)
        rim = np.clip(-relief(opacity, rng, 0.22 * radius), 0, 1) * (1 - opacity)
        return painted - (0.6 * tone * rim[..., None]).astype(np.float32), opacity
    bump = softened(opacity, 0.35 * radius)
    light = softened(relief(bump, rng, 0.5 * radius), 0.15 * radius)
    tone = np.abs(_tone(photo, opacity, rng, 50, 90))
    painted = photo + (tone * (light / max(float(np.abs(light).max()), 1e-6))[..., None]).astype(np.float32)
    return painted, np.maximum(opacity, np.abs(light))


def _blur(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A local smear: the texture wiped along one direction, under a thin film that lightens or darkens it."""
    shape, side = photo.shape[:2], min(photo.shape[:2])
    opacity = blob(shape, rng, _log_uniform(rng, 0.015, 0.13), soft=rng.uniform(0.08, 0.3), ragged=0.35, long=4)
    reach, angle = side * rng.uniform(0.05, 0.12), rng.uniform(0, 2 * np.pi)
    layer: NDArray[Any] = np.zeros_like(photo)
    for part in np.linspace(-1, 1, 15):
        layer += shifted(photo, part * reach * np.sin(angle), part * reach * np.cos(angle))
    streaks = 6 * cloud(shape, rng, max(2.0, side / 40))[..., None]
    layer = layer / 15 + streaks + 0.6 * _tone(photo, opacity, rng, 20, 40)
    return _mixed(photo, layer, opacity), opacity


def _missing(photo: Floats, rng: np.random.Generator, donors: Donors) -> tuple[Floats, Floats]:
    """A piece broken off: filled with the surrounding's median colour, a step darker or lighter, edges in relief."""
    shape, side = photo.shape[:2], min(photo.shape[:2])
    opacity = blob(
        shape,
        rng,
        _log_uniform(rng, 0.006 * _busy(photo), 0.1),
        soft=rng.uniform(0.01, 0.06),
        ragged=rng.uniform(0.2, 0.6),
    )
    around = (softened(opacity, side / 25) > 0.05) & (opacity < 0.05)
    median = np.median(photo[around] if bool(around.any()) else photo.reshape(-1, 3), axis=0)
    grain = 3 * rng.normal(0, 1, (*shape, 1)) + 6 * octaves(shape, rng, side / 12)[..., None]
    layer = median + 0.7 * _tone(photo, opacity, rng, 25, 70, dark=0.7) + grain
    painted = _mixed(photo, layer, opacity)
    return painted - 45 * relief(opacity, rng, side / 130)[..., None] * opacity[..., None], opacity


PAINTERS: dict[str, Painter] = {
    "scratch": _scratch,
    "stain": _stain,
    "foreign": _foreign,
    "cut_paste": _cut_paste,
    "crack": _crack,
    "hole": _hole,
    "blur": _blur,
    "missing": _missing,
}
KINDS: tuple[str, ...] = tuple(PAINTERS)
