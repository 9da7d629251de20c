"""``unias push``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def push(
    model: Path = typer.Argument(..., help="Folder of a trained model."),
    name: str = typer.Argument(..., help="user/model on the Hugging Face Hub; made where it is not there."),
    private: bool = typer.Option(
        False, "--private", help="Only its owners see it. A public one that is there is refused."
    ),
    revision: str | None = typer.Option(None, help="Branch to push to. Default: main."),
    licence: str = typer.Option(
        "other", "--license", help="The Hub's word for the model's licence, such as apache-2.0."
    ),
    with_photos: bool = typer.Option(
        False, "--with-photos", help="Also the few training photos that the model keeps for unias extend."
    ),
    as_json: bool = options.AsJson,
) -> None:
    """Put a trained model on the Hugging Face Hub, with its card; unias.load("user/model") fetches it.

    The weights go, and products.json with the products' names, cuts, scores and the names of the training photos; no photo
    does, but for those that --with-photos asks for.
    """
    from unias.inference.hub import push as run

    address = run(model, name, private=private, revision=revision, licence=licence, photos=with_photos)
    options.answer(as_json, {"url": address}, f"Model: {address}")
