"""The cut of a product in this version: the highest score of its held-out good photos.

With n held-out photos a new good photo is above it with probability 1 / (n + 1) on average (exchangeable photos). Nothing is
ranked against photos that the model was trained on, except where a product has too few photos to hold any out; that cut is
marked provisional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """A product's cut and what it rests on.

    Attributes:
        value: a photo whose raw score is above it fails.
        held_out: how many held-out good photos it was ranked among.
        false_alarm_rate: 1 / (held_out + 1), the average rate promised; 1.0 where nothing was held out.
        provisional: True where it rests on training photos.
    """

    value: float
    held_out: int
    false_alarm_rate: float
    provisional: bool


def highest_cut(held_scores: Sequence[float], train_scores: Sequence[float] = ()) -> Cut:
    """Raises ValueError where there is no score at all."""
    if held_scores:
        return Cut(max(held_scores), len(held_scores), 1 / (len(held_scores) + 1), provisional=False)
    if not train_scores:
        raise ValueError("a cut needs at least one score")
    return Cut(max(train_scores), 0, 1.0, provisional=True)
