"""Augmentation by product (spec section 9): only where the product allows it.

The paper's recipes: flips with probability 0.3 each, then a rotation by 0, 90, 180 or 270 degrees, equally likely. The lists
are those of its data sets; a product that is on no list is not augmented. The recipe ``auto`` knows no names: it is told the
turns that each product allows (training/symmetry.py), all equally likely.

A turn is one of the eight ways to lay a square down: turn % 4 rotations by 90 degrees, after a left-right flip from 4 on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FLIP_PROBABILITY = 0.3
TURNS = 8

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


@dataclass(frozen=True)
class Augmentation:
    """How a recipe turns photos.

    Attributes:
        recipe: mvtec, visa, none or auto.
        allowed: for ``auto``, {product: its turns}; a product that is not in it is not turned.
    """

    recipe: str
    allowed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def turns(self, product: str) -> tuple[int, ...]:
        """Every turn that a photo of this product may get, 0 (as it is) among them."""
        if self.recipe == "auto":
            return self.allowed.get(product, (0,))
        lists = RECIPES[self.recipe]
        flips = [(False, True) if product in lists[name] else (False,) for name in ("hflip", "vflip")]
        rotations = range(4) if product in lists["rotate"] else (0,)
        return tuple(sorted({turn_of(h, v, r) for h in flips[0] for v in flips[1] for r in rotations}))

    def draw(self, product: str, rng: np.random.Generator) -> int:
        """The turn of one photo."""
        if self.recipe == "auto":
            turns = self.turns(product)
            return turns[int(rng.integers(len(turns)))]
        lists = RECIPES[self.recipe]
        hflip = product in lists["hflip"] and rng.random() < FLIP_PROBABILITY
        vflip = product in lists["vflip"] and rng.random() < FLIP_PROBABILITY
        rotations = int(rng.integers(4)) if product in lists["rotate"] else 0
        return turn_of(hflip, vflip, rotations)


def turn_of(hflip: bool, vflip: bool, rotations: int) -> int:
    """Flips, then rotations by 90 degrees, as one turn; a top-bottom flip is a left-right flip and half a rotation."""
    return 4 * (hflip != vflip) + (rotations + 2 * vflip) % 4


def after(first: int, second: int) -> int:
    """The turn that comes of two, one after the other: a flip turns round what was rotated before it."""
    rotations = -first % 4 if second >= 4 else first % 4
    return turn_of((first >= 4) != (second >= 4), False, rotations + second % 4)


def closed(turns: Iterable[int]) -> frozenset[int]:
    """The turns that come of these, in any order and number: with 0, a group."""
    found = {0, *turns}
    while more := {after(a, b) for a in found for b in found} - found:
        found |= more
    return frozenset(found)


def turned(image: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """(3, S, S) -> the same shape, C-contiguous."""
    if turn >= 4:
        image = image[:, :, ::-1]
    return np.ascontiguousarray(np.rot90(image, turn % 4, axes=(1, 2)))


def draw(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The generator of one photo in one epoch: it does not depend on workers, order or what was drawn before."""
    word = hashlib.sha256(key.encode("utf-8")).digest()[:8]
    return np.random.default_rng([seed, epoch, int.from_bytes(word, "little")])
