"""``unias train``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def train(
    data: Path = typer.Argument(
        ..., help="Folder of photos: MVTec-AD or VisA layout, product/*.png, or one flat folder."
    ),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the model; must be new."),
    system: str = typer.Option(
        "unias", help="unias, or one it is compared with: patchcore, draem, destseg, rd4ad, uniad or hvq."
    ),
    preset: str = typer.Option("small", help="small (2 CPU cores), paper, visa or released (the source's, for a GPU)."),
    config: Path | None = typer.Option(None, help="YAML settings instead of a preset, as in configs/."),
    settings: list[str] = typer.Option(
        [], "--set", help="NAME=VALUE: a setting of the system's own (not for unias); may be repeated."
    ),
    textures: Path | None = typer.Option(
        None, help="Folder of photos that draem and destseg blend in (DTD). Default: procedural textures."
    ),
    minutes: float | None = typer.Option(None, help="Time from now to the model on disk; fixes the number of steps."),
    steps: int | None = typer.Option(None, min=1, help="Number of optimiser steps."),
    epochs: int | None = typer.Option(None, min=1, help="Passes over the training photos."),
    recipe: str | None = typer.Option(
        None,
        help="Flips and rotations of training photos: auto (found out, a product at a time), none, or the paper's for its "
        "products, mvtec or visa. Default: the preset's.",
    ),
    backbone: str | None = typer.Option(None, help="Any timm features_only network with strides 2, 4, 8, 16."),
    weights: str | None = typer.Option(None, help="Its weights: a .safetensors or .pth file, a timm name, or random."),
    size: int | None = typer.Option(None, help="Side of the square input in pixels, a multiple of 32 from 128 up."),
    tile: int | None = typer.Option(
        None,
        help="Cut photos into so many overlapping views a side, each seen at --size: 2 for small defects. Default: 1.",
    ),
    bits: int | None = options.Bits,
    seed: int | None = typer.Option(None, help="Seed of weights, split, order and noise. Default: the preset's, 0."),
    resume: bool = typer.Option(False, help="Go on with the unfinished training in the output folder."),
    skip_bad: bool = typer.Option(
        False, "--skip-bad", help="Leave unreadable photos out, each named, instead of stopping."
    ),
    folds: int | None = typer.Option(
        None,
        min=2,
        help="For few photos: K models more are trained, each judging photos that it did not see; then one on all.",
    ),
    group: str | None = typer.Option(
        None, help="One folder of several products, unsorted: auto, or how many they are; name them with unias rename."
    ),
    workers: int = typer.Option(
        0,
        min=0,
        help="Processes that decode photos when features are not cached; for draem and destseg, threads that spoil them.",
    ),
    logger: str = typer.Option("none", help="none, csv, tensorboard, wandb or mlflow."),
    device: str = options.Device,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Train ONE model on every product found in DATA, from photos of good parts alone."""
    from unias.api import train as run
    from unias.config import load_config

    model = run(
        data,
        output,
        system=system,
        preset=preset,
        settings=_settings(settings, textures),
        config=load_config(config) if config is not None else None,
        minutes=minutes,
        steps=steps,
        epochs=epochs,
        recipe=recipe,
        backbone=backbone,
        weights=weights,
        size=size,
        tile=tile,
        bits=bits,
        seed=seed,
        resume=resume,
        device=device,
        threads=threads,
        workers=workers,
        logger=logger,
        skip_bad=skip_bad,
        group=group,
        folds=folds,
        progress=options.progress(quiet),
    )
    record = model.record
    lines = [
        f"{p.name}: cut {p.cut.value:.6g} from {p.cut.held_out} held-out photos; {p.promised()}" for p in model.products
    ]
    lines.append(f"{record['steps']} steps, {record['minutes']} minutes. Model: {output}")
    cuts = {
        p.name: {
            "cut": p.cut.value,
            "held_out": p.cut.held_out,
            "provisional": p.cut.provisional,
            "rate": p.cut.promise.rate,
            "bound": p.cut.promise.bound,
            "missing": p.cut.promise.missing,
        }
        for p in model.products
    }
    options.answer(as_json, {"model": output, **record, "products": cuts}, "\n".join(lines))


def _settings(wishes: list[str], textures: Path | None) -> dict[str, object]:
    import yaml

    from unias.errors import UsageError

    found: dict[str, object] = {"textures": str(textures)} if textures is not None else {}
    for wish in wishes:
        name, given, value = wish.partition("=")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {wish}: the value cannot be read.") from error
        if not given:
            raise UsageError(f"--set {wish}: give NAME=VALUE, such as width=128.")
    return found
