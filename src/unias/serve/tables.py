"""``results.csv`` and ``results.jsonl`` of a watched folder: appended row by row, and always what the ledger says.

The ledger knows how many bytes of each file hold finished rows. What a killed process wrote behind them is compared with the
rows that belong there: a good beginning is kept and completed, anything else is cut off. A file that was removed or changed by
others is written anew from the ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from unias.files import csv_line, explain_os_error, writing
from unias.serve.ledger import Ledger

CHUNK = 1000  # rows read from the ledger at a time


class Tables:
    """Both files of an output folder. ``columns`` are those of results.csv; results.jsonl holds whole rows."""

    def __init__(self, ledger: Ledger, columns: Sequence[str]) -> None:
        self.ledger = ledger
        self._columns = tuple(columns)
        self._heads = {"results.csv": csv_line(self._columns).encode("utf-8"), "results.jsonl": b""}

    def catch_up(self) -> None:
        """Bring both files to the ledger's last row, on disk. Raises DataError where they cannot be written."""
        places = {}
        for name in self._heads:
            file = self.ledger.home / name
            try:
                places[name] = self._append(file) if self._is_ours(file) else self._rewrite(file)
            except OSError as error:
                raise explain_os_error(error, file) from error
        self.ledger.set_exported(places)

    def _is_ours(self, file: Path) -> bool:
        """Whether the file still holds what was written, as far as its size and head tell."""
        _, size = self.ledger.exported(file.name)
        head = self._heads[file.name]
        try:
            with open(file, "rb") as handle:
                return size == 0 or (os.fstat(handle.fileno()).st_size >= size and handle.read(len(head)) == head)
        except FileNotFoundError:
            return size == 0

    def _append(self, file: Path) -> tuple[int, int]:
        number, size = self.ledger.exported(file.name)
        with open(file, "r+b" if file.exists() else "x+b") as handle:
            for last, data in self._after(file.name, number, size):
                handle.seek(size)
                left = handle.read(len(data))
                if left and not data.startswith(left):
                    handle.truncate(size)
                    left = b""
                _write(handle, size, len(left), data)
                number, size = last, size + len(data)
            handle.truncate(size)
            os.fsync(handle.fileno())
        return number, size

    def _rewrite(self, file: Path) -> tuple[int, int]:
        number = size = 0
        with writing(file) as temporary, open(temporary, "wb") as handle:
            for last, data in self._after(file.name, 0, 0):
                handle.write(data)
                number, size = last, size + len(data)
            handle.flush()
            os.fsync(handle.fileno())
        return number, size

    def _after(self, name: str, number: int, size: int) -> Iterator[tuple[int, bytes]]:
        """(number of the last row in it, bytes) of what follows a place in a file, in pieces."""
        if size == 0 and self._heads[name]:
            yield number, self._heads[name]
        while rows := self.ledger.rows_after(number, CHUNK):
            number = rows[-1][0]
            yield number, "".join(self._line(name, row) for _, row in rows).encode("utf-8")

    def _line(self, name: str, row: str) -> str:
        if name == "results.jsonl":
            return row + "\n"
        content = json.loads(row)
        return csv_line([content.get(column) for column in self._columns])


def _write(handle: IO[bytes], size: int, done: int, data: bytes) -> None:
    """``data`` at place ``size``, of which ``done`` bytes are there already; a full disk leaves no half of it, if it can."""
    handle.seek(size + done)
    try:
        handle.write(data[done:])
        handle.flush()
    except OSError:
        with contextlib.suppress(OSError):
            handle.truncate(size)
        raise
