"""Odd ones out and duplicates among the photos, found before anything is trained.

Duplicates: the same pixels, or photos closer in their frozen features than photos of a product ever are and alike pixel by
pixel. Odd ones: training photos far from all others of their product, or nearer to another product's.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unias.backbones.timm_backbone import build_backbone
from unias.data.check import inspect
from unias.data.decode import read_photo, to_display
from unias.data.layouts import Dataset, Sample, scan
from unias.errors import DataError, MissingError
from unias.presets import preset
from unias.progress import Progress
from unias.runtime import pick_device
from unias.studio.workspace import PHOTOS, Workspace
from unias.training.features import Features

SIDE = 32  # of the small pictures that are compared pixel by pixel
ALIKE = 2.0  # mean difference of those of near duplicates, in grey levels, at most
NEAR = 0.2  # of a product's usual distance to the next photo: near duplicates are closer
FAR = 6.0  # deviations (1.4826 x the median one) above a product's usual distance: odd ones are farther
NEIGHBOURS = 3
FEWEST = 8  # photos of a product that say what is usual

Rows = NDArray[np.float32]


def check_photos(workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """{"odd": [{"id", "product", "why"}], "duplicates": [[id, ...]], "errors", "warnings": [str], "note", "compared", "few"}:
    ``compared`` good photos were looked at for odd ones, of products in ``few`` none."""
    dataset = scan(workspace / PHOTOS)
    done = 0
    with progress.stage("reading photos", len(dataset.samples)) as advance:

        def on(count: int, _total: int) -> None:
            nonlocal done
            advance(count - done)
            done = count

        report = inspect(dataset, progress=on)
    readable, digests, small = _looks(dataset, progress)
    groups = _same(digests)
    odd: list[dict[str, str]] = []
    note, compared, few = "", 0, []
    try:
        rows = _features(readable, progress)
    except MissingError as error:
        note = f"photos were compared by their pixels alone: {error}"
    else:
        odd = odd_ones(readable, rows)
        counts = Counter(sample.product for sample in readable if sample.split == "train")
        compared = sum(count for count in counts.values() if count >= FEWEST)
        few = sorted(product for product, count in counts.items() if count < FEWEST)
        groups += near_twins(readable, rows, small)
    ids = [workspace.id_of(sample.path) for sample in readable]
    by_key = {sample.key: number for sample, number in zip(readable, ids, strict=True)}
    return {
        "odd": [{"id": by_key[one.pop("key")], **one} for one in odd],
        "duplicates": [sorted(ids[place] for place in group) for group in _joined(groups)],
        "errors": list(report.errors),
        "warnings": list(report.warnings),
        "note": note,
        "compared": compared,
        "few": few,
    }


def _looks(dataset: Dataset, progress: Progress) -> tuple[list[Sample], list[str], Rows]:
    """Photos that can be read, the hash of each one's pixels, and each one small: (n, SIDE * SIDE * 3) in 0..255."""

    def look(sample: Sample) -> tuple[str, Rows] | None:
        try:
            photo = read_photo(sample.path)
        except DataError:
            return None
        digest = hashlib.sha256(repr(photo.pixels.shape).encode() + photo.pixels.tobytes()).hexdigest()
        shown = Image.fromarray(to_display(photo)).resize((SIDE, SIDE), Image.Resampling.BOX)
        return digest, np.asarray(shown, dtype=np.float32).reshape(-1)

    kept, digests, small = [], [], []
    samples = dataset.samples
    with ThreadPoolExecutor(2) as pool, progress.stage("comparing photos", len(samples)) as advance:
        for sample, found in zip(samples, pool.map(look, samples), strict=True):
            advance()
            if found is not None:
                kept.append(sample)
                digests.append(found[0])
                small.append(found[1])
    return kept, digests, np.stack(small) if small else np.zeros((0, SIDE * SIDE * 3), dtype=np.float32)


@torch.no_grad()
def _features(samples: list[Sample], progress: Progress) -> Rows:
    """(n, channels of all levels) of the frozen network, averaged over places and brought to one scale."""
    config = preset("small")
    device = pick_device("auto")
    net = build_backbone(config.backbone).to(device)
    reader = Features(samples, net, config, device, progress)
    rows = [
        torch.cat([batch[level].float().mean(dim=(2, 3)) for level in sorted(batch)], dim=1).cpu().numpy()
        for batch in reader.batches("looking at photos")
    ]
    found = np.concatenate(rows) if rows else np.zeros((0, 1), dtype=np.float32)
    deviation = found.std(axis=0)
    scaled: Rows = ((found - found.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    return scaled


def _distances(one: Rows, other: Rows) -> NDArray[np.float64]:
    """Euclidean, (n, m)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
    found: NDArray[np.float64] = np.sqrt(np.clip(squares, 0, None))
    return found


def odd_ones(samples: list[Sample], rows: Rows) -> list[dict[str, str]]:
    """[{"key", "product", "why"}] of training photos, the oddest of each product first."""
    places = _by_product([sample if sample.split == "train" else None for sample in samples])
    centres = {product: np.median(rows[own], axis=0) for product, own in places.items() if len(own) >= 2}
    odd: list[dict[str, str]] = []
    for product, own in places.items():
        if len(own) < FEWEST:
            continue
        between = _distances(rows[own], rows[own])
        np.fill_diagonal(between, np.inf)
        near = np.sort(between, axis=1)[:, :NEIGHBOURS].mean(axis=1)
        usual = float(np.median(near))
        spread = 1.4826 * float(np.median(np.abs(near - usual))) + 0.02 * usual
        for place in np.argsort(-near, kind="stable"):
            key = samples[own[place]].key
            if near[place] > usual + FAR * spread:
                why = f"{near[place] / max(usual, 1e-9):.1f} times as far from the others as usual"
                odd.append({"key": key, "product": product, "why": why})
                continue
            to = {name: float(np.linalg.norm(rows[own[place]] - centre)) for name, centre in centres.items()}
            closest = min(to, key=lambda name: to[name]) if to else product
            if closest != product and to[closest] < 0.5 * to.get(product, 0.0):
                odd.append({"key": key, "product": product, "why": f"looks like {closest}"})
    return odd


def near_twins(samples: list[Sample], rows: Rows, small: Rows) -> list[set[int]]:
    """Pairs of photos of one product, of whatever split, that are all but the same."""
    pairs: list[set[int]] = []
    for own in _by_product(list(samples)).values():
        if len(own) < FEWEST:
            continue
        between = _distances(rows[own], rows[own])
        np.fill_diagonal(between, np.inf)
        limit = NEAR * float(np.median(between.min(axis=1)))
        for first, second in np.argwhere(np.triu(between <= limit, 1)):
            one, other = own[int(first)], own[int(second)]
            if float(np.abs(small[one] - small[other]).mean()) <= ALIKE:
                pairs.append({one, other})
    return pairs


def _by_product(samples: list[Sample | None]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        if sample is not None:
            places[sample.product].append(place)
    return places


def _same(digests: list[str]) -> list[set[int]]:
    places: dict[str, set[int]] = defaultdict(set)
    for place, digest in enumerate(digests):
        places[digest].add(place)
    return [group for group in places.values() if len(group) > 1]


def _joined(groups: list[set[int]]) -> list[set[int]]:
    """Groups that share a photo made one."""
    found: list[set[int]] = []
    for group in groups:
        touching = [other for other in found if other & group]
        found = [other for other in found if not other & group]
        found.append(group.union(*touching))
    return found
