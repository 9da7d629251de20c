"""Pictures of photos, maps and masks: numpy and Pillow.

Legend: H x W a picture's size. Pictures are uint8, H x W x 3. No text is drawn into pictures of photos: names may be in any
script, so the page writes them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

GREEN = (0, 190, 90)  # truth
RED = (255, 40, 60)  # prediction
GAP = 6

# Turbo (Mikhailov, 2019; matplotlib's "turbo") at 17 even steps from normal to anomalous.
_TURBO = (
    "30123b 4040a2 466be3 4294ff 28bceb 18ddc2 32f298 6dfe62 a4fc3c "
    "cdec34 eecf3a fdac34 fb7e21 eb500e d02f05 a91601 7a0403"
)


def colour_table() -> Picture:
    """256 x 3, from normal (dark blue) to anomalous (dark red)."""
    anchors = np.array([[int(word[i : i + 2], 16) for i in (0, 2, 4)] for word in _TURBO.split()], dtype=np.float64)
    places = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(places, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(columns, axis=1).round().astype(np.uint8)


COLOURS = colour_table()


def scaled(anomaly_map: NDArray[Any], vmax: float, vmin: float = 0.0) -> NDArray[np.float32]:
    """The map from vmin .. vmax to 0 .. 1, clipped; all 0 where the range is empty."""
    span = vmax - vmin
    if not span > 0:
        return np.zeros(anomaly_map.shape, dtype=np.float32)
    value = (anomaly_map.astype(np.float32) - np.float32(vmin)) / np.float32(span)
    return np.asarray(np.clip(value, 0, 1), dtype=np.float32)


def heat(anomaly_map: NDArray[Any], vmax: float, vmin: float = 0.0) -> Picture:
    """The map alone in colour, H x W x 3."""
    return COLOURS[(scaled(anomaly_map, vmax, vmin) * 255).round().astype(np.uint8)]


def overlay(image: Picture, anomaly_map: NDArray[Any], vmax: float, vmin: float = 0.0) -> Picture:
    """The map in colour over the photo; where the map is low the photo shows through.

    Args:
        image: uint8, H x W x 3.  anomaly_map: H x W.  vmin, vmax: the ends of the colour scale.
    """
    value = scaled(anomaly_map, vmax, vmin)
    colour = COLOURS[(value * 255).round().astype(np.uint8)]
    weight = (0.65 * value**0.6)[..., None]
    return (image * (1 - weight) + colour * weight).round().astype(np.uint8)


def outline(mask: Mask, width: int = 2) -> Mask:
    """The mask's border, ``width`` pixels wide, just outside it where there is room; empty for an empty mask."""
    grown = mask
    for _ in range(width):
        grown = _grow(grown)
    border = grown & ~mask
    if mask.any() and not border.any():  # the whole picture is marked: the border lies inside
        border = np.ones_like(mask)
        border[width:-width, width:-width] = False
    return border


def contour(image: Picture, mask: Mask, colour: tuple[int, int, int] = RED, width: int = 2) -> Picture:
    """The photo with the mask's outline drawn in."""
    picture = image.copy()
    picture[outline(mask, width)] = colour
    return picture


def fill(image: Picture, mask: Mask, colour: tuple[int, int, int] = GREEN) -> Picture:
    """The photo with the mask tinted and outlined."""
    picture = image.copy()
    picture[mask] = (0.55 * picture[mask] + 0.45 * np.array(colour)).round().astype(np.uint8)
    return contour(picture, mask, colour)


def blank(height: int, width: int) -> Picture:
    """A pale panel that stands for a picture there is none of."""
    return np.full((height, width, 3), 236, dtype=np.uint8)


def strip(panels: Sequence[Picture], gap: int = GAP) -> Picture:
    """Panels of one height side by side, a white gap between them."""
    space = np.full((panels[0].shape[0], gap, 3), 255, dtype=np.uint8)
    parts = [panels[0]]
    for panel in panels[1:]:
        parts += [space, panel]
    return np.concatenate(parts, axis=1)


def case_strip(
    image: Picture,
    anomaly_map: NDArray[Any],
    mask: Mask | None,
    pred_mask: Mask,
    map_range: tuple[float, float],
    side: int = 256,
) -> Picture:
    """Photo, truth (green), map over the photo, contour of the prediction (red), each ``side`` pixels long at most.

    Args:
        image: uint8, H x W x 3.  anomaly_map: H x W.  mask: H x W, None where no truth is known.  pred_mask: H x W.
        map_range: (low, high), the ends of the colour scale.
    """
    low, high = map_range
    photo = fit(image, side)
    truth = blank(*photo.shape[:2]) if mask is None else fill(photo, fit_mask(mask, side))
    coloured = overlay(photo, fit_map(anomaly_map, side), high, low)
    return strip([photo, truth, coloured, contour(photo, fit_mask(pred_mask, side))])


def level_strip(
    level_maps: Mapping[int, NDArray[Any]], final: NDArray[Any], map_range: tuple[float, float], side: int = 200
) -> Picture:
    """The maps of the levels, coarsest first, then the final map (supplement, Fig. 3).

    A level's colours span its own lowest to highest value; the final map's span ``map_range``.
    """
    low, high = map_range
    panels = []
    for level in sorted(level_maps, reverse=True):
        values = fit_map(level_maps[level], side)
        panels.append(heat(values, float(values.max()), float(values.min())))
    return strip([*panels, heat(fit_map(final, side), high, low)])


def fit(image: Picture, side: int) -> Picture:
    """The picture resized so that its longer edge is ``side`` pixels."""
    return resized(image, fitted(image.shape, side))


def resized(image: Picture, size: tuple[int, int]) -> Picture:
    """The picture at ``size`` = (height, width)."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))


def fit_map(anomaly_map: NDArray[Any], side: int) -> NDArray[np.float32]:
    """The map resized likewise (bilinear)."""
    return resized_map(anomaly_map, fitted(anomaly_map.shape, side))


def resized_map(anomaly_map: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    """The map at ``size`` = (height, width), bilinear."""
    picture = Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def fit_mask(mask: Mask, side: int) -> Mask:
    """The mask resized likewise; made smaller, a pixel is marked where any part of it is, so that nothing vanishes."""
    height, width = fitted(mask.shape, side)
    smaller = width < mask.shape[1]
    method = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize((width, height), method)) > 0


def jpeg(picture: Picture, quality: int = 88) -> bytes:
    """The picture's JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _grow(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def fitted(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """(height, width) of the same proportions whose longer edge is ``side``."""
    height, width = shape[:2]
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
