"""What a model keeps of its good parts, so that it can learn another product when the old photos are gone.

``rehearsal.safetensors`` in a model's folder: a few training photos of each product as the model saw them (S x S, 8 bits), each a
JPEG of high quality in a tensor of bytes, some 20 kB. Nothing in use reads it; ``keep_photos: 0`` in the settings of training
leaves it out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from unias.data.decode import read_photo, to_display
from unias.data.layouts import Sample
from unias.data.split import spaced
from unias.errors import DataError

FILE = "rehearsal.safetensors"
QUALITY = 90

Picture = NDArray[np.uint8]


def keep(products: Mapping[str, Sequence[Sample]], count: int, size: int, bits: int | None) -> bytes | None:
    """The file's content: ``count`` photos of each product, evenly spaced. None where nothing is to be kept."""
    if not count:
        return None
    tensors: dict[str, Tensor] = {}
    for place, samples in enumerate(products.values()):
        for number, index in enumerate(spaced(len(samples), count)):
            picture = to_display(read_photo(samples[index].path, bits), size)
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
            tensors[f"{place}/{number:03}"] = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    return save(tensors)


def unpack(file: Path, names: Sequence[str], target: Path) -> dict[str, list[Sample]]:
    """Write the photos as PNG files below ``target`` and give them back by product; products without any are left out.

    Raises DataError where the file is of another form.
    """
    found: dict[str, list[Sample]] = {}
    try:
        for key, content in sorted(load_file(file).items()):
            place, _, number = key.partition("/")
            product = names[int(place)]
            path = target / place / f"{int(number):03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(content.numpy().tobytes()), formats=["JPEG"]) as picture:
                picture.convert("RGB").save(path)
            found.setdefault(product, []).append(
                Sample(path, product, "train", "good", None, f"kept/{place}/{path.name}")
            )
    except (OSError, ValueError, IndexError, SafetensorError) as error:
        raise DataError(f"{file}: cannot be read as kept photos ({error}). Copy the model folder again.") from error
    return found
