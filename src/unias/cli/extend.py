"""``unias extend``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def extend(
    model: Path = typer.Argument(..., help="Folder of a trained model."),
    new: Path = typer.Argument(..., help="Folder of good photos: of further products, or more of known ones."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the extended model; must be new."),
    data: Path | None = typer.Option(
        None, help="Folder the model was trained on, if still there. Without it: the photos that the model keeps."
    ),
    minutes: float | None = typer.Option(None, help="Time from now to the model on disk."),
    steps: int | None = typer.Option(None, min=1, help="Number of optimiser steps instead."),
    seed: int = typer.Option(0, min=0, help="Seed of split, order and noise."),
    resume: bool = typer.Option(False, help="Go on with the unfinished training in the output folder."),
    device: str = options.Device,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Add a product, or photos of one, to a trained model by training on it while rehearsing the old ones."""
    from unias.extension import extend as run

    found = run(
        model,
        new,
        output,
        old=data,
        minutes=minutes,
        steps=steps,
        seed=seed,
        resume=resume,
        device=device,
        threads=threads,
        progress=options.progress(quiet),
    )
    lines = [f"{p.name}: cut {p.cut.value:.6g}; {p.cut.describe()}" for p in found.products]
    lines.append(f"{found.record['steps']} steps, {found.record['minutes']} minutes. Model: {output}")
    products = {p.name: {"cut": p.cut.value, "provisional": p.cut.provisional} for p in found.products}
    options.answer(as_json, {"model": output, **found.record, "products": products}, "\n".join(lines))
