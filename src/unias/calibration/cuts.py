"""The cut of a product: a rank among its held-out good photos, and what that rank promises (``ranks``).

Nothing is ranked against photos that the model was trained on, except where a product has too few photos to hold any out; that
cut is marked provisional and promises nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unias.calibration.ranks import Promise, cut_at, promise, promise_at

MOST_FALSE_ALARMS = 0.2  # rate that the lowest cut which missed defects may ask for may promise
FEW = 20  # held-out photos below which a kept promise is still a wide one: provisional


@dataclass(frozen=True)
class Cut:
    """A product's cut and what it rests on.

    Attributes:
        value: a photo whose raw score is above it fails.
        promise: what its rank promises; rank 0 and rate 1 where nothing was held out.
        provisional: True where it rests on training photos, or on fewer than ``FEW`` held-out ones.
    """

    value: float
    promise: Promise
    provisional: bool

    @property
    def held_out(self) -> int:
        """How many held-out good photos it was ranked among."""
        return self.promise.held_out

    @property
    def false_alarm_rate(self) -> float:
        """The rate of good photos failed that is promised on average; 1 = nothing is promised."""
        return self.promise.rate

    def describe(self) -> str:
        """For people: what is promised, what is missing."""
        found = self.promise
        if not found.held_out:
            return "provisional: no photo was held out, so nothing is promised"
        text = f"false alarms {found.rate:.1%} on average, at most {found.bound:.1%} (95% confidence)"
        if found.missing:
            text += f"; {found.missing} more held-out photos would allow the {found.wished:.3g} wished"
        return f"provisional, {text}" if self.provisional else text


def rank_cut(held_scores: Sequence[float], wished: float, train_scores: Sequence[float] = ()) -> Cut:
    """The cut at the rank that ``wished`` allows.

    Args:
        held_scores: of held-out good photos. wished: rate of false alarms, in (0, 1).
        train_scores: of training photos, whose highest serves where nothing was held out.

    Raises ValueError where there is no score at all.
    """
    found = promise(len(held_scores), wished)
    if held_scores:
        return Cut(cut_at(held_scores, found.rank), found, provisional=len(held_scores) < FEW)
    if not train_scores:
        raise ValueError("a cut needs at least one score")
    return Cut(max(train_scores), found, provisional=True)


def unpromised(value: float, wished: float = 0.05) -> Cut:
    """A cut that rests on no held-out photo."""
    return Cut(value, promise(0, wished), provisional=True)


def lower_cut(maps: NDArray[np.float32], share: float) -> float:
    """What ``share`` of the pixels of good photos do not reach, all photos together: marked regions are grown down to it.

    maps: (n, H, W) of training photos of one product.
    """
    return float(np.quantile(maps, share)) if maps.size else math.inf


def lowered_cut(
    held_scores: Sequence[float], wished: float, missed: Sequence[float], most: float = 1.0
) -> tuple[Cut, int]:
    """The cut that ``wished`` allows, or the highest lower one that fails the missed defects too, as far as any does.

    The cut stays a held-out score, so its rank still says what it promises, though it was chosen after the fact. Missed defects
    that only a cut with more than ``most`` false alarms would find are left.

    Args:
        missed: scores of defective photos that must fail, at least one.
        most: rate promised at the lowest cut that may be taken.

    Returns (cut, how many of ``missed`` still pass).
    """
    cut = rank_cut(held_scores, wished)
    falling = sorted(held_scores, reverse=True)
    deepest = max(cut.promise.rank, min(len(falling), int(most * (len(falling) + 1) + 1e-9)))
    wanted = [score for score in missed if score > falling[deepest - 1]]
    if wanted and min(wanted) <= cut.value:
        value = next(score for score in falling if score < min(wanted))
        rank = falling.index(value) + 1
        cut = Cut(value, promise_at(rank, len(falling), wished), cut.provisional)
    return cut, sum(score <= cut.value for score in missed)
