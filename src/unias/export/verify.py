"""An export against the trained model on photos: how far maps, scores and products are apart, and where that is too far."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.errors import ExportError
from unias.export.photos import Photos
from unias.inference.engines import ExportedDetector, to_pixels
from unias.maps.detector import Detector
from unias.systems.detector import SystemDetector

BATCHES = (1, 3, 8)  # photos, or views of them: every size that is tried, so that their number is proven to be free
FLOAT_LIMIT = 1e-4  # largest difference of any photo's map over the map's largest value


@dataclass(frozen=True)
class Difference:
    """Of an export from the trained model.

    Attributes:
        photos: how many were compared.
        source: which.
        largest: largest difference of a photo's map over the map's largest value, of the worst photo.
        mean: mean difference of the maps over their mean.
        score: largest difference of a photo's score over the score.
        products: how many photos are taken for another product, or for none.
        precision: pixel average precision on the drawn defects, trained and exported, in per cent.
    """

    photos: int
    source: str
    largest: float
    mean: float
    score: float
    products: int
    precision: tuple[float, float]

    @property
    def precision_lost(self) -> float:
        """In points; negative where the export finds the drawn defects better."""
        return self.precision[0] - self.precision[1]

    def line(self) -> str:
        """For people."""
        found = f"; {self.precision[1]:.2f} of 100 pixel average precision on the drawn defects, trained {self.precision[0]:.2f}"
        return (
            f"maps differ from the trained model's by at most {self.largest:.2g} of their largest value on {self.photos} photos "
            f"({self.source}){found}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def maps_of(
    detector: Detector | SystemDetector | ExportedDetector, photos: Photos, known: bool, views: int = 1
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(anomaly maps (n, S, S), product (n,), -1 = none that is known), in batches of 8 in turn with smaller ones, fewer where a
    photo is cut into ``views``."""
    return answers_of(detector, photos, known, views)[:2]


@torch.inference_mode()
def answers_of(
    detector: Detector | SystemDetector | ExportedDetector, photos: Photos, known: bool, views: int = 1
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The same and the scores (n,): the maps' highest values, or a system's own."""
    maps: list[NDArray[Any]] = []
    products: list[NDArray[Any]] = []
    scores: list[NDArray[Any]] = []
    for start, stop in batches(len(photos), views):
        images = torch.from_numpy(photos.images[start:stop]).to(detector.device)
        product = torch.from_numpy(photos.product[start:stop]).to(detector.device) if known else None
        given = detector(images, product)
        maps.append(given.anomaly_map.float().cpu().numpy())
        found = given.product if given.novelty is None else torch.where(given.novelty > 1, -1, given.product)
        products.append(found.cpu().numpy())
        scores.append(given.scores().float().cpu().numpy())
    return np.concatenate(maps), np.concatenate(products), np.concatenate(scores)


def batches(count: int, views: int = 1) -> list[tuple[int, int]]:
    """Cuts of 0 .. count into 1, 3, 8, 8, 8 ...; where photos are cut into ``views``, sizes that hold as many views, but 2 photos
    at the least after the first."""
    edges, sizes = [0], [1, *(max(min(2, size), size // views) for size in BATCHES[1:])]
    while edges[-1] < count:
        edges.append(min(count, edges[-1] + (sizes.pop(0) if len(sizes) > 1 else sizes[0])))
    return list(itertools.pairwise(edges))


def compare(trained: Detector | SystemDetector, exported: ExportedDetector, photos: Photos) -> Difference:
    """Both on the same photos: products found by each itself, maps by the products that are known (or were found)."""
    views = trained.tiling.views if isinstance(trained, Detector) else 1
    own, found, own_scores = answers_of(trained, photos, known=False, views=views)
    theirs, found_theirs, their_scores = answers_of(exported, photos, known=False, views=views)
    if (photos.product >= 0).all():
        own, _, own_scores = answers_of(trained, photos, known=True, views=views)
        theirs, _, their_scores = answers_of(exported, photos, known=True, views=views)
    _check_outputs(exported, photos, theirs.shape)
    apart = np.abs(own.astype(np.float64) - theirs)
    top, score = own.max(axis=(1, 2)), np.abs(own_scores.astype(np.float64) - their_scores)
    floor = max(float(top.max()) * 1e-6, 1e-12)
    groups = photos.product if (photos.product >= 0).all() else found
    return Difference(
        photos=len(photos),
        source=photos.source,
        largest=float((apart.max(axis=(1, 2)) / np.maximum(top, floor)).max()),
        mean=float(apart.mean() / max(float(own.mean()), 1e-12)),
        score=float((score / np.maximum(own_scores, floor)).max()),
        products=int((found != found_theirs).sum()),
        precision=(drawn_precision(own, photos.masks, groups), drawn_precision(theirs, photos.masks, groups)),
    )


def drawn_precision(maps: NDArray[Any], masks: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """Pixel average precision on drawn defects, mean of the products, in per cent."""
    values = [average_precision(masks[groups == k], maps[groups == k]) for k in np.unique(groups)]
    return 100 * float(np.nanmean(values))


def average_precision(labels: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    """Mean precision at each positive, ties in order of place; the protocol's own is in ``unias.evaluation``."""
    hits = labels.ravel()[np.argsort(-scores.ravel(), kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean()) if hits.any() else float("nan")


def require_equal(difference: Difference, name: str, limit: float = FLOAT_LIMIT) -> None:
    """Raise ExportError where a float export is not the trained model to rounding."""
    if difference.products:
        raise ExportError(
            f"{name}: takes {difference.products} of {difference.photos} photos for another product than the trained model "
            "does. The export was not kept; please report it with the versions of torch and of the runtime."
        )
    if not difference.largest <= limit:  # NaN is no pass
        raise ExportError(
            f"{name}: maps differ from the trained model's by {difference.largest:.2g} of their largest value, {limit:g} is "
            "allowed. The export was not kept; please report it with the versions of torch and of the runtime."
        )
    if not difference.score <= limit:
        raise ExportError(
            f"{name}: scores differ from the trained model's by {difference.score:.2g} of their value, {limit:g} is "
            "allowed. The export was not kept; please report it with the versions of torch and of the runtime."
        )


def _check_outputs(exported: ExportedDetector, photos: Photos, shape: Sequence[int]) -> None:
    """The graph's score is its map's highest value, unless it is the system's own (which is compared), and its level maps are
    there at half the size."""
    few = photos.images[:2]
    given = exported.session(to_pixels(torch.from_numpy(few), exported.info.pixels), np.full(len(few), -1))
    if not exported.info.own_score and not np.allclose(
        given["raw_score"], given["anomaly_map"].max(axis=(1, 2)), rtol=1e-6
    ):
        raise ExportError("the graph's raw_score is not the highest value of its anomaly_map. It was not kept.")
    if given["novelty"].shape != (len(few),) or not (given["novelty"] >= 0).all():
        raise ExportError("the graph's novelty is not one number a photo from 0 up. It was not kept.")
    for level in exported.info.levels:
        if given[f"level_{level}"].shape != (len(few), shape[1] // 2, shape[2] // 2):
            raise ExportError(f"the graph's level_{level} has the shape {given[f'level_{level}'].shape}.")
