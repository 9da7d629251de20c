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
from unias.data.split import named, spaced
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


def training_photos(data: Path | str, products: Sequence[ProductInfo]) -> list[list[Sample]]:
    """The good photos of each product that the model was trained on, found again in the data folder.

    Raises DataError where a product has none of them there.
    """
    found = _named(data, products, [product.train for product in products])
    for product, own in zip(products, found, strict=True):
        if not own:
            raise DataError(
                f"{data}: holds none of the {len(product.train)} good photos of {product.name} that the model was made with. "
                "Give --data the folder that it was trained on."
            )
    return found


def held_out_photos(data: Path | str, products: Sequence[ProductInfo]) -> list[list[Sample]]:
    """The same of the photos that were held out: those that are there, maybe none (what ``unias calibrate --good`` added lies
    elsewhere), and none of a product whose model learned from them (``--folds``)."""
    return _named(data, products, [() if product.folded else product.held_out for product in products])


def _named(data: Path | str, products: Sequence[ProductInfo], wanted: Sequence[Sequence[str]]) -> list[list[Sample]]:
    """Training photos by their keys, product by product; those that are not there are left out."""
    there, names = scan(data).train(), {product.name for product in products}
    found = []
    for product, keys in zip(products, wanted, strict=True):
        by_key = named(there, product.name, names)
        found.append([by_key[key] for key in keys if key in by_key])
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


def spread(groups: Sequence[Sequence[Sample]], count: int) -> list[Sample]:
    """About ``count`` of them, as many from each group as it has, evenly spaced over its length."""
    share = max(1, round(count / len(groups)))
    chosen = [group[place] for group in groups for place in spaced(len(group), share)]
    return [chosen[place] for place in spaced(len(chosen), count)]


def set_aside(groups: Sequence[Sequence[Sample]], count: int) -> tuple[list[list[Sample]], list[list[Sample]]]:
    """(groups without those set aside, those set aside): about ``count`` evenly spaced photos, no more than a third of a group,
    so none of a group of fewer than 3."""
    share = max(1, round(count / len(groups)))
    rest: list[list[Sample]] = []
    aside: list[list[Sample]] = []
    for group in groups:
        places = {int(place) for place in spaced(len(group), min(share, len(group) // 3))}
        aside.append([sample for place, sample in enumerate(group) if place in places])
        rest.append([sample for place, sample in enumerate(group) if place not in places])
    return rest, aside


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
