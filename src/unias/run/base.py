"""What every training run does, whatever it trains: photos, features, cuts, the record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.backbones.timm_backbone import FrozenBackbone
from unias.calibration.cuts import rank_cut, unpromised
from unias.calibration.ranks import cut_at
from unias.config import Config, to_dict
from unias.data.layouts import Dataset, Sample
from unias.data.transforms import TURNS, Augmentation
from unias.errors import DataError
from unias.inference.predictor import score_of
from unias.inference.products import ProductInfo
from unias.inference.store import STATE_FOLDER
from unias.maps.detector import Detector
from unias.memory import peak_memory
from unias.progress import Progress
from unias.runtime import pick_precision, stamp
from unias.systems.detector import SystemDetector
from unias.training.batches import (
    Batches,
    CachedBatches,
    ImageBatches,
    Joined,
    Rows,
    StepDataset,
    TurnedFeatures,
    turned_rows,
)
from unias.training.budget import Budget
from unias.training.features import Features, Pixels, view_rows
from unias.training.loop import Outcome, Trainer, build_fabric
from unias.training.photos import HOW_TO_SKIP, with_advice
from unias.training.symmetry import allowed_turns
from unias.training.task import Task

TURNED_A_MINUTE = 200  # turned photos for each minute of the budget, at most: about a twentieth of it on two cores
STATISTICS_PHOTOS = 60  # training photos a product, at most, that statistics are fitted on where each costs time
Split = dict[str, tuple[list[Sample], list[Sample]]]
AnyDetector = Detector | SystemDetector


class TrainingRun:
    """One training run: where its photos, features and settings meet.

    Attributes:
        bad_photo: what can be done about a photo that cannot be read, beside replacing it.
    """

    bad_photo: str = HOW_TO_SKIP

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
        self.practice: Features | None = None  # what steps see beside the photos (``training.practice``)
        self.every = 1  # each ``every``-th photo is seen turned
        self.folded: dict[str, dict[str, float]] = {}  # {product: {key: score}} by models that did not see the photo
        self.lower: dict[int, float] = {}  # of each product, by its place: what ``fit_statistics`` finds
        self.trained = self.photos([s for name in split for s in split[name][0]])
        self.held = self.photos([s for name in split for s in split[name][1]])

    def photos(self, samples: Sequence[Sample]) -> Features:
        """What the run reads of photos."""
        return Features(samples, self.backbone, self.config, self.device, self.progress)

    def indices(self) -> list[int]:
        """The product of each training photo."""
        return [self.products.index(sample.product) for sample in self.trained.samples]

    def fit(self, home: Path, resume: bool, workers: int, loggers: list[Any]) -> tuple[Outcome, AnyDetector]:
        """From photos to trained weights."""
        raise NotImplementedError

    def fit_statistics(self, detector: Any) -> None:
        """What the model keeps of good parts, and the lower cuts, from training photos alone."""
        raise NotImplementedError

    def seconds_after(self, detector: Any) -> float:
        """What statistics, cuts and writing will take, measured on a few photos."""
        raise NotImplementedError

    def train(
        self, task: Task, detector: Any, batches: Batches, home: Path, resume: bool, loggers: list[Any]
    ) -> Outcome:
        """The steps."""
        train = self.config.train
        trainer = Trainer(
            task,
            batches,
            train,
            build_fabric(self.device, pick_precision(train.precision, self.device), loggers),
            home / STATE_FOLDER,
            self._fingerprint(),
            self.progress,
            Budget(train.minutes, self.started, also=self.also) if train.minutes is not None else None,
            lambda: self.seconds_after(detector),
            self.started,
        )
        try:
            return trainer.fit(resume)
        except DataError as error:
            raise with_advice(error, [sample.path for sample in self.trained.samples], self.bad_photo) from error

    @torch.inference_mode()
    def calibrate(self, detector: AnyDetector) -> tuple[ProductInfo, ...]:
        """Statistics from training photos, then cuts from the held-out ones, which serve nothing else."""
        detector.compose()  # as in use
        self.fit_statistics(detector)
        blank = [self.blank(name) for name in self.products]
        scores, peaks = self._scores(detector, self.held, "held-out photos", blank)
        infos = []
        for index, name in enumerate(self.products):
            trained, held = self.split[name]
            again: list[float] = []
            highest = peaks[index]
            folded = self.folded.get(name, {})
            keys, own = tuple(s.key for s in held), scores[index]
            if folded:
                keys, own = tuple(folded), list(folded.values())
                highest = own
            elif not held:
                self.progress.say(f"warning: {name} has too few photos to hold any out; its cut is provisional.")
                rows = [i for i, s in enumerate(self.trained.samples) if s.product == name]
                found, tops = self._scores(detector, self.trained, f"training photos of {name}", blank, rows)
                again, highest = found[index], tops[index]
            cut = rank_cut(own, blank[index].cut.promise.wished, again)
            scale = 1.0
            if isinstance(detector, SystemDetector):
                top = max(highest)
                at_cut = cut_at(highest, max(1, cut.promise.rank))
                scale = cut.value / at_cut if cut.value > 0 and top > 0 and at_cut > 0 else 1.0
                detector.map_scale[index] = scale
            infos.append(
                dataclasses.replace(
                    blank[index],
                    cut=cut,
                    train=tuple(s.key for s in trained),
                    held_out=keys,
                    held_out_scores=tuple(own),
                    lower=self.lower[index] * scale,
                    blurred=round(float(detector.statistics.wide[index]), 4),
                )
            )
            if cut.promise.missing:
                self.progress.say(f"{name}: {cut.describe()}")
        return tuple(infos)

    def blank(self, name: str) -> ProductInfo:
        """A product before its cut: the rate that is wished, what counts as a region."""
        wishes = self.config.calibration
        return ProductInfo(name, unpromised(0.0, wishes.false_alarms), min_area=wishes.min_area)

    def final_config(self, outcome: Outcome) -> Config:
        """The settings with the number of steps that was run, so that they repeat the run exactly."""
        precision = pick_precision(self.config.train.precision, self.device)
        train = dataclasses.replace(self.config.train, steps=outcome.steps, minutes=None, precision=precision)
        return dataclasses.replace(self.config, train=train)

    def record(self, outcome: Outcome) -> dict[str, Any]:
        """What figures made with this model carry."""
        return {
            "data": self.dataset.root.name,
            "system": self.config.system,
            "layout": self.dataset.layout,
            "seed": self.config.train.seed,
            "steps": outcome.steps,
            "epochs": round(outcome.epochs, 2),
            "minutes": round((outcome.elapsed_before + time.monotonic() - self.started) / 60, 2),
            "minutes_asked": self.config.train.minutes,
            "training_seconds": round(outcome.seconds, 1),
            "first_loss": outcome.first_loss,
            "last_loss": outcome.last_loss,
            "resumed_at": outcome.resumed_at,
            "peak_mib": None if (peak := peak_memory()) is None else max(peak, outcome.peak_before),
            "peak_gpu_mib": torch.cuda.max_memory_allocated(self.device) / 2**20
            if self.device.type == "cuda"
            else None,
            "practice": len(self.seen) - len(self.trained.samples),
            "turns": {name: list(self.augmentation.turns(name)) for name in self.products},
            **stamp(self.device),
        }

    def augment(self) -> None:
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
        views = self.config.tiling.views
        minutes, count = self.config.train.minutes, views * len(turned_rows(self.trained.samples, self.augmentation))
        if minutes is None or count <= TURNED_A_MINUTE * minutes:
            return
        self.progress.say(
            f"{count} turned photos are too many for {minutes:g} minutes: none is turned, as with --recipe none"
        )
        self.config = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, recipe="none"))
        self.augmentation = Augmentation("none")

    def fill_cache(self) -> None:
        """Features of the training photos and of their turns, as far as both fit."""
        rows = (
            [] if isinstance(self.trained, Pixels) else turned_rows(self.trained.samples, self.augmentation, self.every)
        )
        more: list[Features] = []
        if rows:
            samples, turns = [self.trained.samples[index] for index, _ in rows], [turn for _, turn in rows]
            more = [Features(samples, self.backbone, self.config, self.device, self.progress, turns)]
        practice = [] if self.practice is None else [self.practice]
        if not self.trained.fits_cache(*more, *practice):
            return
        self.trained.fill("features of training photos")
        for features in more:
            arrays = features.fill("features of turned photos")
            views = self.config.tiling.views
            self.turned = TurnedFeatures(arrays, self.seen, self.augmentation, views, self.every)
        for features in practice:
            features.fill("features of drawn textures")

    @property
    def seen(self) -> list[Sample]:
        """What steps see: the training photos, then the drawn pictures."""
        return [*self.trained.samples, *([] if self.practice is None else self.practice.samples)]

    @property
    def rows(self) -> NDArray[np.int64] | None:
        """Which training photo each place of an epoch shows; None = every photo once."""
        return None

    def batches(self, workers: int) -> Batches:
        """What steps see: cached features, or photos through the backbone."""
        train, rows, views = self.config.train, self.rows, self.config.tiling.views
        if self.trained.arrays is not None:
            names = [str(sample.path) for sample in self.seen for _ in range(views)]
            none = [len(self.products)] * (len(self.seen) - len(self.trained.samples))
            products = [index for index in (*self.indices(), *none) for _ in range(views)]
            seen = None if rows is None else view_rows(rows, views)
            arrays: Mapping[int, Rows] = self.trained.arrays
            if self.practice is not None and self.practice.arrays is not None:
                drawn = self.practice.arrays
                arrays = {level: Joined(array, drawn[level]) for level, array in self.trained.arrays.items()}
            return CachedBatches(arrays, names, products, train.batch_size, train.seed, self.device, self.turned, seen)
        samples = self.seen if rows is None else [self.trained.samples[row] for row in rows]
        steps = StepDataset(
            samples, self.config.tiling, self.config.bits, self.augmentation, train.batch_size, train.seed
        )
        return ImageBatches(steps, self.backbone, self.device, workers)

    def also(self) -> str:
        """What --steps needs beside it to repeat this run."""
        return " --recipe none" if self.config.train.recipe != self.asked.train.recipe else ""

    def _fingerprint(self) -> str:
        settings = to_dict(self.config)
        settings["train"].pop("minutes")
        settings["train"].pop("checkpoint_minutes")
        settings["train"].pop("steps")
        keys = [sample.key for sample in self.trained.samples]
        return hashlib.sha256(json.dumps([settings, keys], sort_keys=True).encode("utf-8")).hexdigest()

    def _scores(
        self,
        detector: AnyDetector,
        features: Features,
        name: str,
        infos: Sequence[ProductInfo],
        rows: Sequence[int] | None = None,
    ) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
        """{product: scores} and {product: highest values of the maps} of photos whose product is known."""
        scores: dict[int, list[float]] = {index: [] for index in range(len(self.products))}
        peaks: dict[int, list[float]] = {index: [] for index in range(len(self.products))}
        chosen = list(range(len(features.samples))) if rows is None else list(rows)
        known = torch.tensor([self.products.index(features.samples[row].product) for row in chosen], device=self.device)
        start = 0
        for images in features.images(name, chosen):
            product = known[start : start + len(images)]
            start += len(product)
            maps = detector(images, product)
            arrays = maps.anomaly_map.float().cpu().numpy()
            for row, index in enumerate(product.tolist()):
                scores[index].append(score_of(maps, row, arrays[row], infos[index]))
                peaks[index].append(float(arrays[row].max()))
        return scores, peaks
