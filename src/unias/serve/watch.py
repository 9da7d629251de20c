"""A hot folder: photos that appear in it are inspected, and each comes to exactly one row, whatever happens to the process.

The order of things for a batch, each step on disk before the next: read the bytes, inspect them, write the pictures; record the
rows with the letters about them in the ledger, as one transaction; append to results.csv and results.jsonl; move or delete the
photos, where that is wished. A process killed before the transaction has left pictures behind at most, which the next one writes
again under the same names; one killed after it leaves steps that the next one makes up for.

What judges a batch of photos is any callable (``Inspector``); ``serve.inspector`` makes one of a model.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unias.errors import DataError, UsageError
from unias.files import printable
from unias.progress import Progress
from unias.serve.away import finish, give_back, left_aside, put_away
from unias.serve.courier import Courier
from unias.serve.folder import Folder, Found, read_whole
from unias.serve.ledger import Entry, Ledger, Signature
from unias.serve.tables import Tables

Row = dict[str, Any]
OWN_COLUMNS = ("number", "id", "time")
MORE_COLUMNS = ("moved_to", "sha256", "error")
PICTURES = ("heatmap", "mask", "levels")  # columns that hold a picture's path
UNREADABLE = "unreadable"  # the verdict on what cannot be decoded
KEEP, MOVE, DELETE = AFTER = ("keep", "move", "delete")
BATCH_BYTES = 256 << 20  # of encoded photos in memory at a time
LONGEST_NAME = 160  # bytes of a photo's name kept in the names of its pictures, of the 255 that file systems allow
REPORT = 60.0  # seconds between lines about what was done
END = 5.0  # seconds that couriers get to end


@dataclass(frozen=True)
class Taken:
    """A photo taken in: where it lay, what its pictures are called (a path without an ending), and its bytes."""

    path: Path
    name: str
    data: bytes


class Inspector(Protocol):
    """What judges photos: a row for each of a batch in order, or the DataError of one that cannot be decoded.

    Pictures are on disk when it returns; a row's ``heatmap``, ``mask`` and ``levels`` name them below the output folder.
    """

    @property
    def columns(self) -> Sequence[str]:
        """The columns of results.csv that rows fill."""

    def __call__(self, photos: Sequence[Taken]) -> Sequence[Row | DataError]: ...


@dataclass
class Tally:
    """What this run of the watcher has done."""

    photos: int = 0
    ok: int = 0
    failed: int = 0  # all that are not ok
    unknown: int = 0  # of no known product
    unreadable: int = 0
    delivered: dict[str, int] = field(default_factory=dict)
    outstanding: dict[str, dict[str, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class _Photo:
    found: Found
    id: str
    content: str
    taken: Taken | None
    error: DataError | None = None


class Watch:
    """Watches one folder. ``step`` looks once, ``run`` until stopped.

    Args:
        ledger: of the output folder; the caller closes it.
        folder: what is watched; it should look past the output folder and ``done`` where these lie inside it.
        couriers: not started yet; ``run`` starts and stops them.
        after: keep, move (into ``done``) or delete photos that have their row. Unreadable ones are not deleted.
        batch: photos inspected at a time.
        poll: seconds between looks.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Folder,
        inspect: Inspector,
        progress: Progress,
        couriers: Sequence[Courier] = (),
        after: str = KEEP,
        done: Path | None = None,
        batch: int = 8,
        poll: float = 0.5,
    ) -> None:
        self.ledger = ledger
        self.tally = Tally()
        self._folder = folder
        self._inspect = inspect
        self._progress = progress
        self._couriers = tuple(couriers)
        self._sinks = [courier.sink for courier in couriers]
        self._after = after
        self._done = done or ledger.home / "done"
        self._batch = batch
        self._poll = poll
        self._look = 0.0  # seconds that the last look took
        self._tables = Tables(ledger, (*OWN_COLUMNS, *inspect.columns, *MORE_COLUMNS))
        self._known: dict[str, Signature] = ledger.known()
        self._away = False  # the watched folder cannot be listed
        self._behind = False  # the tables could not be written; the ledger has their rows
        self._stuck: set[str] = set()  # photos that could not be moved or deleted, said once
        if ledger.unclean:
            self._sweep()
            self._recover()
        self._tables.catch_up()

    def run(self, stop: threading.Event, once: bool = False) -> Tally:
        """Look again and again until ``stop`` is set; the batch in hand is finished.

        Args:
            once: end when every photo has its row, and what can be delivered is.
        """
        for courier in self._couriers:
            courier.start()
            courier.ring()
        try:
            said = time.monotonic()
            before = self.tally.photos
            while not stop.is_set():
                self.step(stop)
                for courier in self._couriers:
                    courier.check()
                if once and not self._folder.pending and not self._away and all(c.resting for c in self._couriers):
                    break
                now = time.monotonic()
                if now - said >= REPORT and self.tally.photos != before:
                    said, before = now, self.tally.photos
                    self._progress.say(self._line())
                stop.wait(max(self._poll, self._look))  # half of the time at most goes into looking
        finally:
            for courier in self._couriers:
                courier.stop()
            for courier in self._couriers:
                courier.join(END)
            self.tally.delivered = {courier.sink: courier.delivered for courier in self._couriers}
        self.tally.outstanding = self.ledger.outstanding()
        if self._behind:
            self._tables.catch_up()  # the last word: an error, where it still cannot be written
        return self.tally

    def step(self, stop: threading.Event | None = None) -> int:
        """One look at the folder, and the inspection of what is found, batch by batch until ``stop``; how many rows came."""
        began = time.monotonic()
        try:
            ready, there = self._folder.look(self._known, again=self._after != KEEP)
        except OSError as error:
            if not self._away:
                self._progress.say(f"{self._folder.root}: {error.strerror or error}; waiting for it to come back")
            self._away = True
            return 0
        self._look = time.monotonic() - began
        if self._away:
            self._progress.say(f"{self._folder.root}: is back")
        self._away = False
        self._put_away(there)
        if self._behind:
            self._export()
        rows = 0
        for batch in self._batches(ready):
            rows += self._record(batch)
            if stop is not None and stop.is_set():
                break
        return rows

    def _batches(self, ready: Sequence[Found]) -> Iterator[list[_Photo]]:
        batch: list[_Photo] = []
        size = 0
        for found in ready:
            if batch and (len(batch) == self._batch or size + found.signature[0] > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            photo = self._take(found)
            if photo is not None:
                batch.append(photo)
                size += found.signature[0]
        if batch:
            yield batch

    def _take(self, found: Found) -> _Photo | None:
        """The photo, read; None where it is not there any more, is not to be read yet, or has its row."""
        if self.ledger.has(found.key, found.signature):  # it was away for a while
            self._ended(found)
            return None
        try:
            data = read_whole(found)
        except DataError as error:
            if not self._folder.given_up(found):
                return None
            content = "{}:{}".format(*found.signature)
            return self._photo(found, content, None, error)
        if data is None:
            return None
        return self._photo(found, hashlib.sha256(data).hexdigest(), data)

    def _photo(self, found: Found, content: str, data: bytes | None, error: DataError | None = None) -> _Photo | None:
        id_ = self.ledger.identify(found.key, content)
        if id_ is None:  # the same content, dated anew
            self.ledger.touched(found.key, found.signature)
            self._ended(found)
            return None
        taken = None if data is None else Taken(found.path, picture_name(found.key, id_), data)
        return _Photo(found, id_, content, taken, error)

    def _ended(self, found: Found) -> None:
        """It has its row."""
        self._known[found.key] = found.signature
        self._folder.done(found)

    def _record(self, photos: Sequence[_Photo]) -> int:
        """Inspect a batch and bring it to an end; how many rows it gave."""
        taken = [photo.taken for photo in photos if photo.taken is not None]
        answers = iter(self._inspect(taken) if taken else ())
        entries: list[Entry] = []
        ended: list[Found] = []
        for photo in photos:
            answer = photo.error if photo.taken is None else next(answers)
            if isinstance(answer, DataError):
                if photo.taken is not None and not self._folder.given_up(photo.found):
                    continue
                answer = self._unreadable(photo, answer)
            assert answer is not None
            entries.append(self._entry(photo, answer))
            ended.append(photo.found)
        if not entries:
            return 0
        self._flush_pictures(entries)
        self.ledger.record(entries, self._sinks)
        for courier in self._couriers:
            courier.ring()
        for entry, found in zip(entries, ended, strict=True):
            self._ended(found)
            self._count(entry.row)
        self._export()
        if self._after != KEEP:
            self._put_away(ended)
        return len(entries)

    def _export(self) -> None:
        """Bring the tables up to date. Where another program holds one open, or the disk is full, their rows follow later: photos
        do not wait for it."""
        try:
            self._tables.catch_up()
        except DataError as error:
            if not self._behind:
                self._progress.say(f"{printable(str(error))} Until then its rows are in the ledger; they follow.")
            self._behind = True
            return
        if self._behind:
            self._progress.say("the tables are up to date again")
        self._behind = False

    def _entry(self, photo: _Photo, answer: Row) -> Entry:
        row = {
            **answer,
            "path": printable(photo.found.path),
            "moved_to": printable(self._target(photo.found, photo.id)) if self._after == MOVE else None,
            "sha256": photo.content if photo.taken is not None else None,
            "error": answer.get("error"),
        }
        return Entry(photo.id, photo.found.key, photo.found.signature, photo.content, row)

    def _unreadable(self, photo: _Photo, error: DataError) -> Row:
        self._progress.say(f"unreadable: {printable(str(error))}")
        return {
            **dict.fromkeys(self._inspect.columns),
            "verdict": UNREADABLE,
            "ok": False,
            "error": printable(str(error)),
        }

    def _count(self, row: Row) -> None:
        self.tally.photos += 1
        self.tally.ok += bool(row["ok"])
        self.tally.failed += not row["ok"]
        self.tally.unknown += row["verdict"] == "unknown product"
        self.tally.unreadable += row["verdict"] == UNREADABLE

    def _flush_pictures(self, entries: Sequence[Entry]) -> None:
        """The pictures are on disk before a row that names them: a power cut leaves no row without."""
        for entry in entries:
            for column in PICTURES:
                if entry.row.get(column):
                    with open(self.ledger.home / entry.row[column], "rb+") as file:
                        os.fsync(file.fileno())

    # what becomes of photos that have their row

    def _put_away(self, photos: Sequence[Found]) -> None:
        """Move or delete them, as far as they are still what was inspected."""
        gone: list[str] = []
        for found in photos:
            row = self.ledger.last_of(found.key)
            if row is None or (self._after == DELETE and row["verdict"] == UNREADABLE):
                continue
            try:
                if not put_away(found, self._target(found, row["id"]) if self._after == MOVE else None):
                    continue
            except (OSError, DataError) as error:
                if found.key not in self._stuck:
                    self._progress.say(
                        f"{printable(found.path)}: cannot be put away: {getattr(error, 'strerror', None) or error}; it stays"
                    )
                self._stuck.add(found.key)
                continue
            self._stuck.discard(found.key)
            gone.append(row["id"])
            self._known.pop(found.key, None)
        if gone:
            self.ledger.put_away(gone)

    def _target(self, found: Found, id_: str) -> Path:
        return self._done / (picture_name(found.key, id_) + found.path.suffix)

    def _sweep(self) -> None:
        """Remove the temporary files of a process that was killed while writing pictures."""
        for folder in ("heatmaps", "masks", "levels", "done"):
            for file in (self.ledger.home / folder).rglob(".*.part*"):
                file.unlink(missing_ok=True)

    def _recover(self) -> None:
        """A photo that a killed process had taken aside goes where it was going, or back where it has no row (``serve.away``)."""
        for aside, found in left_aside(self._folder.root):
            row = self.ledger.last_of(found.key) if self.ledger.has(found.key, found.signature) else None
            if row is None or (self._after == KEEP and not os.path.lexists(found.path)):
                give_back(aside, found.path)
                continue
            try:
                finish(aside, None if self._after == DELETE else self._target(found, row["id"]))
            except (OSError, DataError):
                give_back(aside, found.path)  # the next look says why it cannot be put away
                continue
            self.ledger.put_away([row["id"]])
            self._known.pop(found.key, None)

    def _line(self) -> str:
        tally = self.tally
        waiting = ", ".join(f"{n['waiting']} wait for {sink}" for sink, n in self.ledger.outstanding().items())
        return f"{tally.photos} photos: {tally.ok} ok, {tally.failed} failed" + (f"; {waiting}" if waiting else "")


def check_places(watched: Path, output: Path, done: Path) -> None:
    """Raise DataError where there is no such folder to watch, UsageError where what is written would be watched too."""
    if not watched.is_dir():
        raise DataError(f"{watched}: no such folder to watch. Make it, or check the path.")
    here, home, kept = watched.resolve(), output.resolve(), done.resolve()
    if here == home:
        raise UsageError(f"-o {output}: is the watched folder itself. Choose another.")
    for folder in (kept, *(home / name for name in ("heatmaps", "masks", "levels"))):
        if here.is_relative_to(folder):
            raise UsageError(f"{watched}: lies in {folder}, into which results or photos are put. Choose another -o.")


def picture_name(key: str, id_: str) -> str:
    """What a photo's pictures are called, and the photo itself where it is moved: its own path, and its id's first digits."""
    folder, _, name = key.rpartition("/")
    stem = Path(name).stem.encode("utf-8")[:LONGEST_NAME].decode("utf-8", "ignore")
    name = f"{stem}-{id_.replace('-', '')[:16]}"
    return f"{folder}/{name}" if folder else name
