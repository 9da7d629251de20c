"""The queue before the model: batches, faults, what is given up, the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest

from unias.serve.queue import Batcher, QueueFull


class Worker:
    """Doubles numbers; waits before each batch where it is told to; a negative number is more than it can take."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()
        self.done: list[int] = []

    def run(self, numbers: list[int]) -> list[int]:
        self.begun.release()
        assert self.go_on.wait(60)
        self.batches.append(numbers)
        if any(number < 0 for number in numbers):
            raise ValueError(min(numbers))
        return [2 * number for number in numbers]

    def queue(
        self, most: int = 4, limit: int = 100, linger: float = 0.0, coming: Callable[[], bool] = lambda: False
    ) -> Batcher[int, int]:
        return Batcher(self.run, most, limit, linger, coming, lambda count, seconds: self.done.append(count))


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker()
    yield found
    found.go_on.set()


def test_what_waits_is_done_together_and_answered_in_its_place(worker: Worker) -> None:
    queue = worker.queue()
    answers = [queue.put(number) for number in range(10)]
    assert len(queue) == 10
    queue.start()
    assert [answer.result(60) for answer in answers] == [2 * number for number in range(10)]
    assert worker.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert worker.done == [4, 4, 2]
    queue.stop()
    assert not queue.working


def test_only_whose_fault_it_is_has_the_error(worker: Worker) -> None:
    queue = worker.queue()
    answers = [queue.put(number) for number in (1, -2, 3)]
    queue.start()
    assert (answers[0].result(60), answers[2].result(60)) == (2, 6)
    with pytest.raises(ValueError, match="-2"):
        answers[1].result(60)
    assert queue.put(5).result(60) == 10
    queue.stop()


def test_full_is_full_until_something_is_given_up(worker: Worker) -> None:
    queue = worker.queue(limit=2)
    first, second = queue.put(1), queue.put(2)
    with pytest.raises(QueueFull):
        queue.put(3)
    assert first.cancel()
    third = queue.put(3)
    queue.start()
    assert (second.result(60), third.result(60)) == (4, 6)
    assert worker.batches == [[2, 3]]
    with pytest.raises(CancelledError):
        first.result(60)
    queue.stop()


def test_what_is_given_up_is_passed_over(worker: Worker) -> None:
    queue = worker.queue()
    answers = [queue.put(number) for number in range(3)]
    assert answers[1].cancel()
    queue.start()
    assert answers[2].result(60) == 4
    assert worker.batches == [[0, 2]]
    queue.stop()


def test_stop_finishes_what_waits_and_takes_no_more(worker: Worker) -> None:
    worker.go_on.clear()
    queue = worker.queue(most=1)
    queue.start()
    answers = [queue.put(number) for number in range(3)]
    assert worker.begun.acquire(timeout=60)
    ending = threading.Thread(target=queue.stop)
    ending.start()
    worker.go_on.set()
    ending.join(60)
    assert not ending.is_alive()
    assert [answer.result(0) for answer in answers] == [0, 2, 4]
    with pytest.raises(QueueFull):
        queue.put(3)


def test_a_batch_waits_for_what_is_coming_and_no_longer(worker: Worker) -> None:
    """With an hour to linger, the batch starts when it is full, or when nothing is coming any more."""
    coming = [True]
    queue = worker.queue(most=2, linger=3600.0, coming=lambda: coming[0])
    queue.start()
    first = queue.put(1)
    second = queue.put(2)
    assert (first.result(60), second.result(60)) == (2, 4)
    assert worker.batches == [[1, 2]]
    coming[0] = False
    assert queue.put(3).result(60) == 6
    coming[0] = True
    waiting = queue.put(4)
    queue.stop()  # nor does it keep the end waiting
    assert waiting.result(0) == 8


def test_never_started_can_be_stopped(worker: Worker) -> None:
    queue = worker.queue()
    queue.stop()
    assert not queue.working
