"""Micro-batches: one thread owns the model and takes what waits, many photos at once where there are many."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """As many wait as may."""


@dataclass
class _Job(Generic[Item, Answer]):
    """What waits, and where its answer goes. A future that is cancelled is passed over."""

    item: Item
    answer: Future[Answer] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Answer]):
    """A bounded queue before one worker.

    Args:
        run: items to their answers, in order; called in the worker's thread alone.
        most: items of one batch.
        limit: items that wait.
        linger: seconds that the oldest item waits for others, at most, and only while ``coming()`` says that there are any.
        done: told after each batch how many items it had and how many seconds it took.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Answer]],
        most: int,
        limit: int,
        linger: float,
        coming: Callable[[], bool],
        done: Callable[[int, float], None],
    ) -> None:
        self.run = run
        self.most = most
        self.limit = limit
        self.linger = linger
        self.coming = coming
        self.done = done
        self._waiting: deque[_Job[Item, Answer]] = deque()
        self._change = threading.Condition()
        self._stopping = False
        self._worker = threading.Thread(target=self._work, name="unias-model", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._worker.start()

    def stop(self) -> None:
        """Finish what waits, then end; returns when the worker has ended."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._worker.is_alive():
            self._worker.join()

    @property
    def working(self) -> bool:
        """Whether the worker lives."""
        return self._worker.is_alive()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: Item) -> Future[Answer]:
        """One more item. Cancel the future to take it back. Raises QueueFull."""
        job: _Job[Item, Answer] = _Job(item)
        with self._change:
            if len(self._waiting) >= self.limit:  # some may have been given up
                self._waiting = deque(one for one in self._waiting if not one.answer.cancelled())
            if self._stopping or len(self._waiting) >= self.limit:
                raise QueueFull
            self._waiting.append(job)
            self._change.notify_all()
        return job.answer

    def _work(self) -> None:
        while jobs := self._next():
            wanted = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _next(self) -> list[_Job[Item, Answer]]:
        """The jobs of the next batch; none at the end."""
        with self._change:
            while not self._waiting and not self._stopping:
                self._change.wait()
            if not self._waiting:
                return []
            until = self._waiting[0].since + self.linger
            while len(self._waiting) < self.most and not self._stopping and self.coming():
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._change.wait(left)
            return [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]

    def _answer(self, jobs: list[_Job[Item, Answer]]) -> None:
        began = time.monotonic()
        try:
            answers = self.run([job.item for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:  # only whose fault it is shall have the error
                self._answer([job])
            return
        self.done(len(jobs), time.monotonic() - began)
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)
