"""Which fusion suits a product, without a label: by defects drawn into its training photos.

Drawn defects are no real ones, and what counts is which rule they favour. Three things were needed until they favoured the right
ones (docs/LOG.md). They lie on the part and are no larger than it is thick (``foreground``), so that a thin part asks for sharp
maps and a texture for wide ones; faint ones stand beside plain ones. Each counts by the root of its area: between photos alike,
where specks would decide, and pixels alike, as the field measures, where the largest would. And no single rule is taken for a
hair's breadth: all are mixed, by how far they fall behind the best.

Legend: n photos, h x h the size of level maps, S x S the model's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unias.calibration.foreground import foreground, thickness
from unias.config import Config
from unias.data.decode import read_photo, to_display, to_input
from unias.data.defects import KINDS, MIN_SIDE, draw_defect
from unias.data.layouts import Sample
from unias.data.split import spaced
from unias.maps.detector import Detector
from unias.maps.fusion import Rule, mixed, usable

OPACITIES = (1.0, 0.5)
VARIANTS = len(OPACITIES)
FINER = 2  # photos are drawn on at so many times the model's input
DIAMETER = 1.5  # of a part, about, over the side of the largest square in it
SOFTNESS = 0.02  # of mean precision: a rule so far behind the best has a weight of 1/e of its
BATCH = 8

Bools = NDArray[np.bool_]


@torch.inference_mode()
def choose_rule(
    detector: Detector, samples: Sequence[Sample], place: int, config: Config, photos: int, seed: int
) -> Rule:
    """The rules that find drawn defects best, mixed into one.

    Args:
        samples: training photos of one product; ``photos`` of them, evenly spaced, are drawn on.
        place: of the product. Its level means and local share must be fitted.
    """
    rules = usable(detector.unias.levels, detector.wide is not None)
    scores: list[Tensor] = []
    areas: list[Tensor] = []
    for images, masks in _drawn([samples[i] for i in spaced(len(samples), photos)], config, seed):
        pixels = torch.from_numpy(images).to(detector.device)
        levels = detector.levels_of(detector.reconstruct(detector.features(pixels)))
        ratios = detector.ratios(levels, torch.full((len(pixels),), place, device=detector.device))
        truth = halved(torch.from_numpy(masks).to(detector.device))
        scores.append(torch.stack([precision(maps, truth) for maps in detector.maps_by(ratios, rules)]))
        areas.append(truth.sum(dim=(1, 2)))
    counts = torch.cat(areas).double().sqrt()
    means = torch.cat(scores, dim=1).double() @ (counts / counts.sum())
    return mixed(rules, torch.softmax(means / SOFTNESS, dim=0).tolist(), detector.unias.levels)


def precision(maps: Tensor, truth: Tensor) -> Tensor:
    """Average precision of each photo's pixels: (n, h, h) and bool (n, h, h), each with a True -> (n,); ties by place."""
    ranked = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    hits = truth.flatten(1).gather(1, ranked).float()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return ((hits.cumsum(dim=1) / ranks) * hits).sum(dim=1) / hits.sum(dim=1)


def halved(masks: Tensor) -> Tensor:
    """bool (n, S, S) -> (n, S/2, S/2): True where half of it is, or where most of it is in a mask too small for that."""
    share = F.avg_pool2d(masks[:, None].float(), 2)[:, 0]
    most = share.amax(dim=(1, 2), keepdim=True)
    return share >= most.clamp(max=0.5)


def _drawn(samples: Sequence[Sample], config: Config, seed: int) -> Iterator[tuple[NDArray[np.float32], Bools]]:
    """Batches of (images (n, 3, S, S) in [0, 1], masks (n, S, S)): every photo with one defect in each opacity."""
    images: list[NDArray[np.float32]] = []
    masks: list[Bools] = []
    at_once = max(1, BATCH // config.tiling.views)
    for number, sample in enumerate(samples):
        rng = np.random.default_rng([seed, number, 5])
        photo = to_display(read_photo(sample.path, config.bits), FINER * config.input_size)
        drawn, mask = draw_on_part(photo, KINDS[number % len(KINDS)], rng)
        small = _shrunk(mask, config.input_size)
        for opacity in OPACITIES:
            mixed = photo + opacity * (drawn.astype(np.float32) - photo)
            picture = read_photo(mixed.round().astype(np.uint8))
            images.append(to_input(picture, config.input_size))
            masks.append(small)
        while len(images) >= at_once:
            yield np.stack(images[:at_once]), np.stack(masks[:at_once])
            del images[:at_once], masks[:at_once]
    if images:
        yield np.stack(images), np.stack(masks)


def draw_on_part(photo: NDArray[np.uint8], kind: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Bools]:
    """(h, h, 3) with a defect drawn into a square as large as the part is thick, around a place of the part; its mask (h, h)."""
    part = foreground(photo)
    length = len(photo)
    side = int(min(length, max(MIN_SIDE, DIAMETER * thickness(part))))
    rows, columns = np.nonzero(part)
    chosen = int(rng.integers(len(rows)))
    top, left = (int(np.clip(place[chosen] - side // 2, 0, length - side)) for place in (rows, columns))
    square = np.s_[top : top + side, left : left + side]
    drawn, mask = photo.copy(), np.zeros(photo.shape[:2], dtype=bool)
    drawn[square], mask[square], _ = draw_defect(np.ascontiguousarray(photo[square]), rng, kind)
    return drawn, mask


def _shrunk(mask: Bools, size: int) -> Bools:
    """At the model's input; never empty."""
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((size, size), Image.Resampling.BOX))
    return share >= min(0.5, float(share.max()))
