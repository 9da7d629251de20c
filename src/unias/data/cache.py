"""Frozen features on disk: computed once, read back by memory mapping, bounded, keyed by content.

One folder an entry, under ``$UNIAS_CACHE`` or the user's cache folder. The key is a hash of every photo's bytes, the
transform and the backbone, so a photo that changes or other weights never meet stale features. Entries are written whole or
not at all; the oldest go when the bound would be passed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unias.errors import DataError
from unias.files import sha256, writing_folder

Arrays = dict[int, NDArray[np.float16]]


def cache_root() -> Path:
    """``$UNIAS_CACHE``, else the platform's user cache folder."""
    if named := os.environ.get("UNIAS_CACHE"):
        return Path(named)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "unias" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unias"


def content_key(paths: Sequence[Path], settings: dict[str, object]) -> str:
    """A hash of the photos' bytes, in order, and of every setting that changes their features."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode("utf-8"))
    known: dict[Path, bytes] = {}  # a photo that is there in several turns is read once
    for path in paths:
        try:
            content = known.get(path) or bytes.fromhex(sha256(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error
        known[path] = content
        digest.update(content)
    return digest.hexdigest()[:32]


def bytes_needed(count: int, shapes: dict[int, tuple[int, ...]]) -> int:
    """What ``count`` photos take as float16."""
    return 2 * count * sum(int(np.prod(shape)) for shape in shapes.values())


def open_entry(key: str, count: int, levels: Collection[int]) -> Arrays | None:
    """The cached features {level: (count, C, H, W)}, memory-mapped read-only, or None where they are not (whole) there."""
    folder = cache_root() / key
    files = sorted(folder.glob("level*.npy"))
    if not files:
        return None
    try:
        arrays = {int(file.stem.removeprefix("level")): np.load(file, mmap_mode="r") for file in files}
        os.utime(folder)
    except (OSError, ValueError, EOFError):
        return None
    whole = set(arrays) == set(levels) and all(len(array) == count for array in arrays.values())
    return arrays if whole else None


def write_entry(
    key: str,
    count: int,
    shapes: dict[int, tuple[int, ...]],
    batches: Iterable[dict[int, NDArray[np.float32]]],
    bound: int,
) -> Arrays:
    """Fill one entry batch by batch and open it. ``bound``: bytes the whole cache may take after it."""
    make_room(bound - bytes_needed(count, shapes))
    start = 0
    with writing_folder(cache_root() / key, replace=True) as folder, contextlib.ExitStack() as stack:
        files = {  # plain files, not memory maps: writing to a map on a full disk ends the process without a word
            level: stack.enter_context((folder / f"level{level}.npy").open("wb")) for level in shapes
        }
        for level, shape in shapes.items():
            header = {"descr": "<f2", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(files[level], header)
        for batch in batches:
            for level, values in batch.items():
                files[level].write(np.ascontiguousarray(values, dtype="<f2").tobytes())
            start += len(next(iter(batch.values())))
    opened = open_entry(key, count, shapes)
    assert opened is not None
    assert start == count
    return opened


def make_room(bound: int) -> None:
    """Remove the entries used longest ago until the rest takes at most ``bound`` bytes."""
    root = cache_root()
    if not root.is_dir():
        return
    entries = sorted(
        (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: -entry.stat().st_mtime,
    )
    total = 0
    for entry in entries:
        total += sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if total > bound:
            shutil.rmtree(entry, ignore_errors=True)
