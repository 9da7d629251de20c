"""What ``unias watch`` has done and still has to do, in one SQLite file: the rows, and the letters that wait for delivery.

The table ``rows`` is the truth; ``results.csv`` and ``results.jsonl`` are written from it (``tables``). A row and the letters
about it are one transaction, on disk before anything else happens to the photo, so that a process killed at any moment has
either not seen the photo or has all of it. The file is held exclusively for as long as the watcher lives: that is the lock
which keeps a second one out, and the system lifts it however the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from unias.errors import DataError
from unias.files import ensure_folder, json_ready, printable

FILE = "watch.sqlite3"
VERSION = 1  # of the tables below
PATIENCE = 2.0  # seconds that a predecessor may still take to end
FARTHEST = 2 * 3600.0  # seconds; a letter due later than that was dated by a clock that has been set back since
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, content TEXT NOT NULL, away INTEGER NOT NULL DEFAULT 0, row TEXT NOT NULL);
CREATE INDEX rows_by_path ON rows (path, number);
CREATE INDEX rows_by_content ON rows (path, content);
CREATE TABLE letters (
    sink TEXT NOT NULL, number INTEGER NOT NULL REFERENCES rows (number), parked INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, error TEXT, PRIMARY KEY (sink, number));
CREATE INDEX letters_by_due ON letters (sink, parked, due);
CREATE TABLE exports (name TEXT PRIMARY KEY, number INTEGER NOT NULL, bytes INTEGER NOT NULL);
"""

Signature = tuple[int, int]  # a file's size in bytes and its mtime in nanoseconds


@dataclass(frozen=True)
class Entry:
    """A photo with its answer, ready to be recorded.

    Attributes:
        id: what ``Ledger.identify`` gave.
        key: the photo's path below the watched folder, with forward slashes.
        signature: of the file when it was read.
        content: SHA-256 of its bytes in hex, or another mark where they cannot be read.
        row: its row; ``number``, ``id`` and ``time`` are put in front.
    """

    id: str
    key: str
    signature: Signature
    content: str
    row: dict[str, Any]


@dataclass(frozen=True)
class Letter:
    """One row on its way to one sink. ``tries`` have failed so far; ``body`` is the same bytes at every try."""

    number: int
    id: str
    tries: int
    body: bytes


class Ledger:
    """The file ``watch.sqlite3`` of one output folder; safe to use from several threads.

    Raises DataError where another watcher holds it, where it is damaged, of another version or of another watched folder,
    or where the folder holds results that no ledger knows of.
    """

    synchronous = "FULL"  # a row is on the disk, not only on its way, before its photo is moved or anybody is told

    def __init__(self, output: Path | str, watched: Path | str) -> None:
        self.home = ensure_folder(output)
        self.path = self.home / FILE
        self._lock = threading.RLock()
        others = [name for name in ("results.csv", "results.jsonl") if (self.home / name).exists()]
        if others and not self.path.exists():
            raise DataError(f"{self.home / others[0]}: not made by unias watch. Choose another output with -o.")
        with self._explained():
            self._base = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._open()
            self._settle(Path(os.path.abspath(watched)))
        except BaseException:
            self._base.close()
            raise

    def _open(self) -> None:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "foreign_keys = ON"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.execute(f"PRAGMA synchronous = {self.synchronous}")
        self._base.execute("BEGIN IMMEDIATE")
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in SCHEMA.split(";"):
                self._base.execute(statement)
            self._base.execute("INSERT INTO facts VALUES ('key', ?)", (str(uuid.uuid4()),))
            self._base.execute(f"PRAGMA user_version = {VERSION}")
        self._base.execute("COMMIT")
        if version not in (0, VERSION):
            raise DataError(f"{self.path}: of another version of unias ({version}). Choose another output with -o.")

    def _settle(self, watched: Path) -> None:
        known = self._fact("watched")
        if known not in (None, printable(watched)):
            raise DataError(
                f"{self.path}: keeps the results of another folder, {known}. Choose another output with -o for {watched}."
            )
        self.unclean = self._fact("running") == "1"
        with self._changing() as base:
            for name, value in (("watched", printable(watched)), ("running", "1")):
                base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
            base.execute("UPDATE letters SET due = 0 WHERE NOT parked")  # a start is a good time to try again
        self.key = uuid.UUID(self._fact("key"))  # of this ledger alone: ids of two watchers never meet
        self._last = int(self._one("SELECT COALESCE(MAX(number), 0) FROM rows")[0])

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. What ends by way of here leaves nothing half done."""
        with self._lock:
            try:
                with self._changing() as base:
                    base.execute("UPDATE facts SET value = '0' WHERE name = 'running'")
            finally:
                self._base.close()

    # photos

    def known(self) -> dict[str, Signature]:
        """{path below the watched folder: signature} of every photo that has a row and was not put away since."""
        sql = "SELECT path, size, mtime_ns, away, MAX(number) FROM rows GROUP BY path"
        with self._explained():
            return {path: (size, mtime) for path, size, mtime, away, _ in self._base.execute(sql) if not away}

    def identify(self, key: str, content: str) -> str | None:
        """The id of a photo that has no row yet, the same each time it is asked; None where it has one.

        A photo has its row where the last one of its path is of the same content and was not put away.
        """
        sql = "SELECT content, away FROM rows WHERE path = ? ORDER BY number DESC LIMIT 1"
        if self._one(sql, (key,)) == (content, 0):
            return None
        (earlier,) = self._one("SELECT COUNT(*) FROM rows WHERE path = ? AND content = ?", (key, content))
        return str(uuid.uuid5(self.key, f"{earlier}/{content}/{key}"))

    def has(self, key: str, signature: Signature) -> bool:
        """Whether the last photo of that path has a row, was not put away, and had this size and mtime."""
        sql = "SELECT size, mtime_ns, away FROM rows WHERE path = ? ORDER BY number DESC LIMIT 1"
        return bool(self._one(sql, (key,)) == (*signature, 0))

    def touched(self, key: str, signature: Signature) -> None:
        """The last row's photo of that path has been dated anew, its content being the same."""
        sql = "UPDATE rows SET size = ?, mtime_ns = ? WHERE number = (SELECT MAX(number) FROM rows WHERE path = ?)"
        with self._changing() as base:
            base.execute(sql, (*signature, key))

    def record(self, entries: Sequence[Entry], sinks: Sequence[str]) -> None:
        """Add a row for each photo, and a letter about each to every sink: all of it is on disk afterwards, or nothing."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with self._changing() as base:
            for number, entry in enumerate(entries, self._last + 1):
                row = {"number": number, "id": entry.id, "time": now, **entry.row}
                text = json.dumps(json_ready(row), ensure_ascii=False, allow_nan=False)
                base.execute(
                    "INSERT INTO rows (number, id, path, size, mtime_ns, content, row) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (number, entry.id, entry.key, *entry.signature, entry.content, text),
                )
                base.executemany("INSERT INTO letters (sink, number) VALUES (?, ?)", [(s, number) for s in sinks])
        self._last += len(entries)

    def last_of(self, key: str) -> dict[str, Any] | None:
        """The last row of a path, None where there is none or its photo was put away."""
        found = self._one("SELECT row, away FROM rows WHERE path = ? ORDER BY number DESC LIMIT 1", (key,))
        return json.loads(found[0]) if found and not found[1] else None

    def put_away(self, ids: Sequence[str]) -> None:
        """These rows' photos were moved or deleted: a file of the same path is a new photo."""
        with self._changing() as base:
            base.executemany("UPDATE rows SET away = 1 WHERE id = ?", [(one,) for one in ids])

    # tables

    def exported(self, name: str) -> tuple[int, int]:
        """(number of the last row in a table's file, bytes of the file up to its end); (0, 0) at first."""
        found = self._one("SELECT number, bytes FROM exports WHERE name = ?", (name,))
        return (int(found[0]), int(found[1])) if found else (0, 0)

    def set_exported(self, places: dict[str, tuple[int, int]]) -> None:
        """Note how far the files of tables have come."""
        with self._changing() as base:
            for name, (number, size) in places.items():
                base.execute("INSERT OR REPLACE INTO exports VALUES (?, ?, ?)", (name, number, size))

    def rows_after(self, number: int, limit: int) -> list[tuple[int, str]]:
        """(number, JSON text) of the next rows."""
        return self._all("SELECT number, row FROM rows WHERE number > ? ORDER BY number LIMIT ?", (number, limit))

    # letters

    def letters(self, sink: str, limit: int) -> list[Letter]:
        """The letters to a sink that are due, the longest due and oldest first."""
        now = time.time()
        found = self._all(
            "SELECT number, id, tries, row FROM letters JOIN rows USING (number) "
            "WHERE sink = ? AND NOT parked AND (due <= ? OR due > ?) ORDER BY due, number LIMIT ?",
            (sink, now, now + FARTHEST, limit),
        )
        return [Letter(number, id_, tries, letter_body(row)) for number, id_, tries, row in found]

    def next_due(self, sink: str) -> float | None:
        """Seconds until the next letter to a sink is due; None where none waits."""
        (due,) = self._one("SELECT MIN(due) FROM letters WHERE sink = ? AND NOT parked", (sink,))
        return None if due is None else max(0.0, due - time.time())

    def delivered(self, sink: str, numbers: Sequence[int]) -> None:
        """The sink has these rows."""
        with self._changing() as base:
            base.executemany("DELETE FROM letters WHERE sink = ? AND number = ?", [(sink, one) for one in numbers])

    def postpone(self, sink: str, numbers: Sequence[int], seconds: float, error: str) -> None:
        """A try failed: the next one is due in so many seconds."""
        sql = "UPDATE letters SET tries = tries + 1, due = ?, error = ? WHERE sink = ? AND number = ?"
        with self._changing() as base:
            base.executemany(sql, [(time.time() + seconds, error, sink, one) for one in numbers])

    def park(self, sink: str, number: int, error: str) -> None:
        """The sink refused this row for good: it is kept, and tried again only when asked for (``resend``)."""
        sql = "UPDATE letters SET tries = tries + 1, parked = 1, error = ? WHERE sink = ? AND number = ?"
        with self._changing() as base:
            base.execute(sql, (error, sink, number))

    def resend(self) -> int:
        """Put parked letters back in the queue; how many they are."""
        with self._changing() as base:
            return base.execute("UPDATE letters SET parked = 0, due = 0 WHERE parked").rowcount

    def outstanding(self) -> dict[str, dict[str, int]]:
        """{sink: {"waiting": letters not delivered yet, "parked": letters refused for good}}, sinks without any left out."""
        found = self._all("SELECT sink, SUM(NOT parked), SUM(parked) FROM letters GROUP BY sink ORDER BY sink")
        return {sink: {"waiting": waiting, "parked": parked} for sink, waiting, parked in found}

    # the base

    def _fact(self, name: str) -> Any:
        found = self._one("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0] if found else None

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        with self._lock, self._explained():
            return self._base.execute(sql, values).fetchone()

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._explained():
            return self._base.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, whole or not at all."""
        with self._lock, self._explained():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._base.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DataError(
                    f"{self.home}: another unias watch works here. Stop it, or choose another output with -o."
                ) from error
            raise DataError(
                f"{self.path}: {error}. Nothing is lost: mend it and run the same command again."
            ) from error
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: damaged ({error}). Choose another output with -o.") from error


def letter_body(row: str) -> bytes:
    """What a sink gets about a row (its JSON text): an envelope in the form of Standard Webhooks, and the id."""
    content = json.loads(row)
    head = json.dumps({"type": "photo.inspected", "id": content["id"], "timestamp": content["time"]})
    return f'{head[:-1]}, "data": {row}}}'.encode()
