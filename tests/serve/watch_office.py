"""A ledger with rows in it and couriers that carry them, for tests of webhooks and MQTT."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from unias.progress import Progress
from unias.serve.courier import Courier
from unias.serve.ledger import Entry, Ledger

Rows = list[dict[str, Any]]
SomeCourier = TypeVar("SomeCourier", bound=Courier)


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__("silent")
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def rows_of(out: Path) -> Rows:
    """The rows of an output folder, once both tables were seen to agree, numbered without gaps and with ids of their own."""
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    for row, line in zip(table, rows, strict=True):
        assert set(row) <= set(line)
        assert all(value == ("" if line[key] is None else str(line[key])) for key, value in row.items())
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["id"] for row in rows}) == len(rows)
    return rows


class Office:
    """Call ``stop`` and close ``ledger`` in the end."""

    def __init__(self, home: Path, sink: str) -> None:
        self.home = home
        self.sink = sink
        self.ledger = Ledger(home / "out", home / "in")
        self.heard = Heard()
        self.rows = 0
        self.couriers: list[Courier] = []

    def write(self, count: int) -> None:
        """So many more rows, and a letter about each."""
        entries = []
        for _ in range(count):
            self.rows += 1
            id_ = self.ledger.identify(f"{self.rows}.png", "")
            assert id_ is not None
            entries.append(Entry(id_, f"{self.rows}.png", (1, 1), "", {"path": f"ü{self.rows}.png", "ok": True}))
        self.ledger.record(entries, [self.sink])

    def employ(self, courier: SomeCourier) -> SomeCourier:
        self.couriers.append(courier)
        courier.start()
        return courier

    def ids(self) -> set[str]:
        return {json.loads(row)["id"] for _, row in self.ledger.rows_after(0, 10_000)}

    def counts(self) -> dict[str, int]:
        return self.ledger.outstanding().get(self.sink, {"waiting": 0, "parked": 0})

    def wait(self, ready: Callable[[], bool] | None = None) -> None:
        """Until it is so; without anything, until no letter waits."""
        ready = ready or (lambda: self.counts()["waiting"] == 0)
        for _ in range(6000):
            if ready():
                return
            threading.Event().wait(0.005)
        raise AssertionError((self.counts(), self.heard.said))

    def stop(self) -> None:
        for courier in self.couriers:
            courier.stop()
            courier.join(30)
            assert not courier.is_alive()
            courier.check()
        self.couriers.clear()

    def restart(self) -> None:
        """As a new process would find it."""
        self.stop()
        self.ledger.close()
        self.ledger = Ledger(self.home / "out", self.home / "in")
