"""The photos that a trained model remembers by name, found again in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unias.data.layouts import scan
from unias.data.split import named
from unias.errors import DataError, UsageError
from unias.inference.products import ProductInfo
from unias.progress import Progress
from unias.run.base import Split


def refuse_folded(folder: Path, products: Sequence[ProductInfo], advice: str) -> None:
    """Raises UsageError for a product that was trained with --folds: no photo of its is left that no model saw."""
    folded = [product.name for product in products if product.folded]
    if folded:
        raise UsageError(
            f"{folder}: {folded[0]} was trained with --folds, on every photo of its: none is left to rank a new cut. {advice}"
        )


def remembered(products: Sequence[ProductInfo], data: Path, progress: Progress) -> Split:
    """{product: (training photos, held-out photos)} as the model split them.

    Held-out photos that joined by ``unias calibrate --good`` may lie elsewhere: they are left out, and said.

    Raises DataError for a training photo that is not in ``data``, or where no held-out one is.
    """
    found, names = scan(data).train(), {product.name for product in products}
    split: Split = {}
    for product in products:
        by_key = named(found, product.name, names)
        missing = [key for key in product.train if key not in by_key]
        held = [by_key[key] for key in product.held_out if key in by_key]
        if missing or (product.held_out and not held):
            raise DataError(
                f"{data / (missing or product.held_out)[0]}: a photo that the model was trained on is not there. Name its folder."
            )
        if len(held) < len(product.held_out):
            progress.say(
                f"{product.name}: {len(product.held_out) - len(held)} held-out photos are not in {data}: left out"
            )
        split[product.name] = ([by_key[key] for key in product.train], held)
    return split
