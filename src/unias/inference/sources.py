"""What ``predict`` takes: one photo, or anything that gives photos one after the other with flat memory."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.data.layouts import SKIPPED, SUFFIXES
from unias.errors import DataError, UsageError

OnePhoto = str | Path | bytes | Image.Image | NDArray[Any]


def is_one_photo(source: Any) -> bool:
    """A path that is not a folder or pattern, encoded bytes, a PIL image, an H x W (x channels) array."""
    if isinstance(source, (bytes, bytearray, Image.Image)):
        return True
    if isinstance(source, (str, Path)):
        return not Path(source).is_dir() and (Path(source).exists() or not glob.has_magic(str(source)))
    return isinstance(source, np.ndarray) and (source.ndim == 2 or (source.ndim == 3 and source.shape[-1] in (1, 3, 4)))


def each_photo(source: Any) -> Iterator[OnePhoto]:
    """Photos of a folder (with its subfolders, sorted), a pattern, an N x H x W x 3 array, or any iterable of these.

    Raises DataError for a folder or pattern without photos, UsageError for what is none of these.
    """
    if is_one_photo(source):
        yield source
    elif isinstance(source, (str, Path)):
        files = photos_below(Path(source)) if Path(source).is_dir() else matching(str(source))
        if not files:
            raise DataError(f"{source}: no photos here. Photos end in {', '.join(sorted(SUFFIXES))}.")
        yield from files
    elif isinstance(source, np.ndarray) and source.ndim == 4:
        yield from source
    elif isinstance(source, Iterable):
        for item in source:
            yield from each_photo(item)
    else:
        raise UsageError(
            f"predict: {type(source).__name__} is not a photo. Give a path, bytes, a PIL image, an array, or an iterable of them."
        )


def photos_below(folder: Path) -> list[Path]:
    """Every photo in a folder and its subfolders, sorted by path; thumbnails and hidden files skipped."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(name))
        found += [Path(root) / n for n in sorted(names) if not _is_skipped(n) and Path(n).suffix.lower() in SUFFIXES]
    return found


def matching(pattern: str) -> list[Path]:
    """The files of a pattern such as ``line/*.png``, sorted."""
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SKIPPED
