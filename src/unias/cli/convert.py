"""``unias convert``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def convert(
    checkpoint: Path = typer.Argument(..., help="Checkpoint of the authors' released code (.pth)."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the model; must be new."),
    data: Path | None = typer.Option(
        None, help="Folder of good photos: gives the products and their (provisional) cuts."
    ),
    weights: str | None = typer.Option(None, help="Weights of the backbone where the checkpoint has none."),
    device: str = options.Device,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """A checkpoint of the authors' released code becomes a model folder: same maps, no code of theirs run."""
    from unias.convert import convert_checkpoint

    model = convert_checkpoint(
        checkpoint, output, data=data, weights=weights, device=device, progress=options.progress(quiet)
    )
    names = ", ".join(product.name for product in model.products)
    note = "" if data else " It has no cuts: give --data for verdicts."
    options.answer(as_json, {"model": output, "products": names}, f"Model: {output} ({names}).{note}")
