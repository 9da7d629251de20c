"""Progress that a person can follow: bars on a terminal, a line now and then in a log, silence on request."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """Call it with how many units were finished, and what to show beside the bar."""

    def __call__(self, count: int = 1, note: str = "") -> None: ...


class Progress:
    """Stages one after the other, on standard error.

    Args:
        mode: "auto" (bars on a terminal, lines elsewhere), "lines", "silent".
        every: seconds between lines.
    """

    def __init__(self, mode: str = "auto", every: float = 15.0) -> None:
        if mode == "auto":
            mode = "bars" if sys.stderr.isatty() else "lines"
        self.mode = mode
        self.every = every

    def say(self, text: str) -> None:
        """One line of information."""
        if self.mode != "silent":
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Count ``total`` units of one stage."""
        if self.mode == "bars":
            with self._bar(name, total) as advance:
                yield advance
            return
        done, start = 0, time.monotonic()
        last = start

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done, last
            done += count
            now = time.monotonic()
            if self.mode == "lines" and (now - last >= self.every or done == total):
                last = now
                left = (now - start) / max(done, 1) * (total - done)
                tail = f", {note}" if note else ""
                self.say(f"{name}: {done}/{total}, {now - start:.0f} s, {left:.0f} s to go{tail}")

        yield advance

    @contextlib.contextmanager
    def _bar(self, name: str, total: int) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        with bar:
            task = bar.add_task(name, total=total, note="")
            yield lambda count=1, note="": bar.update(task, advance=count, note=note)
