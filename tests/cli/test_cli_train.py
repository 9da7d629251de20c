"""``unias train``: what it says and what lies on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cli_answers import strict

import unias

pytestmark = pytest.mark.usefixtures("one_thread")


def test_train_says_where_and_what(cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    command = ("train", tiny_data, "--config", tiny_yaml, "--steps", 2, "--seed", 3, "--threads", 1, "--device", "cpu")
    answer = cli(*command, "-o", tmp_path / "a", "--json")
    assert answer.code == 0, answer.err
    outcome = strict(answer.out)
    assert outcome["model"] == (tmp_path / "a").as_posix()
    assert (outcome["steps"], outcome["seed"]) == (2, 3)
    assert set(outcome["products"]) == {"Dichtung groß", "plaque gravée"}
    assert all(cut["held_out"] == 4 and cut["cut"] > 0 for cut in outcome["products"].values())
    assert "4 photos to learn from, 4 held out" in answer.err
    assert "training: 2/2" in answer.err

    quiet = cli(*command, "-o", tmp_path / "b", "-q", "--logger", "csv")
    assert quiet.code == 0
    assert quiet.err == ""
    assert f"2 steps, {unias.load(tmp_path / 'b').record['minutes']} minutes. Model: {tmp_path / 'b'}" in quiet.out
    assert re.search(
        r"^Dichtung groß: cut [\d.e-]+ from 4 held-out photos; provisional, false alarms 20\.0%", quiet.out
    )
    logs = list((tmp_path / "b-logs").rglob("metrics.csv"))
    assert len(logs) == 1
    assert "loss" in logs[0].read_text(encoding="utf-8")
