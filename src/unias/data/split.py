"""Which good photos are held out for the cuts: chosen by hash, so by seed and names alone, on every machine; and which of
many stand for all: evenly spaced."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from unias.data.layouts import Sample
from unias.errors import UsageError


def hold_out(keys: Sequence[str], seed: int, fraction: float = 0.2, at_least: int = 20) -> tuple[list[str], list[str]]:
    """Split one product's good photos into (training, held out), each sorted.

    Held out are ``max(fraction * n to the nearest, min(at_least, n // 2))`` of n, never so many that no training photo
    is left: those whose SHA-256 of "seed:key" is smallest. The order of ``keys`` does not matter.

    Raises UsageError for a fraction outside [0, 1), a negative ``at_least``, or a key given twice.
    """
    if not 0 <= fraction < 1 or at_least < 0:
        raise UsageError(f"held-out fraction {fraction}, at least {at_least}: give 0 <= fraction < 1 and 0 or more.")
    if len(set(keys)) != len(keys):
        twice = sorted(key for key in set(keys) if list(keys).count(key) > 1)
        raise UsageError(f"{twice[0]}: named twice among the photos to split. Name every photo once.")
    count = len(keys)
    held = max(math.floor(fraction * count + 0.5), min(at_least, count // 2))
    held = max(0, min(held, count - 1))
    ranked = sorted(keys, key=lambda key: (_rank(seed, key), key))
    return sorted(ranked[held:]), sorted(ranked[:held])


def named(samples: Iterable[Sample], product: str, products: Collection[str]) -> dict[str, Sample]:
    """{key: photo} of those that may be ``product``'s: keys of flat folders are bare names, and a photo of another of the
    ``products`` is not this one's. (Groups have names of their own, which no folder bears.)"""
    return {sample.key: sample for sample in samples if sample.product == product or sample.product not in products}


def hold_out_products(
    samples: Iterable[Sample], seed: int, fraction: float = 0.2, at_least: int = 20
) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """``hold_out`` for each product's good training photos: {product: (training, held out)}, each sorted by key.

    Test photos and photos of defects are left aside, never held out.
    """
    products: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        if sample.split == "train" and sample.is_good:
            products.setdefault(sample.product, {})[sample.key] = sample
    split = {}
    for product in sorted(products):
        by_key = products[product]
        train, held = hold_out(list(by_key), seed, fraction, at_least)
        split[product] = ([by_key[key] for key in train], [by_key[key] for key in held])
    return split


def spaced(length: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` of the places 0 .. ``length`` - 1, evenly spaced, both ends among them."""
    if length <= count:
        return np.arange(length)
    return np.linspace(0, length - 1, count).round().astype(np.int64)


def _rank(seed: int, key: str) -> str:
    return hashlib.sha256(f"{int(seed)}:{key}".encode("utf-8", "surrogateescape")).hexdigest()
