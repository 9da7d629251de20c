"""``unias rename``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def rename(
    model: Path = typer.Argument(..., help="Folder of a trained or exported model."),
    names: list[str] = typer.Argument(..., help="OLD=NEW, such as 'group 1=bolt'; several may be given."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write the model there. Default: the folder itself."
    ),
    as_json: bool = options.AsJson,
) -> None:
    """Give products of a model other names, such as those of groups that training found by itself."""
    import dataclasses

    import torch

    from unias.errors import UsageError
    from unias.inference.hub import own_folder
    from unias.inference.store import load_model, rewrite_products

    model = own_folder(model, output)
    wishes: dict[str, str] = {}
    for wish in names:
        old, given, new = wish.partition("=")
        if not given or not old or not new.strip():
            raise UsageError(f"{wish}: give OLD=NEW.")
        wishes[old] = new.strip()
    products = load_model(model, torch.device("cpu")).products
    before = [product.name for product in products]
    unknown = [old for old in wishes if old not in before]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not one of this model's products: {', '.join(before)}.")
    after = [wishes.get(name, name) for name in before]
    twice = [name for name in after if after.count(name) > 1]
    if twice:
        raise UsageError(f"{twice[0]!r}: two products would have this name.")
    renamed = [dataclasses.replace(product, name=name) for product, name in zip(products, after, strict=True)]
    rewrite_products(model, renamed, output)
    lines = [f"{old} -> {new}" for old, new in zip(before, after, strict=True) if old != new]
    lines.append(f"Model: {output or model}")
    options.answer(as_json, {"model": output or model, "products": after}, "\n".join(lines))
