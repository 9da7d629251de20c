"""Photos that an export is compared on and calibrated with: good ones from a data folder, and the same with drawn defects.

No labels are used: where a defect was drawn is known exactly. Axes: n photos, S side of the model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unias.config import Config
from unias.data.decode import Photo, load_input, read_photo, to_display
from unias.data.defects import draw_defect
from unias.data.layouts import Sample, scan
from unias.data.textures import TEXTURES, texture
from unias.errors import DataError
from unias.inference.products import ProductInfo

UNKNOWN = -1


@dataclass(frozen=True)
class Photos:
    """Pixels as the model sees them.

    Attributes:
        images: (n, 3, S, S) float32 in [0, 1].
        product: (n,) int64, index into the model's products; -1 = not known.
        masks: (n, S, S) bool: where a defect was drawn.
        source: what they are, for people.
        deep: whether any photo had more than 8 bits.
    """

    images: NDArray[np.float32]
    product: NDArray[np.int64]
    masks: NDArray[np.bool_]
    source: str
    deep: bool = False

    def __len__(self) -> int:
        return len(self.images)


def training_photos(data: Path | str, products: Sequence[ProductInfo], held_out: bool = False) -> list[list[Sample]]:
    """The good photos of each product that the model was trained on (or those held out), found again in the data folder.

    Raises DataError where a product has none of them there.
    """
    by_key = {sample.key: sample for sample in scan(data).samples}
    found = []
    for product in products:
        keys = product.held_out if held_out and product.held_out else product.train
        own = [by_key[key] for key in keys if key in by_key]
        if not own:
            raise DataError(
                f"{data}: holds none of the {len(keys)} good photos of {product.name} that the model was made with. Give "
                "--data the folder that it was trained on."
            )
        found.append(own)
    return found


def good_photos(data: Path | str, products: Sequence[ProductInfo]) -> list[list[Sample]]:
    """Good photos of each product in any data folder, by the products' names; all of them together where no name fits. Test
    photos serve only where there are no others."""
    good = [sample for sample in scan(data).samples if sample.is_good]
    good = [sample for sample in good if sample.split == "train"] or good
    named = [[sample for sample in good if sample.product == product.name] for product in products]
    found = [own for own in named if own] or [good]
    if not found[0]:
        raise DataError(f"{data}: holds no good photos. Give --data a folder of good photos of the model's products.")
    return found


def spread(groups: Sequence[Sequence[Sample]], count: int, start: int = 0) -> list[Sample]:
    """About ``count`` of them, evenly from each group and over its length; ``start`` moves to the photos in between."""
    share = max(1, round(count / len(groups)))
    chosen: list[Sample] = []
    for group in groups:
        step = max(1, len(group) // share)
        first = start * step // 2 % len(group)
        chosen += (list(group[first:]) + list(group[:first]))[::step][:share]
    if len(chosen) <= count:
        return chosen
    return [chosen[int(place)] for place in np.linspace(0, len(chosen) - 1, count).round()]


def read_inputs(samples: Sequence[Sample], config: Config) -> NDArray[np.float32]:
    """(n, 3, S, S)."""
    return np.stack([load_input(sample.path, config.input_size, config.bits)[0] for sample in samples])


def with_defects(samples: Sequence[Sample], products: Sequence[ProductInfo], config: Config, source: str) -> Photos:
    """Each photo, and after it the same with one drawn defect."""
    index = {product.name: place for place, product in enumerate(products)}
    images: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    deep = False
    for number, sample in enumerate(samples):
        pixels, photo = load_input(sample.path, config.input_size, config.bits)
        deep = deep or photo.bits > 8
        drawn, mask = _draw(photo, config.input_size, number)
        images += [pixels, drawn]
        masks += [np.zeros_like(mask), mask]
    product = np.repeat([index.get(sample.product, UNKNOWN) for sample in samples], 2).astype(np.int64)
    return Photos(np.stack(images), product, np.stack(masks), source, deep)


def drawn_pictures(count: int, config: Config) -> Photos:
    """Textures without a photo behind them, each also with a defect: where there is no data folder."""
    images: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    for number in range(count):
        rng = np.random.default_rng([number, 5])
        photo = read_photo(texture((config.input_size, config.input_size), rng, list(TEXTURES)[number % len(TEXTURES)]))
        drawn, mask = _draw(photo, config.input_size, number)
        images += [load_input(photo.pixels, config.input_size)[0], drawn]
        masks += [np.zeros_like(mask), mask]
    product = np.full(len(images), UNKNOWN, dtype=np.int64)
    return Photos(np.stack(images), product, np.stack(masks), "drawn textures")


def _draw(photo: Photo, size: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    pixels, mask, _ = draw_defect(to_display(photo, size), np.random.default_rng([number, 3]))
    return load_input(pixels, size)[0], mask
