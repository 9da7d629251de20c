"""What cuts promised against what they did."""

from __future__ import annotations

import numpy as np
import pytest

from unias.calibration.cuts import rank_cut, unpromised
from unias.evaluation.promises import mixed_figures, promise_figures, promise_rows, promises_markdown


def test_counts_rates_and_the_expected_range() -> None:
    cut = rank_cut([float(n) for n in range(39)], 0.05)  # the second largest: 2 / 40
    is_defect = np.array([False] * 20 + [True] * 5)
    failed = np.array([True] * 2 + [False] * 18 + [True] * 4 + [False])
    scores = failed + np.linspace(
        0, 0.5, 25
    )  # the failed ones above all others; the passed defect above every passed good one
    found = promise_figures(cut, is_defect, failed, scores)
    assert (found["caught"], found["caught_by_labels"]) == (0.8, 1.0)
    assert (found["good"], found["false_alarms"], found["defective"], found["missed"]) == (20, 2, 5, 1)
    assert found["promised"] == 0.05
    assert found["rate"] == 0.1
    assert found["rate_low"] < 0.1 < found["rate_high"]
    assert found["inside"]
    assert (found["least"], found["most"]) == (0, 5)
    failed[:12] = True
    worse = promise_figures(cut, is_defect, failed, scores)
    assert not worse["inside"]
    both = mixed_figures({"a": found, "b": worse})
    assert (both["good"], both["false_alarms"], both["missed"], both["defective"]) == (40, 14, 2, 10)
    assert both["promised"] == 0.05
    text = promises_markdown({"a|b": found, "c": worse}, both)
    assert "| a\\|b | 39 | 2 of 20 | 10.0% (1.2% to 31.7%) | 5.0% | 0 to 5 | 1 of 5 | 80.0%, 100.0% |" in text
    assert "0 to 5: outside" in text
    assert "| all mixed |  | 14 of 40 |" in text


def test_without_good_photos_or_held_out_ones() -> None:
    found = promise_figures(unpromised(1.0), np.array([True, True]), np.array([True, False]), np.array([2.0, 0.5]))
    assert np.isnan(found["rate"])
    assert found["inside"]
    assert "–" in promises_markdown({"a": found}, mixed_figures({"a": found}))


def test_a_kept_promise_is_inside_in_ninety_nine_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        held, new = rng.gamma(2, size=30), rng.gamma(2, size=50)
        cut = rank_cut(held.tolist(), 0.05)
        inside.append(promise_figures(cut, np.zeros(50, dtype=bool), new > cut.value, new)["inside"])
    assert np.mean(inside) == pytest.approx(0.99, abs=0.012)


def test_a_cut_that_promises_nothing_is_in_no_mean() -> None:
    is_defect, scores = np.zeros(10, dtype=bool), np.linspace(0, 1, 10)
    ranked = promise_figures(rank_cut([float(n) for n in range(39)], 0.05), is_defect, scores > 2, scores)
    bare = promise_figures(unpromised(0.5), is_defect, scores > 0.5, scores)
    assert np.isnan(bare["promised"])
    both = mixed_figures({"a": ranked, "b": bare})
    assert both["promised"] == 0.05
    assert both["false_alarms"] == 5  # which are counted nevertheless
    assert np.isnan(mixed_figures({"b": bare})["promised"])
    assert promise_rows({"b": bare}, both)[0][4] == "–"


def test_folds_follow_no_law() -> None:
    cut = rank_cut([float(n) for n in range(39)], 0.05)
    good, scores = np.zeros(20, dtype=bool), np.linspace(0, 1, 20)
    strict = promise_figures(cut, good, scores > 0.4, scores)
    folded = promise_figures(cut, good, scores > 0.4, scores, folded=True)
    assert not strict["inside"]
    assert folded["inside"]
    assert "by folds: up to twice" in promises_markdown({"a": folded}, mixed_figures({"a": folded}))
