"""Drift: against scipy, seldom without a cause, soon with one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from unias.calibration.drift import CHANCE, DriftWatch, drift


@pytest.mark.parametrize("seed", range(6))
def test_against_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    today, before = rng.normal(0.2 * seed, 1, 120).round(1), rng.normal(0, 1, 60).round(1)  # ties too
    found = drift(today.tolist(), before.tolist(), np.inf)
    expected = ks_2samp(today, before, method="asymp")
    assert found.distance == pytest.approx(expected.statistic, abs=1e-12)
    assert found.chance == pytest.approx(expected.pvalue, rel=0.35, abs=0.02)
    assert found.higher == (expected.statistic_sign < 0) or found.distance < 0.1


def test_seldom_without_a_cause() -> None:
    rng = np.random.default_rng(0)
    for held in (20, 60, 300):
        drawn = rng.gamma(2, size=(3000, held + 200))
        warned = np.mean([drift(row[held:], row[:held], 4.0).drifted for row in drawn])
        assert warned <= 3 * CHANCE


def test_a_lamp_that_ages_is_seen_before_parts_fail() -> None:
    rng = np.random.default_rng(1)
    held = rng.normal(1, 0.1, 60)
    watch = DriftWatch(held.tolist(), cut=float(held.max()))
    for score in rng.normal(1, 0.1, 300):
        watch.add(score)
    assert not watch.look().drifted
    assert "no drift" in watch.look().describe()
    assert watch.look().parts == 200
    for score in rng.normal(1.08, 0.1, 200):
        watch.add(score)
    found = watch.look()
    assert found.drifted
    assert found.higher
    assert "--good" in found.describe()


def test_failed_parts_and_few_parts_say_nothing() -> None:
    watch = DriftWatch([1.0] * 30, cut=2.0)
    for _ in range(500):
        watch.add(5.0)
    assert watch.look().parts == 0
    assert watch.look().chance == 1.0
    assert not drift([9.0] * 10, [1.0] * 30, 10.0).drifted
