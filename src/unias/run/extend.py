"""A product more, or photos more of one, without training all again (``unias extend``).

Training goes on from the model's weights, half of what is seen new photos, half photos of the old products: all of them where
their folder is still there, or the few that the model keeps (``inference.rehearsal``). What good parts look like is fitted anew,
and cuts are ranked anew where held-out photos are at hand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.calibration.cuts import unpromised
from unias.config import Config
from unias.data.layouts import Sample
from unias.data.transforms import Augmentation
from unias.inference.products import ProductInfo
from unias.inference.store import build_detector
from unias.maps.detector import Detector
from unias.maps.fusion import Rule
from unias.run.base import TURNED_A_MINUTE
from unias.run.unias import UniASRun
from unias.runtime import keep_freed_memory, seed_everything
from unias.training.batches import turned_rows
from unias.training.loop import Outcome
from unias.training.photos import HOW_TO_MEND
from unias.training.symmetry import allowed_turns
from unias.training.task import UniASTask

RATE = 0.5  # of the settings' learning rates: what was learned is to stay
WARMUP = 50


class ExtendRun(UniASRun):
    """See the module.

    Attributes:
        old: the trained detector. known: its products. turns: how they may lie.
        new: paths of the photos that are learned now.
        spare: {product: kept photos that are not rehearsed}, by which the cuts of products are moved whose held-out photos
            are not at hand.
    """

    bad_photo = HOW_TO_MEND
    old: Detector
    known: dict[str, ProductInfo]
    turns: dict[str, tuple[int, ...]]
    new: frozenset[Path]
    spare: dict[str, list[Sample]]

    def begin_from(
        self,
        old: Detector,
        known: Sequence[ProductInfo],
        turns: dict[str, tuple[int, ...]],
        new: frozenset[Path],
        spare: dict[str, list[Sample]],
    ) -> None:
        """What is gone on from; before ``fit``."""
        self.old, self.turns, self.new, self.spare = old, turns, new, spare
        self.known = {product.name: product for product in known}

    @property
    def chosen(self) -> dict[str, Rule]:
        """Old products keep their fusions: they were chosen on all of their photos and in more minutes."""
        places = {name: place for place, name in enumerate(self.old.statistics.products)}
        return {name: self.old.statistics.rule(places[name]) for name in self.known}

    def blank(self, name: str) -> ProductInfo:
        """With what ``unias calibrate`` has set for an old product, but for its missed defects: their scores are gone."""
        before = self.known.get(name)
        if before is None:
            return super().blank(name)
        cut = unpromised(0.0, before.cut.promise.wished)
        return ProductInfo(name, cut, min_area=before.min_area, ignore=before.ignore)

    def fit(self, home: Path, resume: bool, workers: int, loggers: list[Any]) -> tuple[Outcome, Detector]:
        """Features, the old weights, steps."""
        self.augment()
        if self.config.train.cache:
            self.fill_cache()
        seed_everything(self.config.train.seed)
        keep_freed_memory()
        detector = build_detector(self.config, self.products, self.backbone).to(self.device)
        detector.unias.load_state_dict(self.old.unias.state_dict())
        detector.unias.train()
        task = UniASTask(detector.unias, self.config.train)
        outcome = self.train(task, detector, self.batches(workers), home, resume, loggers)
        return outcome, detector.eval()

    def augment(self) -> None:
        """Old products lie as they were found to; new ones are looked at."""
        if self.config.train.recipe != "auto":
            super().augment()
            return
        unknown = [sample for sample in self.trained.samples if sample.product not in self.turns]
        found = allowed_turns(unknown, self.backbone, self.config, self.device, self.progress) if unknown else {}
        self.augmentation = Augmentation("auto", {**self.turns, **found})
        self._drop_turns_of_short_runs()

    @property
    def rows(self) -> NDArray[np.int64] | None:
        """Every photo, those of the smaller half as often as makes the halves alike."""
        new = np.array([sample.path in self.new for sample in self.trained.samples])
        halves = [np.flatnonzero(new), np.flatnonzero(~new)]
        if not all(len(half) for half in halves):
            return None
        longest = max(len(half) for half in halves)
        return np.sort(np.concatenate([np.tile(half, max(1, round(longest / len(half)))) for half in halves]))

    def _drop_turns_of_short_runs(self) -> None:
        """A part of the photos is turned, where minutes are short: products that learned to lie in any way would unlearn it."""
        minutes = self.config.train.minutes
        count = self.config.tiling.views * len(turned_rows(self.trained.samples, self.augmentation))
        if minutes is None or count <= TURNED_A_MINUTE * minutes:
            return
        self.every = math.ceil(count / (TURNED_A_MINUTE * minutes))
        self.progress.say(
            f"{count} turned photos are too many for {minutes:g} minutes: one photo in {self.every} is turned"
        )

    def calibrate(self, detector: Any) -> tuple[ProductInfo, ...]:
        """As ever; the cut of an old product without held-out photos moves with the scores of its kept photos."""
        infos = list(super().calibrate(detector))
        for place, info in enumerate(infos):
            old = self.known.get(info.name)
            if old is None:
                continue
            if old.missed_scores:
                self.progress.say(f"{info.name}: give its missed defects again with `unias calibrate --missed`")
            fresh = [sample.key for sample in self.split[info.name][0] if sample.path in self.new]
            if info.name in self.spare:  # the model remembers the names of photos, not of its copies of some of them
                infos[place] = info = dataclasses.replace(info, train=tuple(dict.fromkeys((*old.train, *fresh))))
            if info.held_out or info.name not in self.spare:
                continue
            samples = self.spare[info.name]
            was, now = self._median(self.old, samples, info.name), self._median(detector, samples, info.name)
            ratio = now / was if was > 0 else 1.0
            infos[place] = dataclasses.replace(
                info,
                cut=unpromised(old.cut.value * ratio, old.cut.promise.wished),
                lower=old.lower * ratio,
                held_out=(),
                held_out_scores=(),
            )
            self.progress.say(
                f"{info.name}: no held-out photo is at hand; its cut was moved by {ratio:.3f}, with its kept photos, and is "
                "provisional. `unias calibrate --good` on recent good photos makes it a promise again."
            )
        return tuple(infos)

    def final_config(self, outcome: Outcome) -> Config:
        """With the rates that it came with, so that a later extension starts from the same."""
        config = super().final_config(outcome)
        train = dataclasses.replace(
            config.train,
            learning_rate=config.train.learning_rate / RATE,
            muon_rate=config.train.muon_rate / RATE,
        )
        return dataclasses.replace(config, train=train)

    @torch.inference_mode()
    def _median(self, detector: Detector, samples: list[Sample], name: str) -> float:
        """The median score of a product's photos by one of the two detectors, as its verdicts count it."""
        infos = [self.blank(product) for product in detector.statistics.products]
        scores, _ = self._scores(detector, self.photos(samples), f"kept photos of {name}", infos)
        return float(np.median(scores[self.products.index(name)]))


def extended(config: Config, minutes: float | None, steps: int | None, seed: int) -> Config:
    """The model's own settings for going on: smaller rates, a short warm-up, the budget asked for."""
    train = dataclasses.replace(
        config.train,
        minutes=minutes,
        steps=steps,
        seed=seed,
        learning_rate=RATE * config.train.learning_rate,
        muon_rate=RATE * config.train.muon_rate,
        warmup_steps=min(config.train.warmup_steps, WARMUP) or WARMUP,
        precision="auto",
    )
    return dataclasses.replace(config, train=train)
