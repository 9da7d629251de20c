"""``unias ablate``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def ablate(
    data: Path = typer.Argument(..., help="Folder with training and test photos in MVTec-AD or VisA layout."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the study; the same command goes on with it."),
    table: list[int] = typer.Option([3, 4], help="3 (structure) or 4 (levels); may be repeated. Default: both."),
    preset: str = typer.Option("small", help="The preset that rows change: small, paper, visa or released."),
    minutes: float | None = typer.Option(
        None, min=0.01, help="Time of each training, from photos to the model on disk. Default with small: 8."
    ),
    epochs: int | None = typer.Option(
        None, min=1, help="Passes over the photos instead. Default of other presets: their own."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of every run."),
    subset: list[str] = typer.Option([], help="NAME=FILE: tables for the test photos listed in FILE too, first."),
    device: str = options.Device,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """The rows of the paper's Tables 3 and 4 as runs under equal minutes or as published, beside the published ones."""
    from unias.report.tables import percent
    from unias.studies.ablate import ablate as run

    document = run(
        data,
        output,
        tables=table,
        preset=preset,
        minutes=minutes,
        epochs=epochs,
        seed=seed,
        subsets=options.files(subset),
        common=options.common(device, threads, quiet),
        progress=options.progress(quiet),
    )
    lines = []
    for number, rows in document["tables"].items():
        for row, found in rows.items():
            mean = found["figures"]["all"]["mean"]
            lines.append(
                f"Table {number}, {row}: pAP {percent(mean['pap'], 2)}, DSC {percent(mean['dsc'], 2)} (oracle)"
            )
    lines.append(f"Tables: {output / 'ablate.md'}")
    options.answer(as_json, document, "\n".join(lines))
