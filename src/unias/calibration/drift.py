"""Are the parts of today still those that the cut was made on?

As long as they are, the scores of parts that pass are drawn as those of held-out good photos below the cut were, and their
p-values are uniform above it. Lamps age, lenses get dusty, a new batch of material comes in: then they are not, long before many
good parts fail. Both samples are small, so they are compared as two samples (Kolmogorov-Smirnov), not one with a uniform law: a
few held-out photos would else look like a drift to a long stretch of parts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

LAST = 200  # parts looked back on
LEAST = 20  # fewer of either kind tell nothing
CHANCE = 0.001  # of a warning where nothing has changed, at each look


@dataclass(frozen=True)
class Drift:
    """What the last passed parts say.

    Attributes:
        parts: how many of them. held_out: held-out photos below the cut.
        distance: largest difference of the two shares at any score, in [0, 1].
        chance: probability of such a distance or more where nothing has changed; 1.0 where there are too few of either.
        higher: whether today's scores are the higher ones.
    """

    parts: int
    held_out: int
    distance: float
    chance: float
    higher: bool

    @property
    def drifted(self) -> bool:
        """Whether it is time to look."""
        return self.chance < CHANCE

    def describe(self) -> str:
        """For people."""
        if not self.drifted:
            return f"no drift: the last {self.parts} passed parts look like the {self.held_out} held-out photos"
        way = "higher" if self.higher else "lower"
        return (
            f"drift: the last {self.parts} passed parts score {way} than the held-out photos did (chance {self.chance:.1g}). "
            "Check lamp, lens and position; if parts are as they should be, calibrate with --good on recent ones"
        )


def drift(passed_scores: Sequence[float], held_scores: Sequence[float], cut: float) -> Drift:
    """Compare the scores of parts that passed with the held-out ones that would.

    passed_scores: of the last parts, none above ``cut``; those that are, are left out.
    """
    today = sorted(score for score in passed_scores if score <= cut)
    before = sorted(score for score in held_scores if score <= cut)
    if min(len(today), len(before)) < LEAST:
        return Drift(len(today), len(before), 0.0, 1.0, False)
    distance, higher = _distance(today, before)
    return Drift(len(today), len(before), distance, kolmogorov(distance, len(today), len(before)), higher)


class DriftWatch:
    """The last passed scores of one product, in constant memory."""

    def __init__(self, held_scores: Sequence[float], cut: float, last: int = LAST) -> None:
        self.held_scores = tuple(held_scores)
        self.cut = cut
        self.last: deque[float] = deque(maxlen=last)

    def add(self, score: float) -> None:
        """One more part; those that fail are left out."""
        if score <= self.cut:
            self.last.append(score)

    def look(self) -> Drift:
        """What they say now."""
        return drift(self.last, self.held_scores, self.cut)


def kolmogorov(distance: float, first: int, second: int) -> float:
    """Chance of that distance or more between two samples of one law (Kolmogorov's series, Stephens' correction for few)."""
    root = math.sqrt(first * second / (first + second))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:
        return 1.0
    total = math.fsum((1 if k % 2 else -1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


def _distance(today: Sequence[float], before: Sequence[float]) -> tuple[float, bool]:
    """Largest difference of the two empirical distributions, and whether today's lie higher there."""
    i = j = 0
    largest, higher = 0.0, False
    while i < len(today) and j < len(before):
        value = min(today[i], before[j])
        while i < len(today) and today[i] == value:
            i += 1
        while j < len(before) and before[j] == value:
            j += 1
        gap = j / len(before) - i / len(today)
        if abs(gap) > largest:
            largest, higher = abs(gap), gap > 0
    return largest, higher
