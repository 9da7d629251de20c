"""A model of hundreds of products: real photos and slices of them, solar cells and textures, and drawn textures for the rest.

    the products of the data folder, whole      the demo's solar cells and textures, whole      (the first of the list)
    the same in slices: ninths of each photo, every one a product of its own
    textures drawn by ``unias.data.textures``, each with its own kind, colours and scale

What a model keeps of a product (class mean, usual noise, share of the surroundings) is fitted to photos of each, as in training.
The weights stay those of the model: they never saw most of these products, which costs accuracy, not time or memory.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unias.calibration.cuts import unpromised
from unias.data.decode import load_input, read_photo, to_display
from unias.data.layouts import Dataset, Sample
from unias.data.textures import TEXTURES, texture
from unias.inference.products import ProductInfo
from unias.inference.store import StoredModel
from unias.maps.detector import Detector
from unias.maps.statistics import ProductStatistics
from unias.progress import Progress

PARTS = 3  # a photo's side is cut into so many
ROOM = 1.5  # a slice is so much wider than a ninth, and moves by the rest
TESTED = 2  # photos of each product that it is not fitted to, and should be recognised by
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Product:
    """One of many: its name, where it comes from, and ``photo(k)`` (S, S, 3), the same k the same pixels."""

    name: str
    kind: str
    photo: Callable[[int], Bytes]


def many_products(datasets: Sequence[Dataset], size: int, count: int) -> list[Product]:
    """The first ``count`` of the list above."""
    return list(itertools.islice(_sources(datasets, size), count))


def _sources(datasets: Sequence[Dataset], size: int) -> Iterator[Product]:
    groups = {name: dataset.train(name) for dataset in datasets for name in dataset.products if dataset.train(name)}
    for name, samples in groups.items():
        yield Product(name, "whole photos", _whole(samples, size))
    for place in range(PARTS * PARTS):
        for name, samples in groups.items():
            yield Product(f"{name} {place + 1} of {PARTS * PARTS}", "slices of photos", _slice(samples, size, place))
    number = 0
    while True:
        kind = list(TEXTURES)[number % len(TEXTURES)]
        yield Product(f"{kind} {number:03}", "drawn textures", _drawn(kind, number, size))
        number += 1


def _whole(samples: Sequence[Sample], size: int) -> Callable[[int], Bytes]:
    return lambda k: to_display(read_photo(samples[k % len(samples)].path), size)


def _slice(samples: Sequence[Sample], size: int, place: int) -> Callable[[int], Bytes]:
    side = PARTS * size // 2
    width = int(ROOM * side / PARTS)
    step = (side - width) / (PARTS - 1)

    def photo(k: int) -> Bytes:
        pixels = to_display(read_photo(samples[k % len(samples)].path), side)
        moved = np.random.default_rng([place, k, 11]).uniform(0, (ROOM - 1) * side / PARTS / 2, 2)
        top, left = (
            int(min(side - width, cell * step + by)) for cell, by in zip(divmod(place, PARTS), moved, strict=True)
        )
        return np.ascontiguousarray(pixels[top : top + width, left : left + width])

    return photo


def _drawn(kind: str, number: int, size: int) -> Callable[[int], Bytes]:
    def photo(k: int) -> Bytes:
        top, left = np.random.default_rng([number, k, 17]).integers(0, size, 2)
        return np.ascontiguousarray(_sheet(kind, number, size)[top : top + size, left : left + size])

    return photo


@functools.lru_cache(maxsize=1)
def _sheet(kind: str, number: int, size: int) -> Bytes:
    """One drawn surface, of which a product's photos show places. The last one is kept: photos of a product come in a row."""
    return texture((2 * size, 2 * size), np.random.default_rng([number, 13]), kind)


@dataclass(frozen=True)
class Widened:
    """A model with many products, and the share of unseen photos that it takes for their own product."""

    stored: StoredModel
    recognised: float
    kinds: dict[str, int]


@torch.inference_mode()
def widen(stored: StoredModel, products: Sequence[Product], photos: int, progress: Progress) -> Widened:
    """The model with these products in place of its own, each fitted to ``photos`` photos.

    Lists of photos are taken over from the model's own products in turn, so that files grow as they would.
    """
    assert isinstance(stored.detector, Detector)
    old, size = stored.detector, stored.config.input_size
    names, views = tuple(product.name for product in products), old.tiling.views
    statistics = ProductStatistics(names, old.backbone.channels, old.default_rule)
    detector = Detector(old.backbone, old.unias, statistics, old.config, stored.config.size, old.tiling).eval()
    pooled: list[Tensor] = []
    unseen: list[Tensor] = []
    infos: list[ProductInfo] = []
    with progress.stage(f"statistics of {len(products)} products", len(products)) as advance:
        for index, product in enumerate(products):
            images = torch.from_numpy(np.stack([load_input(product.photo(k), size)[0] for k in range(photos + TESTED)]))
            features = detector.features(images)
            pooled.append(detector.pooled(features)[:photos])
            unseen.append(detector.pooled(features)[photos:])
            levels = detector.levels_of(detector.unias({k: v[: photos * views] for k, v in features.items()}))
            if detector.config.fusion == "mean":
                statistics.fit_levels(index, levels, detector.local, detector.config.local_spread)
            highest = float(detector.fuse(levels, torch.full((photos,), index)).max())
            like = stored.products[index % len(stored.products)]
            infos.append(dataclasses.replace(like, name=product.name, cut=unpromised(highest)))
            advance(1, product.name)
    reach = stored.config.calibration.unknown_reach
    statistics.fit_prototypes(torch.cat(pooled), torch.arange(len(names)).repeat_interleave(photos), reach)
    found = statistics.nearest(torch.cat(unseen))
    right = (found == torch.arange(len(names)).repeat_interleave(TESTED)).float().mean()
    kinds = {
        kind: sum(product.kind == kind for product in products) for kind in dict.fromkeys(p.kind for p in products)
    }
    return Widened(StoredModel(detector, stored.config, tuple(infos), stored.record), float(right), kinds)


def folder_bytes(folder: Path) -> int:
    """Of all files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def statistics_bytes(detector: Detector) -> int:
    """Of the numbers that it keeps of its products."""
    return sum(value.numel() * value.element_size() for value in detector.statistics.buffers())
