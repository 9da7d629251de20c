"""Where training batches come from: a feature cache, or photos through augmentation and the frozen backbone.

Both give the same batch for the same (seed, step) whatever was asked before, so that a resumed run sees what the whole run
would have seen.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unias.backbones.timm_backbone import FrozenBackbone
from unias.config import Tiling
from unias.data.cache import Arrays
from unias.data.decode import load_input
from unias.data.layouts import Sample
from unias.data.transforms import Augmentation, draw, turned
from unias.errors import DataError


class Batch(NamedTuple):
    """What one step sees of N photos, on the device; float32.

    Attributes:
        names: of the photos.
        product: (N,) int64, index into the model's products.
        features: {level: (N, C, H, W)}, the frozen backbone's; empty for systems that read pixels.
        images: (N, 3, S, S) in [0, 1], as the system is to see them; None for those that read features.
        clean: (N, 3, S, S), the photos before they were corrupted; None where they were not.
        mask: (N, 1, S, S) of 0 and 1, where they were.
    """

    names: list[str]
    product: Tensor
    features: dict[int, Tensor]
    images: Tensor | None = None
    clean: Tensor | None = None
    mask: Tensor | None = None


class Batches(Protocol):
    """steps(start, stop) yields the batches of those steps, counted from 0."""

    steps_per_epoch: int

    def steps(self, start: int, stop: int) -> Iterator[Batch]: ...


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """All photos of all products shuffled together, anew each epoch."""
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """The photos of one step; an epoch's last batch may be smaller, and is not dropped (spec section 9)."""
    per_epoch = -(-count // batch_size)
    epoch, place = divmod(step, per_epoch)
    return epoch_order(count, seed, epoch)[place * batch_size : (place + 1) * batch_size]


class TurnedFeatures:
    """The cached features of turned photos, each put in the place of the photo as it is where its epoch's draw says so.

    Args:
        arrays: features of every photo in every turn but 0 that its product allows, photo by photo, turns ascending.
        samples: the photos, in the order of the features as they are.
        views: rows of each photo.
        every: only each ``every``-th photo is there turned; the others are seen as they are.
    """

    def __init__(
        self, arrays: Arrays, samples: Sequence[Sample], augmentation: Augmentation, views: int = 1, every: int = 1
    ) -> None:
        self.arrays = arrays
        self.samples = list(samples)
        self.views = views
        self.augmentation = augmentation
        self.rows = {place: row for row, place in enumerate(turned_rows(samples, augmentation, every))}

    def put(self, batch: Arrays, chosen: NDArray[np.int64], seed: int, epoch: int) -> None:
        """``batch`` holds the rows ``chosen`` as they are; changed in place. The draws are those of ``StepDataset``, and the same
        for all views of a photo."""
        for place, row in enumerate(chosen.tolist()):
            index, view = divmod(row, self.views)
            sample = self.samples[index]
            turn = self.augmentation.draw(sample.product, draw(seed, epoch, sample.key))
            if (index, turn) in self.rows:
                for level, values in batch.items():
                    values[place] = self.arrays[level][self.rows[index, turn] * self.views + view]


def turned_rows(samples: Sequence[Sample], augmentation: Augmentation, every: int = 1) -> list[tuple[int, int]]:
    """(photo, turn) of every row that ``TurnedFeatures`` holds."""
    chosen = [(i, samples[i]) for i in range(0, len(samples), every)]
    return [(i, turn) for i, s in chosen for turn in augmentation.turns(s.product) if turn]


class Rows(Protocol):
    """What can be read by rows in ascending order."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]: ...


class Joined:
    """The rows of arrays one after the other, read as one array's."""

    def __init__(self, *arrays: NDArray[Any]) -> None:
        self.arrays = arrays

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """(n,) ascending -> (n, ...)."""
        found, start = [], 0
        for array in self.arrays:
            found.append(array[rows[(rows >= start) & (rows < start + len(array))] - start])
            start += len(array)
        return np.concatenate(found)


class CachedBatches:
    """Batches out of memory-mapped features. ``rows``: which photo each place of an epoch shows; None = every photo once."""

    def __init__(
        self,
        arrays: Mapping[int, Rows],
        names: Sequence[str],
        products: Sequence[int],
        batch_size: int,
        seed: int,
        device: torch.device,
        turned: TurnedFeatures | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.arrays = arrays
        self.rows = np.arange(len(names)) if rows is None else rows
        self.turned = turned
        self.names = list(names)
        self.products = torch.tensor(products)
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.steps_per_epoch = -(-len(self.rows) // batch_size)

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            chosen = np.sort(self.rows[batch_indices(len(self.rows), self.batch_size, self.seed, step)])
            arrays = {level: np.asarray(array[chosen]) for level, array in self.arrays.items()}
            if self.turned is not None:
                self.turned.put(arrays, chosen, self.seed, step // self.steps_per_epoch)
            features = {
                level: torch.from_numpy(values)
                .to(self.device, torch.float32)
                .contiguous(memory_format=torch.channels_last)
                for level, values in arrays.items()
            }
            product = self.products[torch.from_numpy(chosen)].to(self.device)
            yield Batch([self.names[index] for index in chosen], product, features)


class StepDataset(Dataset[Any]):
    """One item a step: the decoded and augmented photos of that step, or views of them (picklable, so spawned workers can hold
    it)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        tiling: Tiling,
        bits: int | None,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
    ) -> None:
        self.samples = list(samples)
        products = list(dict.fromkeys(sample.product for sample in self.samples))
        self.products = [products.index(sample.product) for sample in self.samples]
        self.tiling = tiling
        self.bits = bits
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.rows = len(self.samples) * tiling.views
        self.steps_per_epoch = -(-self.rows // batch_size)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, list[str]] | DataError:
        """A DataError is handed over as a value: raised in a worker it would arrive wrapped in a traceback."""
        epoch = step // self.steps_per_epoch
        places = [
            divmod(int(row), self.tiling.views) for row in batch_indices(self.rows, self.batch_size, self.seed, step)
        ]
        try:
            images = [self._view(self.samples[index], view, epoch) for index, view in places]
        except DataError as error:
            return DataError(str(error))
        product = torch.tensor([self.products[index] for index, _ in places])
        return torch.from_numpy(np.stack(images)), product, [str(self.samples[index].path) for index, _ in places]

    def _view(self, sample: Sample, view: int, epoch: int) -> NDArray[np.float32]:
        """(3, S, S): the photo turned as its epoch's draw says, then cut."""
        photo = load_input(sample.path, self.tiling.side, self.bits)[0]
        photo = turned(photo, self.augmentation.draw(sample.product, draw(self.seed, epoch, sample.key)))
        top, left = (self.tiling.starts[place] for place in divmod(view, self.tiling.grid))
        size = self.tiling.size
        return np.ascontiguousarray(photo[:, top : top + size, left : left + size])


def leave_interrupts_to_the_main_process(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that died of it would take the step under way with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ImageBatches:
    """Batches from photos: decoded (in ``workers`` processes, 0 = in this one), augmented, through the frozen backbone.

    Workers are started with "spawn", the one method that every platform has.
    """

    def __init__(self, dataset: StepDataset, backbone: FrozenBackbone, device: torch.device, workers: int = 0) -> None:
        self.dataset = dataset
        self.backbone = backbone
        self.device = device
        self.workers = workers
        self.steps_per_epoch = dataset.steps_per_epoch

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
            worker_init_fn=leave_interrupts_to_the_main_process,
            pin_memory=False,
        )
        for item in loader:
            if isinstance(item, DataError):
                raise item
            images, product, names = item
            yield Batch(names, product.to(self.device), self.backbone(images.to(self.device)))
