"""UniAS's own run: feature statistics, steps, level statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unias.calibration.cuts import lower_cut
from unias.calibration.fusion import VARIANTS, choose_rule
from unias.config import Config
from unias.data.split import spaced
from unias.inference.store import build_detector
from unias.maps.detector import Detector
from unias.maps.fusion import Rule
from unias.maps.levels import to_input_size
from unias.progress import Progress
from unias.run.base import STATISTICS_PHOTOS, TrainingRun
from unias.runtime import clock, keep_freed_memory, seed_everything
from unias.training.features import Features, fit_standardize
from unias.training.loop import Outcome
from unias.training.practice import practice_pictures
from unias.training.task import UniASTask

DRAWN_SHARE = 0.06  # of the minutes, at most, for choosing fusions
FEWEST_DRAWN = 16  # photos a product; fewer choose by chance (40 gave the same from three seeds, docs/LOG.md)
RULES_SECONDS = 0.08  # drawing one defect and judging one photo by every rule


class UniASRun(TrainingRun):
    """Features of all photos, cached where they fit, then steps."""

    affordable: int | None = None  # photos a product to draw on, within the minutes

    @property
    def chosen(self) -> dict[str, Rule]:
        """Products whose fusion is known already."""
        return {}

    def fit(self, home: Path, resume: bool, workers: int, loggers: list[Any]) -> tuple[Outcome, Detector]:
        """Features, weights, steps."""
        self.augment()
        train = self.config.train
        photos, products = len(self.trained.samples), len(self.products)
        with practice_pictures(train.practice, photos, products, self.config.input_size) as drawn:
            self.practice = self.photos(drawn) if drawn else None
            return self._fit(home, resume, workers, loggers)

    def _fit(self, home: Path, resume: bool, workers: int, loggers: list[Any]) -> tuple[Outcome, Detector]:
        config = self.config
        if config.train.cache:
            self.fill_cache()
        seed_everything(config.train.seed)
        keep_freed_memory()
        detector = build_detector(config, self.products, self.backbone).to(self.device)
        if config.model.standardize:
            found = [self.trained] if self.practice is None else [self.trained, self.practice]
            batches = (batch for features in found for batch in features.batches("feature statistics"))
            fit_standardize(detector.unias.standardize, batches)
        task = UniASTask(detector.unias, config.train)
        outcome = self.train(task, detector, self.batches(workers), home, resume, loggers)
        return outcome, detector.eval()

    def fit_statistics(self, detector: Detector) -> None:
        if self.config.train.minutes is not None and self.affordable is None:  # resumed: the steps were fixed before
            self.seconds_after(detector)
        self.lower = fit_statistics(detector, self.trained, self.config, self.drawn, self.chosen)

    def final_config(self, outcome: Outcome) -> Config:
        config = super().final_config(outcome)
        return dataclasses.replace(config, maps=dataclasses.replace(config.maps, drawn=self.drawn))

    def also(self) -> str:
        """As ever; with fewer drawn photos than the settings say, the model's own config.yaml."""
        fewer = self.config.maps.fusion == "mean" and self.drawn != self.config.maps.drawn
        return super().also() + (" --config and the config.yaml of this model" if fewer else "")

    @property
    def drawn(self) -> int:
        """Photos a product that defects are drawn into: as many as the settings say, or fewer where minutes are short."""
        wish = self.config.maps.drawn if self.config.maps.fusion == "mean" else 0
        return wish if self.affordable is None else min(wish, self.affordable)

    def seconds_after(self, detector: Detector) -> float:
        """Measure a batch of statistics and of cuts, and reckon what all of them will take, plus writing."""
        training = detector.unias.training
        detector.unias.eval()
        with torch.inference_mode():
            few = Features(self.trained.samples[:8], self.backbone, self.config, self.device, Progress("silent"))
            first = torch.zeros(len(few.samples), dtype=torch.long, device=self.device)
            a_photo = a_backbone = 0.0
            for _ in range(2):  # the second time counts: the first one warms up
                began = clock(self.device)
                batch = next(few.batches(""))
                photos = min(few.at_once, len(few.samples))
                between = clock(self.device)
                detector.from_features(batch, first[:photos])
                a_backbone, a_photo = (between - began) / photos, (clock(self.device) - between) / photos
        detector.unias.train(training)
        choices = len(set(self.products) - set(self.chosen))
        a_drawn = VARIANTS * (a_photo + a_backbone + RULES_SECONDS) * choices
        if choices and self.config.train.minutes is not None:
            self.affordable = int(DRAWN_SHARE * 60 * self.config.train.minutes / a_drawn)
            if self.affordable < FEWEST_DRAWN and self.drawn:
                self.affordable = 0
                self.progress.say(
                    "too few minutes to choose how a product's levels are fused: the settings' weights serve"
                )
        fitted = sum(min(STATISTICS_PHOTOS, len(trained)) for trained, _ in self.split.values())
        uncached = (len(self.trained.samples) + fitted) * a_backbone if self.trained.arrays is None else 0.0
        rest = fitted * a_photo + uncached + len(self.held.samples) * (a_photo + a_backbone)
        return rest + self.drawn * a_drawn + 4.0


@torch.inference_mode()
def fit_statistics(
    detector: Detector, features: Features, config: Config, drawn: int = 0, chosen: Mapping[str, Rule] | None = None
) -> dict[int, float]:
    """Class means and reaches, level means, local shares and fusions, from training photos alone. Gives back the lower cuts.

    drawn: photos a product that defects are drawn into, to choose its fusion; 0 = the settings' own rule. chosen: fusions of
    products that keep theirs.
    """
    statistics, products, wishes = detector.statistics, detector.statistics.products, config.calibration
    pooled = torch.cat([detector.pooled(batch) for batch in features.batches("class means")])
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
            if chosen and name in chosen:
                statistics.set_rule(place, chosen[name])
            elif drawn:
                features.progress.say(f"fusion of {name}: defects drawn into {min(drawn, len(own))} training photos")
                samples = [features.samples[row] for row in own]
                statistics.set_rule(place, choose_rule(detector, samples, place, config, drawn, config.train.seed))
        same = torch.full((len(rows),), place, device=pooled.device)
        maps = to_input_size(detector.fuse(levels, same), detector.size)
        lower[place] = lower_cut(maps.float().cpu().numpy(), wishes.lower_quantile)
    return lower
