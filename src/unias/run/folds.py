"""Cuts of products with few photos, from models that never saw the photos they judge (``unias train --folds K``).

With 15 good photos, 7 held out make a poor cut and 8 a poor model. K models are really trained, each without one K-th of every
product's photos, which it judges; then the model that is kept is trained on all of them. Every photo has served the cut once, and
none was judged by a model that had learned from it. The scores come from other models than the kept one, so what a rank promises
is weaker (cross-conformal: on average at most about twice the rate), and the cut says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from unias.config import Config
from unias.data.layouts import Sample
from unias.errors import Interrupted, UsageError
from unias.progress import Progress
from unias.run.base import Split, TrainingRun

Scores = dict[str, dict[str, float]]  # {product: {key: score}}
Build = Callable[[Split, Config, float], TrainingRun]  # split, settings, when it began


def fold_splits(samples: Sequence[Sample], folds: int, seed: int) -> list[Split]:
    """K splits: each product's photos in K parts by hash, one held out in turn.

    Raises UsageError for fewer than two folds, or a product with fewer photos than folds.
    """
    if folds < 2:
        raise UsageError(f"--folds {folds}: at least 2 are needed.")
    products: dict[str, list[Sample]] = {}
    for sample in samples:
        products.setdefault(sample.product, []).append(sample)
    few = [name for name, own in products.items() if len(own) < folds]
    if few:
        raise UsageError(f"--folds {folds}: {few[0]} has {len(products[few[0]])} good photos. Use fewer folds.")
    ranked = {
        name: sorted(own, key=lambda s: hashlib.sha256(f"{seed}:{s.key}".encode()).hexdigest())
        for name, own in sorted(products.items())
    }
    splits = []
    for fold in range(folds):
        split: Split = {}
        for name, own in ranked.items():
            held = own[fold::folds]
            kept = {sample.key for sample in held}
            split[name] = (
                sorted((s for s in own if s.key not in kept), key=lambda s: s.key),
                sorted(held, key=lambda s: s.key),
            )
        splits.append(split)
    return splits


def shared(config: Config, folds: int, spent: float = 0.0) -> Config:
    """Each of the K + 1 trainings gets its part of the minutes that are left of ``spent``; steps and epochs are each training's
    own."""
    if config.train.minutes is None:
        return config
    left = max(config.train.minutes - spent, 0.01)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, minutes=left / (folds + 1)))


def out_of_fold(build: Build, splits: Sequence[Split], config: Config, home: Path, progress: Progress) -> Scores:
    """Train a model a fold and let it judge the photos that it did not see. Raises what training raises."""
    found: Scores = {}
    for number, split in enumerate(splits, 1):
        progress.say(f"fold {number} of {len(splits)}")
        run = build(split, config, time.monotonic())
        _, detector = run.fit(home / f"fold-{number}", False, 0, [])
        with torch.inference_mode():
            for info in run.calibrate(detector):
                found.setdefault(info.name, {}).update(zip(info.held_out, info.held_out_scores, strict=True))
    return found


@contextlib.contextmanager
def without_resume(home: Path) -> Iterator[None]:
    """An interrupted training's error says to go on with --resume, which folds do not know: here it says what to do."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(
            f"training with --folds was interrupted; it cannot be gone on with. Remove {home} and run the same command again."
        ) from error
