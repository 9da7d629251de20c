"""``unias demo``: one model on five real products, from nothing to a report, on an ordinary CPU without internet."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from unias.api import evaluate, train
from unias.data.demo import make_demo_data
from unias.errors import DataError
from unias.files import claimed_folder
from unias.inference.store import STATE_FOLDER
from unias.presets import preset
from unias.progress import Progress

PHOTOS = 760
SIZE = 160  # pixels: twice the steps of 224 in the same minutes, and better figures after so short a training
WARMUP = 30  # steps; the small preset's own warm-up would be a third of so short a run


def run_demo(
    output: Path | str,
    data: Path | str,
    minutes: float = 3.5,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Photos, training, evaluation, report. An earlier demo's photos, model and report are replaced.

    Raises MissingError where the extra is not installed, DataError where the folders cannot be written.
    """
    progress = progress or Progress("silent")
    with claimed_folder(output) as home, progress.stage("photos of the demo", PHOTOS) as advance:
        _check_ours(Path(data), "SOURCES.md", "--data")
        _check_ours(home / "model", "manifest.json", "-o", STATE_FOLDER)
        folder = make_demo_data(data, seed=seed, replace=True, progress=lambda _done, _total: advance())
    progress.say(f"photos of five products: {folder}")
    model_folder = home / "model"
    if model_folder.exists():
        shutil.rmtree(model_folder)
    base = preset("small")
    # not turned: what it gains takes longer than these minutes
    train_settings = dataclasses.replace(base.train, recipe="none", warmup_steps=WARMUP, ema=0.99)
    config = dataclasses.replace(base, size=SIZE, train=train_settings)
    model = train(
        folder,
        model_folder,
        config=config,
        minutes=None if steps is not None else minutes,
        steps=steps,
        seed=seed,
        device=device,
        threads=threads,
        progress=progress,
    )
    return evaluate(model, folder, home, progress=progress)


def _check_ours(folder: Path, *marks: str) -> None:
    """Only what an earlier demo left is replaced."""
    option = next(mark for mark in marks if mark.startswith("-"))
    names = [mark for mark in marks if not mark.startswith("-")]
    if folder.exists() and not any((folder / name).exists() for name in names) and any(folder.iterdir()):
        raise DataError(f"{folder}: exists and was not made by unias demo. Choose another folder with {option}.")
