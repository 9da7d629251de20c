"""Frozen features on disk: computed once, read back by memory mapping, bounded, keyed by content.

One folder an entry, under ``$UNIAS_CACHE`` or the user's cache folder. The key is a hash of every photo's bytes, the
transform and the backbone, so a photo that changes or other weights never meet stale features. Entries are written whole or
not at all; the oldest go when the bound would be passed, or the disk is too full. Only folders that are entries, by name and by
what lies in them, are ever counted or removed: the cache's folder may be one that holds other things.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unias.errors import DataError
from unias.files import sha256, writing_folder

Arrays = dict[int, NDArray[np.float16]]
ENTRY = re.compile(r"[0-9a-f]{32}")
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\..+\.(part|old)")
DAY = 24 * 3600  # after which an entry that nobody finished is what a killed run left
SPARE = 0.95  # share of the free disk that may be filled
WORKERS = 4


class Entry(NamedTuple):
    """One of our folders: when it was used last, what it takes in bytes."""

    used: float
    taken: int
    folder: Path


def cache_root() -> Path:
    """``$UNIAS_CACHE``, else the platform's user cache folder."""
    if named := os.environ.get("UNIAS_CACHE"):
        return Path(named)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "unias" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unias"


def content_key(
    paths: Sequence[Path], settings: dict[str, object], advance: Callable[[int], None] = lambda _: None
) -> str:
    """A hash of the photos' bytes, in order, and of every setting that changes their features. ``advance`` is told how
    many of ``paths`` are done. Raises DataError for one that cannot be read."""

    def content(path: Path) -> bytes:
        try:
            return bytes.fromhex(sha256(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode("utf-8"))
    distinct = list(dict.fromkeys(paths))  # a photo that is there in several turns is read once
    known: dict[Path, bytes] = {}
    times = Counter(paths)
    with ThreadPoolExecutor(WORKERS) as pool:
        for path, found in zip(distinct, pool.map(content, distinct), strict=True):
            known[path] = found
            advance(times[path])
    for path in paths:
        digest.update(known[path])
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
    needed = bytes_needed(count, shapes)
    make_room(bound - needed, needed)
    try:
        _write(key, count, shapes, batches)
    except DataError:
        opened = open_entry(key, count, shapes)  # another run may have put the same one there at this moment
        if opened is None:
            raise
        return opened
    opened = open_entry(key, count, shapes)
    if opened is None:
        raise DataError(
            f"{cache_root()}: features were written and are gone: another run needs their place. Run again, or set UNIAS_CACHE "
            "to a folder of this run's own."
        )
    return opened


def _write(
    key: str, count: int, shapes: dict[int, tuple[int, ...]], batches: Iterable[dict[int, NDArray[np.float32]]]
) -> None:
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
        assert start == count


def entries() -> list[Entry]:
    """Ours in the cache's folder, the one used last first; unfinished ones among them. Others' folders are not looked at."""
    found: list[Entry] = []
    with contextlib.suppress(OSError):
        for folder in cache_root().iterdir():
            if not (ENTRY.fullmatch(folder.name) or UNFINISHED.fullmatch(folder.name)) or folder.is_symlink():
                continue
            with contextlib.suppress(OSError):  # another run may remove it at this moment
                files = [file for file in folder.rglob("*") if not file.is_dir()]
                ours = all(file.name.startswith("level") and file.suffix == ".npy" for file in files)
                unfinished = folder.name.startswith(".")
                if ours and (files or unfinished):
                    dates = (
                        (folder, *files) if unfinished else (folder,)
                    )  # of what is being written its last file counts
                    newest = max(one.stat().st_mtime for one in dates)
                    found.append(Entry(newest, sum(file.stat().st_size for file in files), folder))
    return sorted(found, key=lambda entry: -entry.used)


def make_room(bound: int, wanted: int = 0) -> None:
    """Remove the entries used longest ago until the rest takes at most ``bound`` bytes and the disk has ``wanted`` more; and what
    killed runs left."""
    total, now = 0, time.time()
    for entry in entries():
        unfinished = UNFINISHED.fullmatch(entry.folder.name) is not None
        if unfinished and now - entry.used > DAY:
            shutil.rmtree(entry.folder, ignore_errors=True)
            continue
        total += entry.taken
        if total > bound and not unfinished:
            shutil.rmtree(entry.folder, ignore_errors=True)
    finished = [entry.folder for entry in entries() if ENTRY.fullmatch(entry.folder.name)]
    if finished and room() >= wanted:
        while finished and wanted > SPARE * shutil.disk_usage(cache_root()).free:
            shutil.rmtree(finished.pop(), ignore_errors=True)


def room(spared: Collection[str] = ()) -> int:
    """Bytes that new entries may take: of the free disk, and of entries other than ``spared`` that would make way.

    Raises OSError where the folder is not there.
    """
    evictable = sum(
        entry.taken for entry in entries() if ENTRY.fullmatch(entry.folder.name) and entry.folder.name not in spared
    )
    return int(SPARE * (shutil.disk_usage(cache_root()).free + evictable))
