"""One training run from photos to a model's parts: features, weights, statistics, cuts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unias.backbones.timm_backbone import FrozenBackbone
from unias.calibration.cuts import highest_cut
from unias.config import Config, to_dict
from unias.data.layouts import Dataset, Sample
from unias.data.split import spaced
from unias.data.transforms import TURNS, Augmentation
from unias.errors import DataError
from unias.inference.store import STATE_FOLDER, ProductInfo, build_detector
from unias.maps.detector import Detector
from unias.maps.statistics import pool
from unias.progress import Progress
from unias.runtime import keep_freed_memory, pick_precision, seed_everything, stamp
from unias.training.batches import Batches, CachedBatches, ImageBatches, StepDataset, TurnedFeatures, turned_rows
from unias.training.budget import Budget
from unias.training.features import Features, fit_standardize
from unias.training.loop import Outcome, Trainer, build_fabric
from unias.training.photos import with_advice
from unias.training.symmetry import allowed_turns

TURNED_A_MINUTE = 200  # turned photos for each minute of the budget, at most: about a twentieth of it on two cores
STATISTICS_PHOTOS = 60  # training photos a product, at most, that level statistics are fitted on
Split = dict[str, tuple[list[Sample], list[Sample]]]


class TrainingRun:
    """One training run: where its photos, features and settings meet."""

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        config: Config,
        backbone: FrozenBackbone,
        device: torch.device,
        progress: Progress,
        started: float,
    ) -> None:
        self.dataset = dataset
        self.asked = self.config = config
        self.device = device
        self.progress = progress
        self.started = started
        self.split = split
        self.backbone = backbone
        self.products = tuple(split)
        self.augmentation = Augmentation("none")
        self.turned: TurnedFeatures | None = None
        self.trained = Features([s for name in split for s in split[name][0]], backbone, config, device, progress)
        self.held = Features([s for name in split for s in split[name][1]], backbone, config, device, progress)

    def fit(self, home: Path, resume: bool, workers: int, loggers: list[Any]) -> tuple[Outcome, Detector]:
        """Features, weights, steps."""
        self._augment()
        config = self.config
        if config.train.cache:
            self._fill_cache()
        seed_everything(config.train.seed)
        keep_freed_memory()
        detector = build_detector(config, self.products, self.backbone).to(self.device)
        if config.model.standardize:
            fit_standardize(detector.unias, self.trained.batches("feature statistics"))
        trainer = Trainer(
            detector.unias,
            self._batches(workers),
            config.train,
            build_fabric(self.device, pick_precision(config.train.precision, self.device), loggers),
            home / STATE_FOLDER,
            self._fingerprint(),
            self.progress,
            Budget(config.train.minutes, self.started, also=self._also()) if config.train.minutes is not None else None,
            lambda: self._seconds_after(detector),
        )
        try:
            outcome = trainer.fit(resume)
        except DataError as error:
            raise with_advice(error, [sample.path for sample in self.trained.samples]) from error
        return outcome, detector.eval()

    @torch.inference_mode()
    def calibrate(self, detector: Detector) -> tuple[ProductInfo, ...]:
        """Statistics from training photos, then cuts from the held-out ones, which serve nothing else."""
        detector.unias.fuse()  # as in use
        fit_statistics(detector, self.trained)
        scores = self._scores(detector, self.held, "held-out photos")
        infos = []
        for index, name in enumerate(self.products):
            trained, held = self.split[name]
            again: list[float] = []
            if not held:
                self.progress.say(f"warning: {name} has too few photos to hold any out; its cut is provisional.")
                rows = [i for i, s in enumerate(self.trained.samples) if s.product == name]
                again = self._scores(detector, self.trained, f"training photos of {name}", rows)[index]
            infos.append(
                ProductInfo(
                    name,
                    highest_cut(scores[index], again),
                    tuple(s.key for s in trained),
                    tuple(s.key for s in held),
                    tuple(scores[index]),
                )
            )
        return tuple(infos)

    def final_config(self, outcome: Outcome) -> Config:
        """The settings with the number of steps that was run, so that they repeat the run exactly."""
        precision = pick_precision(self.config.train.precision, self.device)
        train = dataclasses.replace(self.config.train, steps=outcome.steps, minutes=None, precision=precision)
        return dataclasses.replace(self.config, train=train)

    def record(self, outcome: Outcome) -> dict[str, Any]:
        """What figures made with this model carry."""
        return {
            "data": self.dataset.root.name,
            "layout": self.dataset.layout,
            "seed": self.config.train.seed,
            "steps": outcome.steps,
            "epochs": round(outcome.epochs, 2),
            "minutes": round((time.monotonic() - self.started) / 60, 2),
            "minutes_asked": self.config.train.minutes,
            "training_seconds": round(outcome.seconds, 1),
            "first_loss": outcome.first_loss,
            "last_loss": outcome.last_loss,
            "resumed_at": outcome.resumed_at,
            "turns": {name: list(self.augmentation.turns(name)) for name in self.products},
            **stamp(self.device),
        }

    def _augment(self) -> None:
        """How training photos are turned; the recipe ``auto`` looks at them first."""
        samples, recipe = self.trained.samples, self.config.train.recipe
        if recipe == "auto":
            allowed = allowed_turns(samples, self.backbone, self.config, self.device, self.progress)
            self.augmentation = Augmentation(recipe, allowed)
            told = ", ".join(f"{name} {len(turns)}" for name, turns in allowed.items() if len(turns) > 1)
            self.progress.say(f"products laid down in more than one way (of {TURNS}): {told or 'none'}")
            self._drop_turns_of_short_runs()
        else:
            self.augmentation = Augmentation(recipe)

    def _drop_turns_of_short_runs(self) -> None:
        """Features of turned photos are computed before the first step; a short run spends its minutes on steps."""
        minutes, count = self.config.train.minutes, len(turned_rows(self.trained.samples, self.augmentation))
        if minutes is None or count <= TURNED_A_MINUTE * minutes:
            return
        self.progress.say(
            f"{count} turned photos are too many for {minutes:g} minutes: none is turned, as with --recipe none"
        )
        self.config = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, recipe="none"))
        self.augmentation = Augmentation("none")

    def _fill_cache(self) -> None:
        """Features of the training photos and of their turns, as far as both fit."""
        rows = turned_rows(self.trained.samples, self.augmentation)
        if not self.trained.fits_cache(len(rows)):
            return
        self.trained.fill("features of training photos")
        if rows:
            samples, turns = [self.trained.samples[index] for index, _ in rows], [turn for _, turn in rows]
            more = Features(samples, self.backbone, self.config, self.device, self.progress, turns)
            arrays = more.fill("features of turned photos")
            self.turned = TurnedFeatures(arrays, self.trained.samples, self.augmentation)

    def _batches(self, workers: int) -> Batches:
        train = self.config.train
        if self.trained.arrays is not None:
            names = [str(sample.path) for sample in self.trained.samples]
            return CachedBatches(self.trained.arrays, names, train.batch_size, train.seed, self.device, self.turned)
        steps = StepDataset(
            self.trained.samples, self.config.size, self.config.bits, self.augmentation, train.batch_size, train.seed
        )
        return ImageBatches(steps, self.backbone, self.device, workers)

    def _also(self) -> str:
        """What --steps needs beside it to repeat this run."""
        return " --recipe none" if self.config.train.recipe != self.asked.train.recipe else ""

    def _fingerprint(self) -> str:
        settings = to_dict(self.config)
        settings["train"].pop("minutes")
        settings["train"].pop("checkpoint_minutes")
        settings["train"].pop("steps")
        keys = [sample.key for sample in self.trained.samples]
        return hashlib.sha256(json.dumps([settings, keys], sort_keys=True).encode("utf-8")).hexdigest()

    def _seconds_after(self, detector: Detector) -> float:
        """Measure a batch of statistics and of cuts, and reckon what all of them will take, plus writing."""
        training = detector.unias.training
        detector.unias.eval()
        with torch.inference_mode():
            few = Features(self.trained.samples[:8], self.backbone, self.config, self.device, Progress("silent"))
            first = torch.zeros(len(few.samples), dtype=torch.long, device=self.device)
            a_photo = a_backbone = 0.0
            for _ in range(2):  # the second time counts: the first one warms up
                began = time.monotonic()
                batch = next(few.batches(""))
                a_backbone = (time.monotonic() - began) / len(few.samples)
                began = time.monotonic()
                detector.from_features(batch, first)
                a_photo = (time.monotonic() - began) / len(few.samples)
        detector.unias.train(training)
        fitted = sum(min(STATISTICS_PHOTOS, len(trained)) for trained, _ in self.split.values())
        fitted = fitted if detector.config.fusion == "mean" else 0
        uncached = (len(self.trained.samples) + fitted) * a_backbone if self.trained.arrays is None else 0.0
        return fitted * a_photo + uncached + len(self.held.samples) * (a_photo + a_backbone) + 4.0

    def _scores(
        self, detector: Detector, features: Features, name: str, rows: Sequence[int] | None = None
    ) -> dict[int, list[float]]:
        """{product: raw scores} of photos whose product is known."""
        scores: dict[int, list[float]] = {index: [] for index in range(len(self.products))}
        chosen = list(range(len(features.samples))) if rows is None else list(rows)
        known = torch.tensor([self.products.index(features.samples[row].product) for row in chosen], device=self.device)
        start = 0
        for batch in features.batches(name, chosen):
            product = known[start : start + len(batch[4])]
            start += len(product)
            maps = detector.from_features(batch, product)
            for index, score in zip(product.tolist(), maps.anomaly_map.amax(dim=(1, 2)).tolist(), strict=True):
                scores[index].append(score)
        return scores


@torch.inference_mode()
def fit_statistics(detector: Detector, features: Features) -> None:
    """Class means, level means and local shares, from training photos alone."""
    statistics, products = detector.statistics, detector.statistics.products
    pooled = torch.cat([pool(batch) for batch in features.batches("class means")])
    index = torch.tensor([products.index(s.product) for s in features.samples], device=pooled.device)
    statistics.fit_prototypes(pooled, index)
    if detector.config.fusion != "mean":
        return
    for place, name in enumerate(products):
        own = [i for i, s in enumerate(features.samples) if s.product == name]
        rows = [own[place] for place in spaced(len(own), STATISTICS_PHOTOS)]
        kept: dict[int, list[Tensor]] = {}
        for batch in features.batches(f"usual noise of {name}", rows):
            for level, values in detector.levels_of(detector.unias(batch)).items():
                kept.setdefault(level, []).append(values)
        levels = {level: torch.cat(values) for level, values in kept.items()}
        statistics.fit_levels(place, levels, detector.local, detector.config.local_spread)
