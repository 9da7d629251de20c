"""Progress as lines for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unias.progress import Progress


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("mode", ["silent", "lines", "bars"])
def test_what_is_said_and_counted_is_recorded_whatever_is_shown(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "progress.jsonl"
    progress = Progress(mode, record=file)
    progress.say("größer")
    with progress.stage("training", 5, 2) as advance:
        for loss in (3.0, 2.0, 1.0):
            advance(1, f"loss {loss:.3f}")
    found = lines(file)
    assert found[0]["say"] == "größer"
    stages = [line for line in found if "stage" in line]
    assert {line["stage"] for line in stages} == {"training"}
    first, last = stages[0], stages[-1]
    assert (first["done"], first["total"], first["note"]) == (2, 5, "")
    assert (last["done"], last["total"], last["note"]) == (5, 5, "loss 1.000")


def test_a_stage_that_fails_leaves_how_far_it_came(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"

    def work() -> None:
        with Progress("silent", record=file).stage("work", None) as advance:
            advance(2)
            advance(3)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        work()
    assert lines(file)[-1]["done"] == 5


def test_many_steps_are_few_lines(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    with Progress("silent", record=file).stage("work", 10_000) as advance:
        for _ in range(10_000):
            advance()
    assert len(lines(file)) < 1000


def test_a_file_that_cannot_be_written_stops_no_work(tmp_path: Path) -> None:
    with Progress("silent", record=tmp_path / "nowhere" / "progress.jsonl").stage("work", 1) as advance:
        advance()
    assert not (tmp_path / "nowhere").exists()
