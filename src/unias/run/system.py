"""The run of a system beside UniAS: its features or pixels, its steps or its one pass, class means, cuts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.calibration.cuts import lower_cut
from unias.config import Config
from unias.data.layouts import Sample
from unias.data.split import spaced
from unias.errors import UsageError
from unias.inference.store import build_system
from unias.maps.statistics import pool
from unias.progress import Progress
from unias.run.base import STATISTICS_PHOTOS, TrainingRun
from unias.runtime import clock, keep_freed_memory, pick_precision, seed_everything
from unias.systems.base import System
from unias.systems.detector import SystemDetector
from unias.systems.registry import find, title
from unias.systems.task import SystemTask
from unias.training.batches import Batch, Batches
from unias.training.features import Features, Pixels, fit_standardize
from unias.training.loop import Outcome
from unias.training.pixels import PixelBatches


class SystemRun(TrainingRun):
    """See ``systems.base.System``."""

    textures = ""  # where the pictures come from that are blended in

    def photos(self, samples: Sequence[Sample]) -> Features:
        kind = Pixels if find(self.config.system).reads == "pixels" else Features
        return kind(samples, self.backbone, self.config, self.device, self.progress)

    def fit(self, home: Path, resume: bool, workers: int, loggers: list[Any]) -> tuple[Outcome, SystemDetector]:
        config = self.config
        seed_everything(config.train.seed)
        half = pick_precision(config.train.precision, self.device) == "bf16-mixed"
        detector = build_system(config, self.products, self.backbone, half).to(
            self.device
        )  # settings are checked first
        if detector.system.by_gradient:
            self.augment()
        elif config.train.steps is not None:
            raise UsageError(f"--steps: {config.system} looks at every photo once and makes no steps. Leave it out.")
        if config.train.cache:
            self.fill_cache()
        if detector.system.standardize:
            fit_standardize(detector.system.standardize, self.trained.batches("feature statistics"))
        keep_freed_memory()
        seed_everything(config.train.seed)
        batches = self._batches(detector.system, workers)
        if detector.system.by_gradient:
            outcome = self.train(SystemTask(detector.system), detector, batches, home, resume, loggers)
            least = detector.system.least_steps
            if outcome.steps < least:
                self.progress.say(
                    f"warning: {outcome.steps} steps are too few for {config.system}: all of its parts learn from {least} on. "
                    "Give it more minutes."
                )
        else:
            outcome = self._one_pass(detector)
        return outcome, detector.eval()

    @torch.inference_mode()
    def fit_statistics(self, detector: SystemDetector) -> None:
        """Class means and reaches, by which products are recognised, and the lower cuts."""
        wishes = self.config.calibration
        if isinstance(self.trained, Pixels):
            found = [pool(self.backbone(batch[0])) for batch in self.trained.batches("class means")]
        else:
            found = [pool(batch) for batch in self.trained.batches("class means")]
        # All photos, not some: how far a product reaches is told by its farthest one.
        products = self.indices()
        everyone = torch.tensor(products, device=self.device)
        detector.statistics.fit_prototypes(torch.cat(found), everyone, wishes.unknown_reach)
        chosen = self._some()
        index = everyone[torch.tensor(chosen, device=self.device)]
        kept: dict[int, list[NDArray[np.float32]]] = {place: [] for place in range(len(self.products))}
        start = 0
        for images in self.trained.images("usual maps", chosen):
            maps = detector(images, index[start : start + len(images)]).anomaly_map.cpu().numpy()
            for place, one in zip(index[start : start + len(images)].tolist(), maps, strict=True):
                kept[place].append(one)
            start += len(images)
        self.lower = {place: lower_cut(np.stack(maps), wishes.lower_quantile) for place, maps in kept.items()}

    def _seconds_of_rest(self) -> float:
        """The same before there is a system to measure: decoding and backbone, three times over."""
        few = Features(self.trained.samples[:8], self.backbone, self.config, self.device, Progress("silent"))
        began = time.monotonic()
        next(few.batches(""))
        return 3 * len(self.held.samples) * (time.monotonic() - began) / len(few.samples) + 4.0

    def seconds_after(self, detector: SystemDetector) -> float:
        training = detector.system.training
        detector.system.eval()
        few = Features(self.trained.samples[:8], self.backbone, self.config, self.device, Progress("silent"))
        first = torch.zeros(len(few.samples), dtype=torch.long, device=self.device)
        a_photo = 0.0
        with torch.inference_mode():
            for _ in range(2):  # the second time counts: the first one warms up
                began = clock(self.device)
                detector(next(few.images("")), first)
                between = clock(self.device)
                self.backbone(next(few.images("")))
                now = clock(self.device)
                a_backbone, a_photo = (now - between) / len(few.samples), (now - began) / len(few.samples)
        detector.system.train(training)
        unseen = len(self.trained.samples) if isinstance(self.trained, Pixels) or self.trained.arrays is None else 0
        return (len(self.held.samples) + len(self._some())) * a_photo + unseen * a_backbone + 4.0

    def final_config(self, outcome: Outcome) -> Config:
        config = super().final_config(outcome)
        if find(config.system).by_gradient:
            return config
        return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=None))

    def record(self, outcome: Outcome) -> dict[str, Any]:
        found = {**super().record(outcome), "title": title(self.config.system)}
        return {**found, "textures": self.textures} if self.textures else found

    def _some(self) -> list[int]:
        """At most ``STATISTICS_PHOTOS`` a product."""
        products = self.indices()
        chosen: list[int] = []
        for index in range(len(self.products)):
            own = [row for row, product in enumerate(products) if product == index]
            chosen += [own[place] for place in spaced(len(own), STATISTICS_PHOTOS)]
        return chosen

    def _batches(self, system: System, workers: int) -> Batches:
        train = self.config.train
        if isinstance(self.trained, Pixels):
            corruption = system.corruption()
            self.textures = corruption.textures.name if corruption is not None else ""
            threads = max(1, workers)
            return PixelBatches(
                self.trained, self.indices(), self.augmentation, corruption, train.batch_size, train.seed, threads
            )
        return self.batches(workers)

    @torch.inference_mode()
    def _one_pass(self, detector: SystemDetector) -> Outcome:
        """Every photo once, as it is."""
        system, minutes = detector.system, self.config.train.minutes
        system.eval()
        began, done = time.monotonic(), 0
        products, names = self.indices(), [str(sample.path) for sample in self.trained.samples]
        for features in self.trained.batches("looking at good parts"):
            count = len(next(iter(features.values())))
            rows = slice(done, done + count)
            product = torch.tensor(products[rows], device=self.device)
            system.collect(Batch(names[rows], product, features))
            done += count
        seconds = None
        if minutes is not None:
            seconds = minutes * 60 - (time.monotonic() - self.started) - self._seconds_of_rest()
        found = system.finish(self.config.train.seed, seconds, self.progress)
        self.config = dataclasses.replace(self.config, settings={**self.config.settings, **found})
        return Outcome(
            steps=-(-done // self.config.train.batch_size),
            epochs=1.0,
            seconds=time.monotonic() - began,
            first_loss=0.0,
            last_loss=0.0,
            resumed_at=0,
        )
