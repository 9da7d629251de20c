"""Pictures to practise on: drawn textures that steps see beside the photos.

A network that sees photos of one product alone may find it enough to answer with the product's mean picture: screws alone stayed
at chance after 2,800 steps, and found their defects after 800 with textures among them (docs/LOG.md). On pictures of which no two
are alike only what follows the picture helps. Beside many products they gain nothing and take their steps. They are of no
product: no product's statistics, fusions or cuts come of them, only the features' mean and deviation that all share.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from unias.data.layouts import Sample
from unias.data.textures import TEXTURES, texture
from unias.errors import DataError

PRODUCT = "/drawn textures"  # no folder bears it
SHARE = 0.5  # of the number of photos, at most
FEW = 2  # products beside which they are needed; more of them teach each other


@contextlib.contextmanager
def practice_pictures(wished: int, photos: int, products: int, size: int) -> Iterator[list[Sample]]:
    """As PNG files in a temporary folder, ``size`` pixels wide and high; the same ones every time.

    Args:
        wished: how many beside one product (``train.practice``); half of that beside two, none beside more, and never more than
            half as many as there are ``photos``.

    Raises DataError where they cannot be written.
    """
    count = min(wished // products, int(SHARE * photos)) if products <= FEW else 0
    with tempfile.TemporaryDirectory(prefix="unias-practice-") if count else contextlib.nullcontext() as folder:
        yield [_draw(Path(folder), number, size) for number in range(count)] if folder else []


def _draw(folder: Path, number: int, size: int) -> Sample:
    kind = list(TEXTURES)[number % len(TEXTURES)]
    path = folder / f"{number:04}.png"
    try:
        Image.fromarray(texture((size, size), np.random.default_rng([number, 77]), kind)).save(path)
    except OSError as error:
        raise DataError(
            f"{path}: a drawn texture cannot be written: {error.strerror or error}. Make room there, or set TMPDIR."
        ) from error
    return Sample(path, PRODUCT, "train", "good", None, f"{PRODUCT}/{path.name}")
