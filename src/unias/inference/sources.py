"""What ``predict`` takes: one photo, or anything that gives photos one after the other with flat memory."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.data.layouts import SKIPPED, SUFFIXES
from unias.errors import DataError, UsageError
from unias.inference.video import Frame, frames, is_stream

OnePhoto = str | Path | bytes | Image.Image | NDArray[Any] | Frame
OnError = Callable[[OnePhoto, DataError], None]
RESULTS = ("heatmaps", "masks", "levels", "frames")  # folders of pictures that predict makes in its output
LABELS = "labels-"  # how the folders begin that export-labels makes there


def is_one_photo(source: Any) -> bool:
    """A path that is no folder, pattern or video, encoded bytes, a PIL image, an H x W (x channels) array, a frame."""
    if isinstance(source, (bytes, bytearray, Image.Image, Frame)):
        return True
    if isinstance(source, (str, Path)):
        if is_stream(source):
            return False
        return not Path(source).is_dir() and (Path(source).exists() or not glob.has_magic(str(source)))
    return isinstance(source, np.ndarray) and (source.ndim == 2 or (source.ndim == 3 and source.shape[-1] in (1, 3, 4)))


def each_photo(source: Any, every: int = 1, on_error: OnError | None = None) -> Generator[OnePhoto, None, None]:
    """Photos of a folder (with its subfolders, sorted), a pattern, an N x H x W x 3 array, a video, a camera, or any iterable of
    these, one at a time; streams are closed with the iterator.

    Args:
        every: take every n-th frame of videos and cameras.
        on_error: called with a video or camera that cannot be read on and its error, instead of raising.

    Raises DataError for a folder or pattern without photos, UsageError for what is none of these.
    """
    if is_one_photo(source):
        yield source
    elif is_stream(source):
        try:
            yield from frames(source, every)
        except DataError as error:
            if on_error is None:
                raise
            on_error(source, error)
    elif isinstance(source, (str, Path)):
        for file in files_of(source):
            yield from each_photo(file, every, on_error)
    elif isinstance(source, np.ndarray) and source.ndim == 4:
        yield from source
    elif isinstance(source, Iterable):
        for item in source:
            yield from each_photo(item, every, on_error)
    else:
        raise UsageError(
            f"predict: {type(source).__name__} is not a photo. Give a path, bytes, a PIL image, an array, or an iterable of them."
        )


def in_batches(photos: Iterable[OnePhoto], size: int) -> Iterator[list[OnePhoto]]:
    """So many at a time. Where the source breaks off (a video that is cut), what came before comes first, then the error."""
    waiting: list[OnePhoto] = []
    try:
        for photo in photos:
            waiting.append(photo)
            if len(waiting) == size:
                yield waiting
                waiting = []
    except DataError:
        if waiting:
            yield waiting
        raise
    if waiting:
        yield waiting


def files_of(source: str | Path) -> list[str | Path]:
    """What a name stands for, without opening anything: the files of a folder or pattern, else the photo or stream itself.

    Raises DataError for a folder or pattern without photos.
    """
    if is_one_photo(source) or is_stream(source):
        return [source if is_stream(source) else Path(source)]
    files = photos_below(Path(source)) if Path(source).is_dir() else matching(str(source))
    if not files:
        raise DataError(f"{source}: no photos here. Photos end in {', '.join(sorted(SUFFIXES))}.")
    return list(files)


def without_results(source: str | Path, files: Sequence[str | Path], output: Path) -> list[str | Path]:
    """The files of a folder or pattern but for the pictures that predict and export-labels put into the folder ``output``.

    A photo or stream that is named itself stays. Raises DataError where nothing is left.
    """
    if is_one_photo(source) or is_stream(source):
        return list(files)
    home = output.resolve()
    of_folder: dict[Path, bool] = {}
    left: list[str | Path] = []
    for file in files:
        folder = Path(file).parent
        if folder not in of_folder:
            of_folder[folder] = _is_result(folder.resolve(), home)
        if not of_folder[folder]:
            left.append(file)
    if not left:
        raise DataError(
            f"{source}: holds no photos but pictures that predict wrote into {output}. Give it the photos, or choose another "
            "output with -o."
        )
    return left


def _is_result(folder: Path, home: Path) -> bool:
    below = folder.relative_to(home).parts if folder.is_relative_to(home) else ()
    return bool(below) and (below[0] in RESULTS or below[0].startswith(LABELS))


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
