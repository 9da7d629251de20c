"""The interleaved loop: who is called when, and the figures on times written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unias.bench import rounds
from unias.bench.rounds import ONCE, Block, count, interleave, percentile, ratio, typical

BY_HAND = [{"a": [1.0, 3.0, 2.0], "b": [1.0]}, {"a": [4.0], "b": [1.0]}, {"a": [9.0, 9.0], "b": [3.0]}]


def test_figures_by_hand() -> None:
    """Medians of the rounds of a: 2, 4, 9; of b: 1, 1, 3; ratios in each round: 2, 4, 3."""
    assert typical(BY_HAND, "a") == 4
    assert typical(BY_HAND, "b") == 1
    assert ratio(BY_HAND, "b", "a") == 3
    assert ratio(BY_HAND, "a", "a") == 1
    assert count(BY_HAND, "a") == 6
    assert percentile(BY_HAND, "a", 0.5) == 3  # the third of 1 2 3 4 9 9
    assert percentile(BY_HAND, "a", 0.99) == 9
    assert percentile(BY_HAND, "b", 0.5) == 1
    assert percentile(BY_HAND, "b", 0.0) == 1


def test_p99_of_a_hundred_calls_is_not_the_slowest() -> None:
    times = [{"a": [float(number) for number in range(1, 101)]}]
    assert percentile(times, "a", 0.99) == 99
    assert percentile([{"a": times[0]["a"][:99]}], "a", 0.99) == 99  # of fewer it is


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def calls(heard: list[str]) -> dict[str, Callable[[], object]]:
    def make(name: str) -> Callable[[], object]:
        return lambda: heard.append(name)

    return {name: make(name) for name in "abc"}


def test_order_moves_on(
    calls: dict[str, Callable[[], object]], heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "SETTLE_BELOW", 0.0)
    done = interleave(calls, 4, ONCE)
    assert "".join(heard) == "abc" + "abc" + "bca" + "cab" + "abc"  # warm-up, then rounds
    assert len(done) == 4
    assert all(set(times) == set("abc") and all(len(each) == 1 for each in times.values()) for times in done)


def test_quick_calls_settle_first(calls: dict[str, Callable[[], object]], heard: list[str]) -> None:
    done = interleave({"a": calls["a"]}, 2, Block(3, 0.0, 5))
    assert len(heard) == 1 + 2 * (1 + 3)
    assert [len(times["a"]) for times in done] == [3, 3]


def test_blocks_end(calls: dict[str, Callable[[], object]]) -> None:
    done = interleave(calls, 1, {"a": Block(1, 9.0, 4), "b": Block(2, 0.0, 9), "c": ONCE})
    assert {name: len(times) for name, times in done[0].items()} == {"a": 4, "b": 2, "c": 1}
