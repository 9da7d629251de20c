"""PatchCore (Roth et al., CVPR 2022): a memory of good patches, and the distance to the nearest of them.

    features of two levels -> one vector a patch -> coreset; a photo's map = squared distances to it, enlarged, blurred

Legend: N photos, g x g patches a photo, M patches in all, D length of a patch's vector.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.progress import Progress
from unias.systems.nets.smoothing import blurred

STARTS = 10  # random patches that the search for a coreset measures from first; they are not in it themselves
PROJECTED = 128
TIMED = 50  # patches found before it is reckoned how many fit into a time


def patches(fine: Tensor, coarse: Tensor) -> Tensor:
    """fine (N, A, g, g), coarse (N, B, g/2, g/2) -> (N, g, g, A + B): 3x3 means, the coarse level resized; any backbone."""
    size = fine.shape[-2:]
    both = [F.avg_pool2d(fine, 3, 1, 1), _enlarged(F.avg_pool2d(coarse, 3, 1, 1), size)]
    return torch.cat(both, dim=1).permute(0, 2, 3, 1)


def authors_patches(fine: Tensor, coarse: Tensor) -> Tensor:
    """fine (N, A, g, g), coarse (N, 2 A, g/2, g/2) -> (N, g, g, 2 A): what unfolding 3x3 patches and averaging them adaptively
    down to 2 A numbers comes to (zero padding): fine under a 3x3 kernel of 0.1 with 0.2 in its centre, coarse as its 3x3
    mean, channels averaged in pairs."""
    size = fine.shape[-2:]
    centred = 0.9 * F.avg_pool2d(fine, 3, 1, 1) + 0.1 * fine
    mean = F.avg_pool2d(coarse, 3, 1, 1)
    pairs = (mean[:, 0::2] + mean[:, 1::2]) / 2
    return torch.cat([centred, _enlarged(pairs, size)], dim=1).permute(0, 2, 3, 1)


def coreset(
    vectors: Tensor,
    count: int,
    projection: Tensor | None,
    starts: Sequence[int],
    seconds: float | None = None,
    progress: Progress | None = None,
) -> list[int]:
    """Which ``count`` of the M vectors (M, D) cover the rest best: greedy, approximate (the authors' default).

    Args:
        projection: (128, D); distances are taken behind it. None = as they are.
        starts: patches whose mean distance ranks all others at first.
        seconds: as many as can be found in this time, where that is fewer; the first ones are timed.
    """
    began = time.monotonic()
    rows = vectors if projection is None else vectors @ projection.T
    nearest = torch.stack([_distance(rows, rows[start]) for start in starts], dim=1).mean(dim=1)
    chosen: list[int] = []
    count = min(count, len(rows))
    with (progress or Progress("silent")).stage("choosing patches", count) as advance:
        timed = time.monotonic()
        while len(chosen) < count:
            farthest = int(nearest.argmax())
            chosen.append(farthest)
            nearest = torch.minimum(nearest, _distance(rows, rows[farthest]))
            advance()
            if seconds is not None and len(chosen) == TIMED:
                now = time.monotonic()
                left, each = seconds - (now - began), (now - timed) / TIMED
                count = min(count, TIMED + max(0, int(left / each)))
    return chosen


class PatchCore(nn.Module):
    """The memory. Buffer: bank (K, D), empty until it is filled.

    Args:
        ratio: share of the patches that is kept.
        most: so many at most.
    """

    bank: Tensor
    in_graph = False  # whether this is a copy that is being exported

    def __init__(self, ratio: float = 0.1, most: int | None = None) -> None:
        super().__init__()
        self.ratio = ratio
        self.most = most
        self.register_buffer("bank", torch.zeros(0, 0))

    def fill(self, vectors: Tensor, seed: int, seconds: float | None = None, progress: Progress | None = None) -> None:
        """(M, D) -> the bank: a coreset behind a random linear projection. ``seconds``: see ``coreset``."""
        rng = np.random.default_rng(seed)
        count = max(1, int(len(vectors) * self.ratio))
        count = count if self.most is None else min(count, self.most)
        wide = vectors.shape[1] > PROJECTED
        bound = vectors.shape[1] ** -0.5  # torch's start of a Linear, which the authors take
        drawn = rng.uniform(-bound, bound, (PROJECTED, vectors.shape[1])).astype(np.float32)
        projection = torch.from_numpy(drawn).to(vectors.device) if wide else None
        starts = rng.choice(len(vectors), min(STARTS, len(vectors)), replace=False)
        chosen = coreset(vectors, count, projection, starts.tolist(), seconds, progress)
        self.bank = vectors[chosen].clone()

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """A bank of any size is taken as it comes."""
        stored = state.get(f"{prefix}bank")
        if stored is not None:
            self.bank = torch.empty(stored.shape, dtype=self.bank.dtype, device=self.bank.device)
        super()._load_from_state_dict(state, prefix, *rest)

    def nearest(self, vectors: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
        """(M, D) -> squared Euclidean distances (M,) and which code (M,). Differences are squared for the one found, so that
        a patch that is in the bank is at distance 0."""
        if self.in_graph:
            index = self._by_parts_of_the_bank(vectors)
            return (vectors - self.bank[index]).square().sum(dim=1), index
        lengths = self.bank.square().sum(dim=1)
        index = torch.cat([(lengths - 2 * part @ self.bank.T).argmin(dim=1) for part in torch.split(vectors, chunk)])
        return (vectors - self.bank[index]).square().sum(dim=1), index

    def _by_parts_of_the_bank(self, vectors: Tensor, chunk: int = 2048) -> Tensor:
        """Which code is nearest (M,), the bank taken in parts and not the patches, whose number a graph leaves open."""
        parts = torch.split(self.bank, chunk)
        found = [(part.square().sum(dim=1) - 2 * vectors @ part.T).min(dim=1) for part in parts]
        lowest, which = found[0]
        for number, (apart, index) in enumerate(found[1:], 1):
            nearer = apart < lowest
            lowest, which = torch.where(nearer, apart, lowest), torch.where(nearer, index + number * chunk, which)
        return which

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, g, g, D) -> (N, g, g), squared distances."""
        distances, _ = self.nearest(vectors.flatten(0, 2))
        return distances.reshape(vectors.shape[:3])


def anomaly_map(distances: Tensor, size: int, sigma: float = 4.0) -> Tensor:
    """(N, g, g) -> (N, size, size): bilinear (align_corners=False), then blurred."""
    return blurred(_enlarged(distances[:, None], (size, size))[:, 0], sigma)


def image_score(distances: Tensor) -> Tensor:
    """(N, g, g) -> (N,): the farthest patch, before the blur. The paper's weighting (Eq. 7) is not in the authors' code."""
    return distances.flatten(1).amax(dim=1)


def _distance(rows: Tensor, one: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows - one, dim=1)
    return lengths


def _enlarged(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
