"""Photos spoiled on purpose for DRAEM and DeSTSeg, and where the pictures come from that are blended in.

Axes: h, w = rows and columns, 3 = RGB; float32 in [0, 1].
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from unias.data.decode import load_input
from unias.data.layouts import SUFFIXES
from unias.data.perlin import blended, corrupted, draw_mask
from unias.data.textures import texture
from unias.errors import DataError

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

DRAWN = 192  # procedural textures of a run
# the pictures inside scikit-image's wheel; other names would be fetched
PICTURES = (
    "brick.png",
    "grass.png",
    "gravel.png",
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)


class Corruption(Protocol):
    """(3, S, S), generator -> what the step takes for clean (3, S, S), what it sees (3, S, S), where it is spoiled (S, S)."""

    textures: Textures

    def __call__(self, image: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Bools]: ...


class Textures:
    """Pictures to blend in: a folder of photos (DTD), or procedural ones and those of scikit-image where it is installed.

    Args:
        folder: of photos, in any depth; None = the default.
        side: S, of what is drawn.

    Raises DataError for a folder without photos.
    """

    def __init__(self, folder: str | None, side: int, seed: int) -> None:
        self.side = side
        self.seed = seed
        self.photos: Sequence[Path]
        if folder is not None:
            root = Path(folder)
            self.photos = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES) if root.is_dir() else []
            if not self.photos:
                raise DataError(
                    f"{folder}: holds no photos to take textures from. Give --textures the folder of DTD's images."
                )
            self.name = f"{len(self.photos)} photos of {folder}"
            self.drawn = 0
        else:
            self.photos = _bundled()
            self.name = f"{DRAWN} procedural" + (
                f", {len(self.photos)} pictures of scikit-image" if self.photos else ""
            )
            self.drawn = DRAWN
        self._kept = functools.lru_cache(maxsize=1024)(self._load)

    def draw(self, rng: np.random.Generator) -> Floats:
        """(S, S, 3): a photo of the folder, resized; or, half and half, a procedural texture or a random crop of a picture."""
        if not self.drawn:
            return self._kept(int(rng.integers(len(self.photos))))
        if not self.photos or rng.random() < 0.5:
            return self._kept(-1 - int(rng.integers(self.drawn)))
        picture = self._kept(int(rng.integers(len(self.photos))))
        top, left = (int(rng.integers(side - self.side + 1)) for side in picture.shape[:2])
        return picture[top : top + self.side, left : left + self.side]

    def _load(self, index: int) -> Floats:
        if index < 0:
            pixels = texture((self.side, self.side), np.random.default_rng([self.seed, -index]))
            return np.asarray(pixels, dtype=np.float32) / np.float32(255)
        side = 2 * self.side if self.drawn else self.side
        return np.ascontiguousarray(load_input(self.photos[index], side, None)[0].transpose(1, 2, 0))


def _bundled() -> list[Path]:
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        return []
    folder = Path(found.origin).parent / "data"
    return [folder / name for name in PICTURES if (folder / name).is_file()]


class AlwaysCorrupted:
    """DeSTSeg's: every photo, the picture as it is."""

    def __init__(self, textures: Textures) -> None:
        self.textures = textures

    def __call__(self, image: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Bools]:
        photo = image.transpose(1, 2, 0)
        seen, mask = corrupted(photo, self.textures.draw(rng), rng)
        return image, np.ascontiguousarray(seen.transpose(2, 0, 1)), mask


class SometimesCorrupted:
    """DRAEM's: the clean photo at times turned by any angle up to a quarter, half of the photos spoiled, the picture passed
    through three random operations first."""

    def __init__(self, textures: Textures, probability: float, turned: float) -> None:
        self.textures = textures
        self.probability = probability
        self.turned = turned

    def __call__(self, image: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Bools]:
        if rng.random() < self.turned:
            image = _rotated(image, float(rng.uniform(-90, 90)))
        nothing = np.zeros(image.shape[1:], dtype=bool)
        if rng.random() >= self.probability:
            return image, image, nothing
        photo = image.transpose(1, 2, 0)
        mask = draw_mask(photo.shape[:2], rng)
        picture = changed(self.textures.draw(rng), rng)
        seen = blended(photo, picture, mask, float(rng.uniform(0, 0.8)))
        return image, np.ascontiguousarray(seen.transpose(2, 0, 1)), mask


def _rotated(image: Floats, angle: float) -> Floats:
    planes = [Image.fromarray(plane).rotate(angle, resample=Image.Resampling.BILINEAR) for plane in image]
    return np.stack([np.asarray(plane, dtype=np.float32) for plane in planes])


def changed(picture: Floats, rng: np.random.Generator) -> Floats:
    """(h, w, 3) after three different ones of ``OPERATIONS``, in random order."""
    shown = Image.fromarray(np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8))
    for index in rng.choice(len(OPERATIONS), 3, replace=False):
        shown = OPERATIONS[int(index)](shown, rng)
    return np.asarray(shown, dtype=np.float32) / np.float32(255)


def _gamma(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    powers = rng.uniform(0.5, 2, 3)
    return Image.fromarray(np.rint(255 * (np.asarray(picture, dtype=np.float32) / 255) ** powers).astype(np.uint8))


def _brightness(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    values = np.asarray(picture, dtype=np.float32) * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _sharpness(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Sharpness(picture).enhance(float(rng.uniform(1, 3)))


def _hue(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    values = np.asarray(picture.convert("HSV"), dtype=np.int32).copy()
    hue, saturation = (int(shift) for shift in rng.integers(-50, 51, 2))
    values[..., 0] = (values[..., 0] + hue) % 256
    values[..., 1] = np.clip(values[..., 1] + saturation, 0, 255)
    planes = [Image.fromarray(values[..., channel].astype(np.uint8)) for channel in range(3)]
    return Image.merge("HSV", planes).convert("RGB")


def _solarised(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(picture, int(rng.integers(32, 129)))


def _posterised(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(picture, int(rng.integers(2, 5)))


def _inverted(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(picture)


def _contrasted(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.autocontrast(picture)


def _equalised(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.equalize(picture)


def _tilted(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.rotate(float(rng.uniform(-45, 45)), resample=Image.Resampling.BILINEAR)


OPERATIONS: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...] = (
    _gamma,
    _brightness,
    _sharpness,
    _hue,
    _solarised,
    _posterised,
    _inverted,
    _contrasted,
    _equalised,
    _tilted,
)
