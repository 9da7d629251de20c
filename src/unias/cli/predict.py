"""``unias predict``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def predict(
    model: Path = typer.Argument(..., help="Model folder made by unias train."),
    images: list[str] = typer.Argument(
        ..., help="Photos, folders, patterns such as 'line/*.png', videos (clip.mp4), or camera:0."
    ),
    output: Path = typer.Option(
        ..., "-o", "--output", help="Folder for results.csv, results.jsonl, heat maps and masks."
    ),
    product: str | None = typer.Option(
        None, help='Which product the photos show. Default: it is recognised, or "unknown product".'
    ),
    every: int = typer.Option(1, min=1, help="Take every n-th frame of videos and cameras."),
    most: int | None = typer.Option(
        None, min=1, help="Stop after so many photos and frames. Default: a camera runs on."
    ),
    frames: bool = typer.Option(False, "--frames", help="Also keep the frames of videos and cameras, as PNG."),
    levels: bool = typer.Option(False, help="Also a picture of the map of every level (supplement, Fig. 3)."),
    device: str = options.Device,
    precision: str = options.Precision,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Mark what is wrong: a heat map and a mask a photo, one row each in results.csv and results.jsonl.

    A photo that cannot be read is named and left out, the others are done, and the exit code is 3.
    """
    from unias.api import load
    from unias.errors import EXIT_DATA
    from unias.report.predictions import write_predictions
    from unias.runtime import set_threads

    set_threads(threads)
    summary = write_predictions(
        load(model, device, precision),
        images,
        output,
        product,
        levels,
        options.progress(quiet),
        every=every,
        most=most,
        keep_frames=frames,
    )
    text = f"{summary.photos} photos: {summary.ok} ok, {summary.failed} failed"
    text += f" ({summary.unknown} of no known product)" if summary.unknown else ""
    text += f", {len(summary.unreadable)} unreadable" if summary.unreadable else ""
    lines = [f"{text}. Results: {output / 'results.csv'}", *(f"{name}: {told}" for name, told in summary.drift.items())]
    options.answer(as_json, summary.as_dict(), "\n".join(lines))
    if summary.unreadable:
        raise typer.Exit(EXIT_DATA)
