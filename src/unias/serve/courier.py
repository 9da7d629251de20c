"""Carrying rows to the outside, at least once, without ever holding up inspection: what webhooks and MQTT share.

A courier is a thread that takes letters from the ledger and strikes out those that have arrived. The queue is on disk; in memory
there are a few letters at a time, however long the other side is away. After a failure it pauses, twice as long each time, with
some chance in it so that many senders do not come back at once.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from unias.errors import UsageError
from unias.progress import Progress
from unias.serve.ledger import Ledger

FIRST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 300.0
IDLE = 60.0  # seconds without being woken after which the queue is looked at all the same
HOPELESS = 3  # failures in a row after which nobody waits for a courier any more


class Courier(threading.Thread):
    """A thread that serves one sink. Subclasses say how a turn goes.

    Args:
        sink: webhook or mqtt, the name of its queue in the ledger.
        first_pause, longest_pause: seconds after the first failure, and at most.
    """

    def __init__(
        self,
        sink: str,
        ledger: Ledger,
        progress: Progress,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        super().__init__(name=f"unias {sink}", daemon=True)
        self.sink = sink
        self.ledger = ledger
        self.progress = progress
        self.delivered = 0
        self.failures = 0  # in a row
        self.error: BaseException | None = None
        self._first, self._longest = first_pause, longest_pause
        self._bell = threading.Event()
        self._stopping = threading.Event()

    def ring(self) -> None:
        """There are new letters."""
        self._bell.set()

    def stop(self) -> None:
        """End after what is in hand; call ``join`` to wait for it."""
        self._stopping.set()
        self._bell.set()

    def run(self) -> None:
        """Turns until stopped. An error that is no failure of the other side ends it, and is kept for ``check``."""
        try:
            while not self._stopping.is_set():
                self.turn()
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self.error is not None:
            raise self.error

    @property
    def resting(self) -> bool:
        """Nothing waits any more, or the other side has failed so often that waiting for it is no use."""
        return self.failures >= HOPELESS or self.ledger.next_due(self.sink) is None

    def turn(self) -> None:
        """Deliver some letters, or wait for some."""
        raise NotImplementedError

    def idle(self) -> None:
        """Wait until letters come or one becomes due."""
        due = self.ledger.next_due(self.sink)
        self._bell.wait(IDLE if due is None else min(IDLE, due))
        self._bell.clear()

    def arrived(self, numbers: list[int]) -> None:
        """These letters are delivered."""
        self.ledger.delivered(self.sink, numbers)
        self.delivered += len(numbers)
        if self.failures:
            self.progress.say(f"{self.sink}: delivers again")
        self.failures = 0

    def failed(self, numbers: list[int], tries: int, reason: str, least: float = 0.0) -> None:
        """A try failed, of letters that had failed so many times before: they wait, and so does the courier."""
        self.failures += 1
        if numbers:
            self.ledger.postpone(self.sink, numbers, max(least, self._pause(tries + 1)), reason)
        seconds = max(least, self._pause(self.failures))
        if self.failures == 1:
            self.progress.say(f"{self.sink}: {reason}; rows are kept and tried again")
        self._stopping.wait(seconds)

    def _pause(self, failures: int) -> float:
        return min(self._longest, self._first * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)


def read_secret(option: str, file: Path | None, variable: str) -> str | None:
    """A secret from a file or else from the environment, None where neither is given; never from the command line, which
    every user of the machine can read. Raises UsageError for a file that cannot be read or is empty."""
    if file is None:
        return os.environ.get(variable) or None
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {file}: cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not secret:
        raise UsageError(f"{option} {file}: empty. Write the secret into it.")
    return secret
