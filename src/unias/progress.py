"""Progress that a person can follow: bars on a terminal, a line now and then in a log, silence on request."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

RECORD = "UNIAS_PROGRESS"  # a file that commands append their progress to, one JSON object a line (``Progress.record``)
RECORDED_EVERY = 0.25  # seconds between lines of one stage, at least


class Advance(Protocol):
    """Call it with how many units were finished, and what to show beside the bar."""

    def __call__(self, count: int = 1, note: str = "") -> None: ...


class Progress:
    """Stages one after the other, on standard error.

    Args:
        mode: "auto" (bars on a terminal, lines elsewhere), "lines", "silent".
        every: seconds between lines.
        record: a file that the same is appended to for programs, whatever the mode: {"time", "say"} for a line of information,
            {"time", "stage", "done", "total", "seconds", "note"} for a stage that begins, goes on or ends (``total`` null where
            nobody knows it). A file that cannot be written is left alone: progress stops no work.
    """

    def __init__(self, mode: str = "auto", every: float = 15.0, record: Path | str | None = None) -> None:
        if mode == "auto":
            mode = "bars" if sys.stderr.isatty() else "lines"
        self.mode = mode
        self.every = every
        self.record = Path(record) if record else None

    def say(self, text: str) -> None:
        """One line of information."""
        if self.mode != "silent":
            print(text, file=sys.stderr, flush=True)
        self._keep({"say": text})

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None, done: int = 0) -> Iterator[Advance]:
        """Count ``total`` units of one stage (None = nobody knows how many), of which ``done`` were finished before."""
        with self._shown(name, total, done) as shown:
            if self.record is None:
                yield shown
                return
            start, last, reached, said = time.monotonic(), 0.0, done, ""

            def keep() -> None:
                seconds = round(time.monotonic() - start, 3)
                self._keep({"stage": name, "done": reached, "total": total, "seconds": seconds, "note": said})

            def advance(count: int = 1, note: str = "") -> None:
                nonlocal last, reached, said
                reached, said = reached + count, note
                shown(count, note)
                if time.monotonic() - last >= RECORDED_EVERY:
                    last = time.monotonic()
                    keep()

            keep()
            try:
                yield advance
            finally:
                keep()

    def _keep(self, line: dict[str, Any]) -> None:
        if self.record is None:
            return
        text = json.dumps({"time": round(time.time(), 3), **line}, ensure_ascii=False)
        with contextlib.suppress(OSError), open(self.record, "a", encoding="utf-8", newline="\n") as file:
            file.write(f"{text}\n")

    @contextlib.contextmanager
    def _shown(self, name: str, total: int | None, done: int) -> Iterator[Advance]:
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
