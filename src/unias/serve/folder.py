"""The watched folder: which photos lie in it and have been left alone long enough to be read.

It is looked through again and again (``os.scandir``), which works on network shares too, where the system reports no changes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unias.data.layouts import SKIPPED, SUFFIXES
from unias.errors import DataError
from unias.files import printable
from unias.serve.ledger import Signature

MAX_BYTES = 1 << 31  # of one file; more than the largest photo that is decoded


@dataclass(frozen=True)
class Found:
    """A photo's file: where, its path below the watched folder (``Entry.key``), and its size and mtime."""

    path: Path
    key: str
    signature: Signature


@dataclass
class _Seen:
    signature: Signature
    since: float  # when it was first seen with this signature
    tries: int = 0  # at reading or decoding it
    next: float = 0.0  # when to try again


class Folder:
    """Photos of a folder and its subfolders. Hidden files, files that are still being written under another name (``.part``,
    ``.tmp``, ``~``), thumbnails and whatever is no photo by its ending are left alone; links to folders are not followed.

    Args:
        root: the folder.
        excluded: folders that are looked past where they lie inside it, such as an output folder.
        settle: seconds that size and mtime must have stayed the same before a file is read.
        patience: seconds after which a file that still cannot be decoded is given up.
        clock: seconds of a clock that is never set back.
    """

    def __init__(
        self,
        root: Path,
        excluded: Sequence[Path] = (),
        settle: float = 1.0,
        patience: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self.settle = settle
        self.patience = patience
        here = root.resolve()
        inside = [folder.resolve() for folder in excluded]
        self._excluded = {folder.relative_to(here).as_posix() for folder in inside if folder.is_relative_to(here)}
        self._clock = clock
        self._seen: dict[str, _Seen] = {}  # files that have no row yet

    def look(self, known: dict[str, Signature], again: bool = False) -> tuple[list[Found], list[Found]]:
        """(photos to be read now, the oldest first; photos that are ``known`` as they are, left out unless ``again``).

        Photos that lie here no longer are taken out of ``known``. Raises OSError where the folder itself cannot be listed: it
        may be a share that is away for a while.
        """
        now = self._clock()
        ready: list[Found] = []
        there: list[Found] = []
        seen: dict[str, _Seen] = {}
        met: set[str] = set()
        for path, key, signature in self._files(os.fspath(self.root), ""):
            if key in known:
                met.add(key)
                if known[key] == signature:
                    if again:
                        there.append(Found(Path(path), key, signature))
                    continue
            before = self._seen.get(key)
            if before is None or before.signature != signature:
                before = _Seen(signature, now)
            seen[key] = before
            if now - before.since >= self.settle and now >= before.next:
                ready.append(Found(Path(path), key, signature))
        self._seen = seen
        for key in known.keys() - met if len(met) < len(known) else ():
            del known[key]
        ready.sort(key=lambda found: (found.signature[1], found.key))
        return ready, there

    @property
    def pending(self) -> int:
        """How many photos were there at the last look and have no row yet."""
        return len(self._seen)

    def done(self, found: Found) -> None:
        """It has its row."""
        self._seen.pop(found.key, None)

    def given_up(self, found: Found) -> bool:
        """It could not be read or decoded: whether that has gone on for too long. If not, it is tried again after pauses
        that double, since on a share the content may come later than the size."""
        seen = self._seen.get(found.key)
        if seen is None or seen.signature != found.signature:
            return False
        now = self._clock()
        if now - seen.since >= self.patience:
            return True
        seen.tries += 1
        seen.next = min(now + 0.25 * 2.0**seen.tries, seen.since + self.patience)
        return False

    def _files(self, folder: str, above: str) -> Iterator[tuple[str, str, Signature]]:
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            if not above:
                raise
            return  # a folder that was moved away, or may not be read
        for entry in entries:
            name = entry.name
            if name.startswith((".", "~")) or name.casefold() in SKIPPED:
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if above + name not in self._excluded:
                        yield from self._files(entry.path, f"{above}{name}/")
                elif name[name.rfind(".") :].lower() in SUFFIXES and entry.is_file():
                    stat = entry.stat()
                    yield entry.path, printable(above + name), (stat.st_size, stat.st_mtime_ns)
            except OSError:
                continue  # gone since it was listed


def key_of(path: Path, root: Path) -> str:
    """``Found.key`` of a file."""
    return printable(path.relative_to(root).as_posix())


def read_whole(found: Found) -> bytes | None:
    """The file's bytes, None where it is no longer the file that was found.

    Raises DataError where the system does not let it be read, or where it is too large.
    """
    try:
        with open(found.path, "rb") as handle:
            if _signature(handle.fileno()) != found.signature:
                return None
            if found.signature[0] > MAX_BYTES:
                raise DataError(
                    f"{found.path}: {found.signature[0]:,} bytes, more than the {MAX_BYTES:,} of any photo."
                )
            data = handle.read()
            if _signature(handle.fileno()) != found.signature or len(data) != found.signature[0]:
                return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{found.path}: cannot be read: {error.strerror or error}. Check its permissions.") from error
    return data


def is_still(found: Found) -> bool | None:
    """Whether the file is what was found: True, False where it has changed, None where it is gone."""
    try:
        stat = found.path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_size, stat.st_mtime_ns) == found.signature


def _signature(handle: int) -> Signature:
    stat = os.fstat(handle)
    return stat.st_size, stat.st_mtime_ns
