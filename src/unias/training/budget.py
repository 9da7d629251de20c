"""--minutes: from start to the model on disk. A few real steps are timed, then the number of steps is fixed and stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Budget:
    """Seconds since ``start``; what is kept back for statistics, cuts and writing after the last step.

    Attributes:
        minutes: the wish.
        reserve: seconds the rest will take, estimated by the caller (it measures one evaluated photo).
        also: says which other options repeat the run, beside --steps.
    """

    minutes: float
    start: float = field(default_factory=time.monotonic)
    reserve: float = 0.0
    also: Callable[[], str] = str

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def steps_that_fit(self, done: int, seconds_a_step: float, least: int = 1) -> int:
        """Total number of steps for this run, the ``done`` ones included."""
        left = self.minutes * 60 - self.elapsed() - self.reserve
        return max(least, done, done + int(left / max(seconds_a_step, 1e-6)))
