"""Products nobody named: photos in one heap are grouped by their frozen features, and the groups are named later.

Ward's agglomerative clustering of pooled features (principal components of the standardised channels); the number of groups is
the one with the largest mean silhouette, and one where no division stands out. Clustering is scikit-learn's (extra ``group``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.backbones.timm_backbone import FrozenBackbone
from unias.config import Config
from unias.data.layouts import Dataset, Sample
from unias.data.split import spaced
from unias.errors import MissingError, UsageError
from unias.maps.statistics import pool
from unias.maps.tiling import photo_means
from unias.progress import Progress
from unias.training.features import Features

NAME = "group {}"
COMPONENTS = 20
LOOKED_AT = 1500  # photos that are clustered; the others go to the nearest group
MOST = 20  # groups tried
STANDS_OUT = (
    0.42  # least silhouette of a division; one product comes to 0.1 to 0.4, several to 0.4 to 0.6 (docs/LOG.md)
)
LEAST = 4  # photos of a group


def group_photos(
    dataset: Dataset, wish: str, backbone: FrozenBackbone, config: Config, device: torch.device, progress: Progress
) -> Dataset:
    """The same photos with groups in the place of products.

    Args:
        wish: "auto", or how many groups.

    Raises:
        UsageError: a wish that is neither, test photos or several products in the folder, too few photos.
        MissingError: scikit-learn is not installed.
    """
    count = _count(wish)
    if len(dataset.products) != 1 or dataset.test():
        raise UsageError(
            f"--group: {dataset.root} holds {len(dataset.products)} named products"
            f"{' and test photos' if dataset.test() else ''}. Grouping is for one folder of good photos without names."
        )
    samples = dataset.train()
    if len(samples) < 2 * LEAST:
        raise UsageError(f"--group: {len(samples)} photos are too few to group; {2 * LEAST} are needed.")
    rows = pooled(samples, backbone, config, device, progress)
    labels = cluster(rows, count)
    names = [NAME.format(number) for number in range(1, int(labels.max()) + 2)]
    progress.say(
        "groups found: " + ", ".join(f"{name} ({int((labels == place).sum())})" for place, name in enumerate(names))
    )
    told = [dataclasses.replace(one, product=names[label]) for one, label in zip(samples, labels, strict=True)]
    ordered = tuple(sorted(told, key=lambda sample: (sample.product, sample.key)))
    return dataclasses.replace(dataset, products=tuple(sorted(names)), samples=ordered)


@torch.inference_mode()
def pooled(
    samples: Sequence[Sample], backbone: FrozenBackbone, config: Config, device: torch.device, progress: Progress
) -> NDArray[np.float64]:
    """(n, F) pooled features."""
    features = Features(samples, backbone, config, device, progress)
    return (
        torch.cat([photo_means(pool(batch), features.tiling.views) for batch in features.batches("looking for groups")])
        .cpu()
        .double()
        .numpy()
    )


def cluster(rows: NDArray[np.float64], count: int | None) -> NDArray[np.int64]:
    """(n, F) -> (n,) groups 0, 1, ..., the largest first. ``count`` None = as many as stand out."""
    try:
        from sklearn.cluster import AgglomerativeClustering
        from sklearn.metrics import silhouette_score
    except ImportError as error:
        raise MissingError('--group needs scikit-learn. pip install "unias[group]" brings it.') from error
    places = spaced(len(rows), LOOKED_AT)
    standard = (rows - rows[places].mean(axis=0)) / (rows[places].std(axis=0) + 1e-9)
    _, strengths, axes = np.linalg.svd(standard[places], full_matrices=False)
    kept = max(2, min(COMPONENTS, len(places) // 4, int((strengths > 1e-9).sum())))  # few photos span few directions
    points = standard @ axes[:kept].T
    seen = points[places]

    def divided(number: int) -> NDArray[np.int64]:
        return np.asarray(AgglomerativeClustering(number, linkage="ward").fit_predict(seen), dtype=np.int64)

    if count is not None:
        found = divided(count) if count > 1 else np.zeros(len(seen), dtype=np.int64)
    else:
        best, found = STANDS_OUT, np.zeros(len(seen), dtype=np.int64)
        for number in range(2, min(MOST, len(seen) // LEAST) + 1):
            labels = divided(number)
            score = float(silhouette_score(seen, labels))
            if score > best and np.bincount(labels).min() >= LEAST:
                best, found = score, labels
    centres = np.stack([seen[found == place].mean(axis=0) for place in range(int(found.max()) + 1)])
    nearest = np.square(points[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
    nearest[places] = found
    order = np.argsort(-np.bincount(nearest, minlength=len(centres)), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.asarray(rank[nearest], dtype=np.int64)


def examples(dataset: Dataset, count: int = 8) -> dict[str, list[Path]]:
    """{group: some of its photos, evenly spaced}, for people to name it by."""
    found: dict[str, list[Path]] = {}
    for name in dataset.products:
        own: list[Any] = dataset.train(name)
        found[name] = [own[place].path for place in spaced(len(own), count)]
    return found


def _count(wish: str) -> int | None:
    if wish == "auto":
        return None
    if not wish.isdecimal() or not 1 <= int(wish) <= 1000:
        raise UsageError(f"--group {wish}: give auto, or how many products the photos show.")
    return int(wish)
