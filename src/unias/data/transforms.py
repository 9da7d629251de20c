"""Augmentation by product (spec section 9): only where the product allows it.

Flips with probability 0.3 each, then a rotation by 0, 90, 180 or 270 degrees, equally likely. The lists are those of the
paper's data sets; a product that is on no list is not augmented.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

FLIP_PROBABILITY = 0.3

_MVTEC_FLIP = frozenset(
    ["bottle", "carpet", "grid", "hazelnut", "metal_nut", "pill", "screw", "tile", "wood", "zipper"]
)
RECIPES: dict[str, dict[str, frozenset[str]]] = {
    "mvtec": {
        "hflip": _MVTEC_FLIP,
        "vflip": _MVTEC_FLIP,
        "rotate": frozenset(["bottle", "carpet", "hazelnut", "screw", "tile", "wood"]),
    },
    "visa": {
        "hflip": frozenset(["candle", "macaroni2", "capsules", "chewinggum", "fryum", "macaroni1", "pipe_fryum"]),
        "vflip": frozenset(["macaroni2", "capsules", "chewinggum", "fryum", "pipe_fryum"]),
        "rotate": frozenset(["macaroni2", "capsules", "fryum"]),
    },
    "none": {"hflip": frozenset(), "vflip": frozenset(), "rotate": frozenset()},
}


def is_augmented(product: str, recipe: str) -> bool:
    """Whether the recipe turns or flips this product at all."""
    return any(product in names for names in RECIPES[recipe].values())


def augment(image: NDArray[np.float32], product: str, recipe: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """(3, S, S) -> the same shape, flipped and turned as the recipe allows; C-contiguous."""
    lists = RECIPES[recipe]
    if product in lists["hflip"] and rng.random() < FLIP_PROBABILITY:
        image = image[:, :, ::-1]
    if product in lists["vflip"] and rng.random() < FLIP_PROBABILITY:
        image = image[:, ::-1, :]
    if product in lists["rotate"]:
        image = np.rot90(image, int(rng.integers(4)), axes=(1, 2))
    return np.ascontiguousarray(image)


def draw(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The generator of one photo in one epoch: it does not depend on workers, order or what was drawn before."""
    word = hashlib.sha256(key.encode("utf-8")).digest()[:8]
    return np.random.default_rng([seed, epoch, int.from_bytes(word, "little")])
