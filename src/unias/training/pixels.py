"""Training batches of photos themselves, for systems that start from pixels and spoil photos on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unias.data.layouts import Sample
from unias.data.transforms import Augmentation, draw, turned
from unias.training.batches import Batch, epoch_order
from unias.training.features import Pixels

# (3, S, S), generator -> clean (3, S, S), seen (3, S, S), where it is spoiled (S, S)
Corrupt = Callable[
    [NDArray[np.float32], np.random.Generator], tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
]
AHEAD = 2  # batches for each thread


class _Drawn(NamedTuple):
    clean: NDArray[np.float32]
    seen: NDArray[np.float32]
    mask: NDArray[np.bool_]


class PixelBatches:
    """The next batches are made in threads while a step runs. What is drawn for a photo depends on seed, epoch and photo alone,
    not on how many threads there are. An epoch's last, smaller batch is dropped: batch statistics of one or two photos are
    worth nothing."""

    def __init__(
        self,
        pixels: Pixels,
        products: Sequence[int],
        augmentation: Augmentation,
        corrupt: Corrupt | None,
        batch_size: int,
        seed: int,
        threads: int = 1,
    ) -> None:
        self.threads = threads
        self.pixels = pixels
        self.products = torch.tensor(products)
        self.augmentation = augmentation
        self.corrupt = corrupt
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = max(1, len(pixels.samples) // batch_size)

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        ahead = AHEAD * self.threads
        with ThreadPoolExecutor(max_workers=self.threads) as pool:
            waiting = [pool.submit(self._batch, step) for step in range(start, min(stop, start + ahead))]
            for step in range(start, stop):
                batch = waiting.pop(0).result()
                if step + ahead < stop:
                    waiting.append(pool.submit(self._batch, step + ahead))
                yield batch

    def _batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self.pixels.samples), self.seed, epoch)
        chosen = np.sort(order[place * self.batch_size : (place + 1) * self.batch_size])
        samples = [self.pixels.samples[index] for index in chosen]
        photos = self.pixels.rows(chosen)
        drawn = [self._one(p, s, epoch) for p, s in zip(photos, samples, strict=True)]
        device = self.pixels.device
        clean = torch.from_numpy(np.stack([d.clean for d in drawn])).to(device)
        seen = torch.from_numpy(np.stack([d.seen for d in drawn])).to(device)
        mask = torch.from_numpy(np.stack([d.mask for d in drawn])[:, None].astype(np.float32)).to(device)
        product = self.products[torch.from_numpy(chosen)].to(device)
        return Batch([str(s.path) for s in samples], product, {}, seen, clean, mask)

    def _one(self, photo: NDArray[np.float32], sample: Sample, epoch: int) -> _Drawn:
        rng = draw(self.seed, epoch, sample.key)
        image = turned(photo, self.augmentation.draw(sample.product, rng))
        if self.corrupt is None:
            return _Drawn(image, image, np.zeros(image.shape[1:], dtype=bool))
        return _Drawn(*self.corrupt(image, rng))
