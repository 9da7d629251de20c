"""``unias compare``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def compare(
    data: Path = typer.Argument(..., help="Folder with training and test photos in MVTec-AD or VisA layout."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the study; the same command goes on with it."),
    systems: str = typer.Option("all", help="all, or names with commas between: patchcore,rd4ad,unias."),
    preset: str = typer.Option(
        "small",
        help="small, or paper, visa or released: UniAS with that preset, the other systems as published (for a GPU).",
    ),
    minutes: float | None = typer.Option(
        None, min=0.01, help="Time of each training, from photos to the model on disk. Default with small: 20."
    ),
    epochs: int | None = typer.Option(
        None, min=1, help="Passes over the photos instead. Default of other presets: their own."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of every system's first run."),
    more_seeds: list[str] = typer.Option([], help="SYSTEM=1,2: further seeds of a system; may be repeated."),
    subset: list[str] = typer.Option([], help="NAME=FILE: tables for the test photos listed in FILE too, first."),
    textures: Path | None = typer.Option(
        None, help="Folder of photos that draem and destseg blend in (DTD). Default: procedural textures."
    ),
    published: str | None = typer.Option(None, help="mvtec or visa: the paper's own table beside ours."),
    device: str = options.Device,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Train the systems one after the other under the same minutes or as published, same seed and data, and write the paper's
    table for DATA."""
    from unias.errors import UsageError
    from unias.report.tables import percent
    from unias.studies.compare import compare as run

    if published not in (None, "mvtec", "visa"):
        raise UsageError(f"--published: {published!r} is neither mvtec nor visa.")
    document = run(
        data,
        output,
        systems=systems,
        preset=preset,
        minutes=minutes,
        epochs=epochs,
        seeds=(seed,),
        more_seeds=_seeds(more_seeds),
        subsets=options.files(subset),
        textures=None if textures is None else str(textures),
        show_published=published,
        common=options.common(device, threads, quiet),
        progress=options.progress(quiet),
    )
    lines = []
    for one in document["runs"]:
        mean = one["figures"]["all"]["mean"]
        figures = f"pAP {percent(mean['pap'], 2)}, DSC {percent(mean['dsc'], 2)} (oracle)"
        figures += f", image AUROC {percent(mean['image_auroc'], 2)}"
        lines.append(f"{one['system']} seed {one['seed']}: {figures}")
    lines.append(f"Tables: {output / 'compare.md'}, pictures: {output / 'index.html'}")
    options.answer(as_json, document, "\n".join(lines))


def _seeds(wishes: list[str]) -> dict[str, list[int]]:
    from unias.errors import UsageError

    found: dict[str, list[int]] = {}
    for wish in wishes:
        name, _, text = wish.partition("=")
        try:
            found[name] = [int(part) for part in text.split(",")]
        except ValueError as error:
            raise UsageError(f"--more-seeds {wish}: give SYSTEM=1,2 with whole numbers.") from error
    return found
