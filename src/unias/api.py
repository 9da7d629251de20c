"""Train, load, evaluate: the pieces put together. One training run is in ``run``, conversion in ``convert.py``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unias.backbones.timm_backbone import build_backbone
from unias.config import Config
from unias.data.layouts import require_training, scan
from unias.data.split import hold_out_products
from unias.errors import DataError, Interrupted, UsageError
from unias.files import claimed_folder
from unias.inference.predictor import Model
from unias.inference.rehearsal import keep
from unias.inference.store import STATE_FOLDER, StoredModel, save_model
from unias.progress import Progress
from unias.run.base import Split, TrainingRun
from unias.run.folds import Scores, fold_splits, out_of_fold, shared, without_resume
from unias.run.system import SystemRun
from unias.run.unias import UniASRun
from unias.runtime import pick_device, seed_everything, set_threads
from unias.systems.registry import UNIAS, config_of, find
from unias.training.checkpoint import STATE_FILE
from unias.training.groups import group_photos
from unias.training.loggers import build_loggers
from unias.training.photos import check_photos


def load(folder: Path | str, device: str = "auto", precision: str = "float32", revision: str | None = None) -> Model:
    """Open a model folder, or one on the Hugging Face Hub ("user/model"; a folder here wins). Raises DataError naming what is
    wrong with it. ``precision`` and ``revision``: see ``Model.load``."""
    return Model.load(folder, device, precision, revision)


def train(
    data: Path | str,
    output: Path | str,
    *,
    system: str = UNIAS,
    preset: str = "small",
    config: Config | None = None,
    settings: Mapping[str, Any] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    recipe: str | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    size: int | None = None,
    tile: int | None = None,
    bits: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    logger: str = "none",
    skip_bad: bool = False,
    group: str | None = None,
    folds: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train ONE model on every product found in ``data`` and write it to the folder ``output``.

    Args:
        system: unias, or one it is compared with: patchcore, draem, destseg, rd4ad, uniad, hvq, or one that you registered.
        preset: small (2 CPU cores), paper, visa or released; ``config`` takes the place of both where given.
        settings: some of the system's own settings (not for unias), such as {"width": 128}.
        minutes: budget from now to the model on disk; fixes the number of steps, which the model records.
        steps, epochs: how long instead; of the three at most one.
        tile: views along a photo's side, each learned and seen at the input size, for small defects (docs/predict.md).
        recipe: flips and rotations of training photos: auto, none, mvtec or visa; None = the preset's.
        resume: go on with an unfinished run in ``output``.
        skip_bad: leave unreadable photos out (each named) instead of stopping.
        group: for one folder of several products that nobody sorted: "auto", or how many they are. Groups become products, to be
            named later (``unias rename``).
        folds: for few photos: so many models more are trained, each without a part of the photos, which it judges for the cut;
            the one that is kept learns from all. The minutes are shared by all of them.

    Raises:
        DataError, UsageError, MissingError, TrainingError, Interrupted: see ``unias.errors``.
    """
    began = started = time.monotonic()
    progress = progress or Progress("silent")
    if config is not None and system not in (UNIAS, config.system):
        raise UsageError(f"--system {system}: the configuration is of {config.system}. Give one of the two.")
    base = config or config_of(system, preset)
    if settings:
        base = dataclasses.replace(base, settings={**base.settings, **settings})
    chosen = _settle(base, minutes, steps, epochs, recipe, backbone, weights, size, tile, bits, seed)
    if chosen.system != UNIAS:
        find(chosen.system).require()
    home = Path(os.path.abspath(output))
    set_threads(threads)
    place = pick_device(device)
    loggers = build_loggers(logger, home)  # an unknown name or a missing package is said now, not after an hour
    if chosen.train.cosine_sign == "released":
        progress.say("warning: cosine_sign released trains reconstructions away from their targets; for study only.")
    if folds is not None and resume:
        raise UsageError("--resume: is not for --folds. Remove the unfinished folder and train again.")
    dataset = scan(data)
    for warning in dataset.warnings:
        progress.say(f"warning: {warning}")
    require_training(dataset)
    check_output(home, resume)
    with (
        claimed_folder(home.parent),
        claimed_folder(home / STATE_FOLDER),
        without_resume(home) if folds is not None else contextlib.nullcontext(),
    ):
        dataset = check_photos(dataset, chosen.bits, skip_bad, progress)
        wish = chosen.train
        seed_everything(wish.seed)  # a backbone with weights by chance is the same one too, when it is resumed as well
        net = build_backbone(chosen.backbone).to(place)
        if group is not None:
            dataset = group_photos(dataset, group, net, chosen, place, progress)
        kind: type[TrainingRun] = UniASRun if chosen.system == UNIAS else SystemRun
        folded: Scores = {}
        if folds is not None:
            splits = fold_splits(dataset.train(), folds, wish.seed)
            chosen = shared(chosen, folds, (time.monotonic() - began) / 60)

            def build(part: Split, config: Config, began: float) -> TrainingRun:
                return kind(dataset, part, config, net, place, progress, began)

            folded = out_of_fold(build, splits, chosen, home / STATE_FOLDER, progress)
            split: Split = {
                name: (sorted(own + held, key=lambda s: s.key), []) for name, (own, held) in splits[0].items()
            }
            started = time.monotonic()  # of the training that counts against its own part of the minutes
        else:
            split = hold_out_products(dataset.train(), wish.seed, wish.hold_out, wish.hold_out_least)
        _say_split(split, progress)
        run = kind(dataset, split, chosen, net, place, progress, started)
        run.folded = folded
        outcome, detector = run.fit(home, resume, workers, loggers)
        try:
            products = run.calibrate(detector)
            kept = keep({name: split[name][0] for name in split}, wish.keep_photos, chosen.input_size, chosen.bits)
            record = run.record(outcome)
            if folds is not None:  # all of it, not the last training alone
                record |= {
                    "folds": folds,
                    "minutes": round((time.monotonic() - began) / 60, 2),
                    "minutes_asked": wish.minutes,
                }
            stored = StoredModel(detector, run.final_config(outcome), products, record, kept)
            save_model(home, stored)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted after the last step; the training is in {home / STATE_FOLDER}. Run the same command with "
                "--resume."
            ) from error
    return Model(stored)


def _settle(
    config: Config,
    minutes: float | None,
    steps: int | None,
    epochs: int | None,
    recipe: str | None,
    backbone: str | None,
    weights: str | None,
    size: int | None,
    tile: int | None,
    bits: int | None,
    seed: int | None,
) -> Config:
    """The preset with the caller's own wishes."""
    if sum(wish is not None for wish in (minutes, steps, epochs)) > 1:
        raise UsageError("give one of --minutes, --steps and --epochs, not several.")
    train = config.train
    if minutes is not None:
        train = dataclasses.replace(train, minutes=float(minutes), steps=None)
    if steps is not None:
        train = dataclasses.replace(train, steps=steps, minutes=None)
    if epochs is not None:
        train = dataclasses.replace(train, epochs=epochs, steps=None, minutes=None)
    if recipe is not None:
        train = dataclasses.replace(train, recipe=recipe)
    if seed is not None:
        train = dataclasses.replace(train, seed=seed)
    net = config.backbone
    if backbone is not None:
        net = dataclasses.replace(net, name=backbone)
    if weights is not None:
        net = dataclasses.replace(net, weights=weights)
    return dataclasses.replace(
        config,
        train=train,
        backbone=net,
        size=size if size is not None else config.size,
        tile=tile if tile is not None else config.tile,
        bits=bits or config.bits,
    )


def check_output(home: Path, resume: bool) -> None:
    """Refuse an output that holds something already, before anything is computed."""
    if home == Path.cwd() or os.path.ismount(home):
        raise DataError(f"{home}: cannot be replaced by a model folder. Name a folder inside it with -o.")
    finished, unfinished = (home / "manifest.json").exists(), (home / STATE_FOLDER / STATE_FILE).exists()
    if finished:
        raise DataError(f"{home}: holds a finished model already. Choose another output with -o, or remove it.")
    if unfinished and not resume:
        raise DataError(f"{home}: holds an unfinished training. Go on with --resume, or remove the folder.")
    if home.is_dir() and any(entry.name != STATE_FOLDER for entry in home.iterdir()):
        raise DataError(f"{home}: is not empty and holds no model. Choose another output with -o.")
    if home.exists() and not home.is_dir():
        raise DataError(f"{home}: a file is in the way of this folder. Remove it or choose another output with -o.")


def _say_split(split: Split, progress: Progress) -> None:
    for name, (trained, held) in split.items():
        progress.say(f"{name}: {len(trained)} photos to learn from, {len(held)} held out for the cut")


def evaluate(
    model: Model | Path | str,
    data: Path | str,
    output: Path | str,
    *,
    size: str = "model",
    subsets: dict[str, list[str]] | None = None,
    page: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The paper's protocol on test photos: writes metrics.json, table.md, table.csv and index.html, and gives back what
    metrics.json holds. See :func:`unias.report.evaluation.run_evaluation` for arguments and errors."""
    from unias.report.evaluation import run_evaluation

    opened = model if isinstance(model, Model) else load(model)
    return run_evaluation(opened, data, output, size, subsets, page, progress)
