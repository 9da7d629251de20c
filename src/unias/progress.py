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
    def stage(self, name: str, total: int | None, done: int = 0) -> Iterator[Advance]:
        """Count ``total`` units of one stage (None = nobody knows how many), of which ``done`` were finished before."""
        if self.mode == "bars":
            with self._bar(name, total, done) as bar:
                yield bar
            return
        start = time.monotonic()
        last, now_done = start, done

        def line(count: int = 1, note: str = "") -> None:
            nonlocal now_done, last
            now_done += count
            now = time.monotonic()
            if self.mode == "lines" and (now - last >= self.every or now_done == total):
                last = now
                tail = f", {note}" if note else ""
                if total is None:
                    self.say(f"{name}: {now_done}, {now - start:.0f} s{tail}")
                    return
                left = (now - start) / max(now_done - done, 1) * (total - now_done)
                self.say(f"{name}: {now_done}/{total}, {now - start:.0f} s, {left:.0f} s to go{tail}")

        yield line

    @contextlib.contextmanager
    def _bar(self, name: str, total: int | None, done: int) -> Iterator[Advance]:
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
            task = bar.add_task(name, total=total, completed=done, note="")
            yield lambda count=1, note="": bar.update(task, advance=count, note=note)
