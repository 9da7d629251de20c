"""What ranks promise: against the statement's own numbers, scipy, and synthetic exchangeable scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binom, binomtest

from unias.calibration.ranks import (
    at_least,
    beta_quantile,
    cut_at,
    expected_failures,
    failures_at_least,
    p_value,
    photos_for,
    promise,
    rate_interval,
)


@pytest.mark.parametrize(("n", "k", "bound"), [(59, 1, 0.05), (299, 1, 0.01), (5, 1, 0.4507), (20, 1, 0.139)])
def test_known_bounds(n: int, k: int, bound: float) -> None:
    assert beta_quantile(0.95, k, n + 1 - k) == pytest.approx(bound, abs=6e-4)


@pytest.mark.parametrize("n", [1, 2, 5, 19, 20, 59, 99, 100, 299, 3000])
@pytest.mark.parametrize("wished", [0.001, 0.01, 0.05, 0.1, 0.5, 0.9])
def test_promise_against_scipy(n: int, wished: float) -> None:
    found = promise(n, wished)
    rank = min(n, max(1, int(np.floor(round(wished * (n + 1), 9)))))
    assert found.rank == rank
    assert found.rate == rank / (n + 1) >= 1 / (n + 1)
    assert found.bound == pytest.approx(beta.ppf(0.95, rank, n + 1 - rank), rel=1e-9)
    assert found.bound > found.rate
    if found.missing:
        assert found.rate > wished
        assert promise(n + found.missing, wished).missing == 0
        assert promise(n + found.missing - 1, wished).missing == 1
    else:
        assert found.rate <= wished + 1e-12


def test_round_wishes_are_not_lost_to_rounding() -> None:
    assert [promise(n, 0.01).rank for n in (98, 99, 198, 199, 299)] == [1, 1, 1, 2, 3]
    assert [promise(n, 0.05).missing for n in (18, 19, 20)] == [1, 0, 0]
    assert (photos_for(0.01), photos_for(0.05), photos_for(0.1), photos_for(0.3)) == (99, 19, 9, 3)
    assert promise(0, 0.01).rate == promise(0, 0.01).bound == 1.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        promise(10, 0.0)


@pytest.mark.parametrize(
    ("count", "draws", "chance"), [(0, 5, 0.3), (3, 5, 0.3), (5, 5, 0.9), (40, 300, 0.1), (1, 9, 0.0)]
)
def test_tail_against_scipy(count: int, draws: int, chance: float) -> None:
    assert at_least(count, draws, chance) == pytest.approx(binom.sf(count - 1, draws, chance), rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("n", [5, 20, 59, 100, 300])
@pytest.mark.parametrize("wished", [0.01, 0.05, 0.2])
def test_coverage_over_ten_thousand_draws(n: int, wished: float) -> None:
    """Exchangeable scores of an ugly distribution: the rate is k / (n + 1), and above the bound in 5 of 100 calibrations."""
    rng = np.random.default_rng([n, int(1000 * wished)])
    found = promise(n, wished)
    draws = 10_000
    uniform = rng.random((draws, n + 1))
    scores = np.exp(8 * uniform**9) + (uniform > 0.8)  # any increasing function of exchangeable numbers
    cuts = np.partition(scores[:, :n], n - found.rank, axis=1)[:, n - found.rank]
    few = [cut_at(row[:n].tolist(), found.rank) for row in scores[:50]]
    assert few == cuts[:50].tolist()
    failed = (scores[:, n] > cuts).mean()
    assert abs(failed - found.rate) < 4 * np.sqrt(found.rate * (1 - found.rate) / draws)
    true_rates = 1 - np.partition(uniform[:, :n], n - found.rank, axis=1)[:, n - found.rank]
    assert abs((true_rates > found.bound).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / draws)


def test_p_values_are_uniform_and_agree_with_the_cut() -> None:
    rng = np.random.default_rng(0)
    held = rng.gamma(2, size=39)
    assert p_value(held.max() + 1, held.tolist()) == 1 / 40
    assert p_value(-1.0, held.tolist()) == 1.0
    rank = promise(39, 0.1).rank
    assert rank == 4
    for score in [*rng.gamma(2, size=200), *held]:
        assert (score > cut_at(held.tolist(), rank)) == (p_value(score, held.tolist()) <= rank / 40)
    draws = rng.random((4000, 20))
    values = np.array([p_value(row[19], row[:19].tolist()) for row in draws])
    assert np.histogram(values, bins=20, range=(0.025, 1.025))[0].min() > 140  # 200 each, within four deviations


@pytest.mark.parametrize(("count", "draws"), [(0, 10), (10, 10), (3, 17), (1, 300), (0, 0)])
def test_rate_interval_against_scipy(count: int, draws: int) -> None:
    if not draws:
        assert rate_interval(count, draws) == (0, 1)
        return
    expected = binomtest(count, draws).proportion_ci(0.95, method="exact")
    assert rate_interval(count, draws) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("n", [5, 20, 59, 300])
@pytest.mark.parametrize("photos", [1, 20, 100])
def test_expected_failures_against_scipy(n: int, photos: int) -> None:
    """At most half a per cent of the law lies below the interval, and as much above; one photo less would leave more."""
    found = promise(n, 0.05)
    low, high = expected_failures(found, photos)
    law = betabinom(photos, found.rank, n + 1 - found.rank)
    assert law.cdf(low - 1) <= 0.005 + 1e-9
    assert law.cdf(low) > 0.005 - 1e-9
    assert law.sf(high) <= 0.005 + 1e-9
    assert law.sf(high - 1) > 0.005 - 1e-9
    assert expected_failures(promise(0, 0.05), photos) == (0, photos)
    for failed in (0, 1, photos // 2, photos):
        assert failures_at_least(found, photos, failed) == pytest.approx(float(law.sf(failed - 1)), abs=1e-9)
    assert failures_at_least(promise(0, 0.05), photos, photos) == 1
