"""``unias demo``: one model on five real products, from nothing to a report, on an ordinary CPU without internet."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from unias.api import evaluate, train
from unias.data.demo import make_demo_data
from unias.files import ensure_folder
from unias.presets import preset
from unias.progress import Progress

WARMUP = 30  # steps; the small preset's own warm-up would be a third of so short a run


def run_demo(
    output: Path | str,
    data: Path | str,
    minutes: float = 3.0,
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
    home = ensure_folder(output)
    folder = make_demo_data(data, seed=seed, replace=True)
    progress.say(f"photos of five products: {folder}")
    model_folder = home / "model"
    if model_folder.exists():
        shutil.rmtree(model_folder)
    base = preset("small")
    config = dataclasses.replace(base, train=dataclasses.replace(base.train, warmup_steps=WARMUP, ema=0.99))
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
