"""The image cut by rank (split conformal): what n held-out good photos can promise, and what they cannot.

A new good photo and the n held-out ones are exchangeable; then it lies above the k-th largest of them with probability
k / (n + 1) on average, whatever the scores' distribution is. Given the n photos at hand, the rate of all photos to come is
distributed as Beta(k, n + 1 - k) for continuous scores of independent photos. No tail is fitted anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
HALVINGS = 60  # of the interval that a quantile is looked for in


@dataclass(frozen=True)
class Promise:
    """What a cut at the ``rank``-th largest of ``held_out`` scores promises.

    Attributes:
        wished: the false-alarm rate asked for, in (0, 1).
        rank: k, 1 = the largest score is the cut; 0 where nothing was held out.
        rate: k / (n + 1), the average rate of good photos failed; 1.0 where nothing was held out.
        bound: no more than this with 95% confidence: the 0.95 quantile of Beta(k, n + 1 - k).
        missing: held-out photos still lacking for ``wished``; 0 where it is kept.
    """

    wished: float
    held_out: int
    rank: int
    rate: float
    bound: float
    missing: int


def promise(held_out: int, wished: float) -> Promise:
    """Never below 1 / (n + 1): where ``wished`` is, the largest score is the cut and ``missing`` says how many photos more it
    takes. Raises ValueError for a wish outside (0, 1)."""
    if not 0 < wished < 1:
        raise ValueError(f"a false-alarm rate of {wished} is not between 0 and 1.")
    if held_out < 1:
        return Promise(wished, 0, 0, 1.0, 1.0, photos_for(wished))
    return promise_at(min(held_out, max(1, _whole(wished * (held_out + 1)))), held_out, wished)


def promise_at(rank: int, held_out: int, wished: float) -> Promise:
    """What a cut at another rank promises, whatever was wished."""
    rate = rank / (held_out + 1)
    missing = 0 if rate <= wished * (1 + 1e-12) else max(0, photos_for(wished) - held_out)
    return Promise(wished, held_out, rank, rate, beta_quantile(CONFIDENCE, rank, held_out + 1 - rank), missing)


def photos_for(wished: float) -> int:
    """The fewest held-out photos whose largest score keeps ``wished`` on average."""
    return max(1, math.ceil(1 / wished * (1 - 1e-12)) - 1)


def cut_at(scores: Sequence[float], rank: int) -> float:
    """The ``rank``-th largest score. A photo fails where its score is above it, not where it is equal."""
    return sorted(scores, reverse=True)[rank - 1]


def p_value(score: float, held_scores: Sequence[float]) -> float:
    """(1 + held-out scores at least as large) / (n + 1): uniform or larger for good photos, small for rare ones."""
    return (1 + sum(held >= score for held in held_scores)) / (len(held_scores) + 1)


def beta_quantile(share: float, a: int, b: int) -> float:
    """The ``share`` quantile of Beta(a, b) for whole a, b >= 1: where at least a of a + b - 1 draws are below it with
    probability ``share``. By halving; right to the last digits that matter (1e-15)."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if at_least(a, a + b - 1, middle) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def at_least(count: int, draws: int, chance: float) -> float:
    """Probability of ``count`` or more of ``draws`` independent events of ``chance`` each; the shorter tail is summed."""
    if chance <= 0:
        return 1.0 if count <= 0 else 0.0
    if chance >= 1:
        return 1.0
    if count > draws * chance:
        return math.fsum(_binomial(k, draws, chance) for k in range(count, draws + 1))
    return 1 - math.fsum(_binomial(k, draws, chance) for k in range(count))


def _binomial(count: int, draws: int, chance: float) -> float:
    ways = math.lgamma(draws + 1) - math.lgamma(count + 1) - math.lgamma(draws - count + 1)
    return math.exp(ways + count * math.log(chance) + (draws - count) * math.log1p(-chance))


def _whole(value: float) -> int:
    """Rounded down, but 2.9999999999 is 3: alpha (n + 1) is a product of decimals."""
    return math.floor(value + 1e-9)


def rate_interval(count: int, draws: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper and Pearson's interval of a rate of which ``count`` of ``draws`` were seen; (0, 1) without any."""
    if draws < 1:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = beta_quantile(tail, count, draws - count + 1) if count else 0.0
    high = beta_quantile(1 - tail, count + 1, draws - count) if count < draws else 1.0
    return low, high


def expected_failures(found: Promise, photos: int, confidence: float = 0.99) -> tuple[int, int]:
    """How many of ``photos`` new good ones fail where the promise holds: the central interval of the beta-binomial law
    (photos; k, n + 1 - k), which is what n held-out and m new exchangeable photos follow exactly."""
    if not found.held_out:
        return 0, photos
    a, b = found.rank, found.held_out + 1 - found.rank
    tail = (1 - confidence) / 2
    below, low, high = 0.0, 0, photos
    for count in range(photos + 1):
        chance = _beta_binomial(count, photos, a, b)
        if below + chance <= tail:
            low = count + 1
        if below < 1 - tail:
            high = count
        below += chance
    return low, high


def failures_at_least(found: Promise, photos: int, failed: int) -> float:
    """Chance that ``failed`` or more of ``photos`` new good ones fail where the promise holds: the upper tail of the law of
    ``expected_failures``."""
    if not found.held_out or failed <= 0:
        return 1.0
    a, b = found.rank, found.held_out + 1 - found.rank
    chances = (_beta_binomial(count, photos, a, b) for count in range(failed, photos + 1))
    return min(1.0, math.fsum(chances))


def _beta_binomial(count: int, photos: int, a: float, b: float) -> float:
    ways = math.lgamma(photos + 1) - math.lgamma(count + 1) - math.lgamma(photos - count + 1)
    return math.exp(ways + _log_beta(count + a, photos - count + b) - _log_beta(a, b))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
