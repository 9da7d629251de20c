"""A cheap inspector for tests of the watcher, photos it can tell whole from half, and the watcher as a process to be killed.

Run as a program it watches IN with OUT as ``unias watch`` does, but loads no model:

    python watch_stand_in.py IN OUT [--once] [--after move] [--webhook URL] [--lines N]

``--lines N`` kills the process, as ``kill -9`` does, before the Nth line of the watcher's own code that it executes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from unias.errors import DataError
from unias.files import writing
from unias.progress import Progress
from unias.serve.folder import Folder
from unias.serve.ledger import Ledger
from unias.serve.watch import Row, Taken, Watch
from unias.serve.webhook import Webhook

KEY = b"a key of more than sixteen bytes"
SERVE = f"{os.sep}unias{os.sep}serve{os.sep}"


def photo(text: str) -> bytes:
    """A photo of the stand-in: half of it cannot be decoded."""
    return f"PHOTO {text} END".encode()


class StandIn:
    """Reads the photos above; those whose text holds "scratch" fail."""

    columns = ("path", "verdict", "ok", "text", "mask")

    def __init__(self, home: Path) -> None:
        self.home = home
        self.batches: list[int] = []

    def __call__(self, photos: Sequence[Taken]) -> list[Row | DataError]:
        self.batches.append(len(photos))
        return [self.judge(one) for one in photos]

    def judge(self, taken: Taken) -> Row | DataError:
        text = taken.data.decode(errors="replace")
        if not (text.startswith("PHOTO ") and text.endswith(" END")):
            return DataError(f"{taken.path}: half a photo.")
        mask = self.home / "masks" / f"{taken.name}.png"
        with writing(mask) as temporary:
            temporary.write_bytes(taken.data)
        ok = "scratch" not in text
        return {
            "path": None,
            "verdict": "ok" if ok else "defect",
            "ok": ok,
            "text": text[6:-4],
            "mask": mask.relative_to(self.home).as_posix(),
        }


def kill_at(lines: int) -> None:
    """Kill this process at so many executed lines of ``unias.serve``."""
    left = lines

    def line(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return line if SERVE in frame.f_code.co_filename else None

    sys.settrace(call)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--after", default="keep")
    parser.add_argument("--webhook")
    parser.add_argument("--lines", type=int, default=0)
    wish = parser.parse_args()
    progress = Progress("silent")
    if wish.lines:
        kill_at(wish.lines)
    with Ledger(wish.output, wish.folder) as ledger:
        couriers = [Webhook(ledger, wish.webhook, KEY, progress, first_pause=0.01)] if wish.webhook else []
        folder = Folder(wish.folder, (wish.output,), settle=0.01)
        watch = Watch(ledger, folder, StandIn(wish.output), progress, couriers, wish.after, batch=3, poll=0.01)
        watch.run(threading.Event(), wish.once)


if __name__ == "__main__":
    main()
