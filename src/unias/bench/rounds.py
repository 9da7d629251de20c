"""The interleaved loop: in each round everything is run once, in an order that moves on, so that a machine that grows hot or
busy is felt by all alike; figures are medians over rounds, ratios are taken inside a round.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unias.progress import Progress

Call = Callable[[], object]
Round = dict[str, list[float]]  # seconds of each call of a block, by name
SETTLE_BELOW = 0.5  # seconds: quick calls get one untimed call in each block, to find caches and threads awake


@dataclass(frozen=True)
class Block:
    """How often a thing is called in one round: ``least`` times, then until ``seconds`` are over, ``most`` times at most."""

    least: int = 2
    seconds: float = 0.5
    most: int = 50


ONCE = Block(1, 0.0, 1)


def interleave(
    calls: Mapping[str, Call],
    rounds: int,
    block: Block | Mapping[str, Block],
    progress: Progress | None = None,
    title: str = "rounds",
) -> list[Round]:
    """Run every call once untimed, then ``rounds`` rounds; round k begins with the k-th call."""
    progress = progress or Progress("silent")
    names = list(calls)
    typical = {name: _seconds(calls[name]) for name in names}
    done: list[Round] = []
    with progress.stage(title, rounds * len(names)) as advance:
        for number in range(rounds):
            start = number % len(names)
            times: Round = {}
            for name in names[start:] + names[:start]:
                if typical[name] < SETTLE_BELOW:
                    calls[name]()
                times[name] = _block(calls[name], block if isinstance(block, Block) else block[name])
                typical[name] = statistics.median(times[name])
                advance(1, name)
            done.append(times)
    return done


def _block(call: Call, block: Block) -> list[float]:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < block.least or (len(times) < block.most and time.perf_counter() - began < block.seconds):
        times.append(_seconds(call))
    return times


def _seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def typical(rounds: Sequence[Round], name: str) -> float:
    """Seconds of a call: the median over rounds of each round's median."""
    return statistics.median(statistics.median(times[name]) for times in rounds)


def ratio(rounds: Sequence[Round], name: str, yardstick: str) -> float:
    """How many times faster than the yardstick: the median over rounds of the ratio inside each round."""
    return statistics.median(statistics.median(times[yardstick]) / statistics.median(times[name]) for times in rounds)


def percentile(rounds: Sequence[Round], name: str, share: float) -> float:
    """Seconds that ``share`` of all calls do not exceed (nearest rank: of few calls the slowest)."""
    times = sorted(seconds for each in rounds for seconds in each[name])
    return times[max(0, math.ceil(share * len(times)) - 1)]


def count(rounds: Sequence[Round], name: str) -> int:
    """How many calls were timed."""
    return sum(len(times[name]) for times in rounds)
