"""UniAS's own run: feature statistics, steps, level statistics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unias.calibration.cuts import lower_cut
from unias.config import CalibrationConfig
from unias.data.split import spaced
from unias.inference.store import build_detector
from unias.maps.detector import Detector
from unias.maps.levels import to_input_size
from unias.maps.statistics import pool
from unias.progress import Progress
from unias.run.base import STATISTICS_PHOTOS, TrainingRun
from unias.runtime import keep_freed_memory, seed_everything
from unias.training.features import Features, fit_standardize
from unias.training.loop import Outcome
from unias.training.task import UniASTask


class UniASRun(TrainingRun):
    """Features of all photos, cached where they fit, then steps."""

    def fit(self, home: Path, resume: bool, workers: int, loggers: list[Any]) -> tuple[Outcome, Detector]:
        """Features, weights, steps."""
        self.augment()
        config = self.config
        if config.train.cache:
            self.fill_cache()
        seed_everything(config.train.seed)
        keep_freed_memory()
        detector = build_detector(config, self.products, self.backbone).to(self.device)
        if config.model.standardize:
            fit_standardize(detector.unias.standardize, self.trained.batches("feature statistics"))
        task = UniASTask(detector.unias, config.train)
        outcome = self.train(task, detector, self.batches(workers), home, resume, loggers)
        return outcome, detector.eval()

    def fit_statistics(self, detector: Detector) -> None:
        self.lower = fit_statistics(detector, self.trained, self.config.calibration)

    def seconds_after(self, detector: Detector) -> float:
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
        uncached = (len(self.trained.samples) + fitted) * a_backbone if self.trained.arrays is None else 0.0
        return fitted * a_photo + uncached + len(self.held.samples) * (a_photo + a_backbone) + 4.0


@torch.inference_mode()
def fit_statistics(detector: Detector, features: Features, wishes: CalibrationConfig) -> dict[int, float]:
    """Class means and reaches, level means and local shares, from training photos alone. Gives back the lower cuts."""
    statistics, products = detector.statistics, detector.statistics.products
    pooled = torch.cat([pool(batch) for batch in features.batches("class means")])
    index = torch.tensor([products.index(s.product) for s in features.samples], device=pooled.device)
    statistics.fit_prototypes(pooled, index, wishes.unknown_reach)
    lower = {}
    for place, name in enumerate(products):
        own = [i for i, s in enumerate(features.samples) if s.product == name]
        rows = [own[place] for place in spaced(len(own), STATISTICS_PHOTOS)]
        kept: dict[int, list[Tensor]] = {}
        for batch in features.batches(f"usual noise of {name}", rows):
            for level, values in detector.levels_of(detector.unias(batch)).items():
                kept.setdefault(level, []).append(values)
        levels = {level: torch.cat(values) for level, values in kept.items()}
        if detector.config.fusion == "mean":
            statistics.fit_levels(place, levels, detector.local, detector.config.local_spread)
        same = torch.full((len(rows),), place, device=pooled.device)
        maps = to_input_size(detector.fuse(levels, same), detector.size)
        lower[place] = lower_cut(maps.float().cpu().numpy(), wishes.lower_quantile)
    return lower
