"""Frozen features of a list of photos, batch by batch, from the cache where it may be used."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unias.backbones.timm_backbone import FrozenBackbone
from unias.config import LEVELS, STRIDES, Config
from unias.data.cache import Arrays, bytes_needed, cache_root, content_key, open_entry, room, write_entry
from unias.data.decode import load_input
from unias.data.layouts import Sample
from unias.data.transforms import turned
from unias.errors import DataError
from unias.files import ensure_folder, sha256_of_tensors
from unias.maps.tiling import unfolded
from unias.model.filters import Standardize
from unias.progress import Progress
from unias.runtime import decoders

BATCH = 8


class Features:
    """Features of ``samples``, in their order: {level: (n, C, H, W)} a batch.

    After ``fill`` they are read back from disk (float16); before it each pass decodes the photos again. ``turns``: how each
    photo is laid down, by default as it is. Where photos are tiled, a photo's features are those of its views, one after the
    other, and n photos have n times as many rows.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        backbone: FrozenBackbone,
        config: Config,
        device: torch.device,
        progress: Progress,
        turns: Sequence[int] | None = None,
    ) -> None:
        self.samples = list(samples)
        self.turns = list(turns) if turns is not None else [0] * len(self.samples)
        self.backbone = backbone
        self.config = config
        self.tiling = config.tiling
        self.device = device
        self.progress = progress
        self.at_once = max(1, BATCH // self.tiling.views)
        self.arrays: Arrays | None = None

    def shapes(self) -> dict[int, tuple[int, ...]]:
        """{level: (C, H, W)} of one photo, or of one of its views."""
        size = self.config.size
        return {k: (self.backbone.channels[k], size // STRIDES[k], size // STRIDES[k]) for k in LEVELS}

    def fits_cache(self, *others: Features) -> bool:
        """Whether cache entries of these photos and of ``others`` stay within the bound and the disk, where those that are there
        already take nothing; says so where not."""
        parts, root = (self, *others), cache_root()
        count = sum(len(part.samples) for part in parts)
        needed = sum(part.entry_bytes for part in parts)
        wanted = f"the features of {count} photos{', turned ones among them,' if others else ''} need {needed / 2**30:.1f} GiB"
        if needed > self.config.train.cache_gib * 2**30:
            self.progress.say(
                f"{wanted}, more than cache_gib allows: they are computed anew at every step, which is slower."
            )
            return False
        try:
            ensure_folder(root)
        except DataError:
            self.progress.say(
                f"cache {root} cannot be written (set UNIAS_CACHE): features are computed anew at every step."
            )
            return False
        missing = sum(part.entry_bytes for part in parts if part._entry() is None)
        free = room(spared=[part.key for part in parts])
        if missing > free:
            self.progress.say(
                f"{wanted}, {root} has room for {free / 2**30:.1f}: they are computed anew at every step."
            )
            return False
        return True

    @property
    def entry_bytes(self) -> int:
        """What the cache entry of these photos takes."""
        return bytes_needed(len(self.samples) * self.tiling.views, self.shapes())

    @functools.cached_property
    def key(self) -> str:
        """The cache entry's name: photos, turns, views, backbone. Raises DataError for a photo that cannot be read."""
        settings: dict[str, object] = {
            "size": self.config.size,
            "bits": self.config.bits,
            **({"turns": self.turns} if any(self.turns) else {}),
            **({"tiles": [self.tiling.grid, self.tiling.overlap]} if self.tiling.views > 1 else {}),
            **self._origin(),
        }
        with self.progress.stage("comparing photos with the cache", len(self.samples)) as advance:
            return content_key([sample.path for sample in self.samples], settings, advance)

    def _entry(self) -> Arrays | None:
        return open_entry(self.key, len(self.samples) * self.tiling.views, self.shapes())

    def fill(self, name: str) -> Arrays:
        """Open the cache entry, computing it first where it is not there."""
        arrays = self._entry()
        if arrays is None:
            rows, bound = len(self.samples) * self.tiling.views, int(self.config.train.cache_gib * 2**30)
            batches = ({k: v.cpu().numpy() for k, v in batch.items()} for batch in self._compute(name))
            arrays = write_entry(self.key, rows, self.shapes(), batches, bound)
        self.arrays = arrays
        return arrays

    def _origin(self) -> dict[str, object]:
        """What else decides the numbers."""
        return {
            "backbone": self.config.backbone.name,
            "weights": sha256_of_tensors(self.backbone.state_dict()),
            "padding": self.config.backbone.authors_padding,
            "device": self.device.type,
            "torch": torch.__version__,
            "version": 2,
        }

    def batches(self, name: str, indices: Sequence[int] | None = None) -> Iterator[dict[int, Tensor]]:
        """Batches of the photos at ``indices`` (all where None), float32 on the device."""
        chosen = list(range(len(self.samples))) if indices is None else list(indices)
        if self.arrays is None:
            yield from self._compute(name, chosen)
            return
        for start in range(0, len(chosen), self.at_once):
            rows = view_rows(chosen[start : start + self.at_once], self.tiling.views)
            yield {
                k: torch.from_numpy(np.asarray(array[rows])).to(self.device).float() for k, array in self.arrays.items()
            }

    def _compute(self, name: str, indices: Sequence[int] | None = None) -> Iterator[dict[int, Tensor]]:
        for images in self.images(name, indices):
            yield self.backbone(unfolded(images, self.tiling))

    def images(self, name: str, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
        """The whole photos at ``indices`` (all where None) batch by batch, (n, 3, S, S) in [0, 1] on the device. Decoded in
        threads (Pillow lets go of the interpreter) while the caller works."""
        chosen = list(range(len(self.samples))) if indices is None else list(indices)

        def decode(start: int) -> NDArray[np.float32]:
            rows = [(self.samples[index], self.turns[index]) for index in chosen[start : start + self.at_once]]
            paths = {
                sample.path for sample, _ in rows
            }  # the turns of a photo lie side by side: it is decoded once for them
            images = {path: load_input(path, self.config.input_size, self.config.bits)[0] for path in paths}
            return np.stack([turned(images[sample.path], turn) for sample, turn in rows])

        workers = decoders()
        with ThreadPoolExecutor(workers) as pool, self.progress.stage(name, len(chosen)) as advance:
            starts = list(range(0, len(chosen), self.at_once))
            ahead = [pool.submit(decode, start) for start in starts[: 2 * workers]]
            for place in range(len(starts)):
                images = ahead.pop(0).result()
                if place + 2 * workers < len(starts):
                    ahead.append(pool.submit(decode, starts[place + 2 * workers]))
                yield torch.from_numpy(images).to(self.device)
                advance(len(images))


def view_rows(photos: Sequence[int] | NDArray[np.int64], views: int) -> NDArray[np.int64]:
    """The rows of these photos' views, photo by photo."""
    first = np.asarray(photos, dtype=np.int64)[:, None] * views
    return (first + np.arange(views)).reshape(-1)


class Pixels(Features):
    """The photos themselves, under level 0: what systems read that start from pixels. Kept as float16, which 8 bits fit."""

    def shapes(self) -> dict[int, tuple[int, ...]]:
        return {0: (3, self.config.size, self.config.size)}

    def _origin(self) -> dict[str, object]:
        return {"pixels": 1}

    def rows(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, 3, S, S) of the photos at ``chosen``: from the cache where it is filled, else decoded."""
        if self.arrays is not None:
            return self.arrays[0][chosen].astype(np.float32)
        paths = [self.samples[index].path for index in chosen]
        return np.stack([load_input(path, self.config.size, self.config.bits)[0] for path in paths])

    def _compute(self, name: str, indices: Sequence[int] | None = None) -> Iterator[dict[int, Tensor]]:
        for images in self.images(name, indices):
            yield {0: images}


@torch.no_grad()
def fit_standardize(levels: nn.ModuleDict, batches: Iterator[dict[int, Tensor]]) -> None:
    """Per channel mean and deviation of the training photos' features, in float64 sums, for {level: Standardize}."""
    sums: dict[int, Tensor] = {}
    squares: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for batch in batches:
        for level, values in batch.items():
            rows = values.transpose(0, 1).flatten(1).cpu().double()
            sums[level] = sums.get(level, torch.zeros(len(rows), dtype=torch.float64)) + rows.sum(dim=1)
            squares[level] = squares.get(level, torch.zeros(len(rows), dtype=torch.float64)) + rows.square().sum(dim=1)
            counts[level] = counts.get(level, 0) + rows.shape[1]
    for level, total in sums.items():
        mean = total / counts[level]
        deviation = (squares[level] / counts[level] - mean.square()).clamp_min(0).sqrt()
        module = levels[str(level)]
        assert isinstance(module, Standardize)
        module.mean.copy_(mean.float())
        module.deviation.copy_(deviation.float().clamp_min(1e-6))
