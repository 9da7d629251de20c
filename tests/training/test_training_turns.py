"""The recipe ``auto`` in whole runs: what is turned, what is kept of it, when it is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unias
from unias.data.layouts import scan
from unias.errors import UsageError
from unias.files import sha256
from unias.run import base as run_module

WEIGHTS = "model.safetensors"


@pytest.fixture
def symmetric(monkeypatch: pytest.MonkeyPatch, tiny_data: Path) -> str:
    """The first product allows four turns, whatever its photos show."""
    product = scan(tiny_data).products[0]
    monkeypatch.setattr(run_module, "allowed_turns", lambda *args: {product: (0, 2, 4, 6)})
    return product


def test_turned_photos_change_the_model_and_steps_repeat_it(retrain: Callable[..., Any], symmetric: str) -> None:
    auto, plain = retrain("auto", recipe="auto"), retrain("plain", recipe="none")
    assert sha256(auto.folder / WEIGHTS) != sha256(plain.folder / WEIGHTS)
    assert auto.model.record["turns"][symmetric] == [0, 2, 4, 6]
    assert set(map(tuple, plain.model.record["turns"].values())) == {(0,)}
    assert any(symmetric in line and "more than one way" in line for line in auto.said)
    again = retrain("again", recipe="auto")  # out of the cache
    assert sha256(auto.folder / WEIGHTS) == sha256(again.folder / WEIGHTS)


def test_without_a_cache_the_same_photos_are_turned(retrain: Callable[..., Any], symmetric: str) -> None:
    """Cached features are rounded to float16; apart from that nothing differs."""
    cached, direct = retrain("cached", recipe="auto"), retrain("direct", recipe="auto", cache=False)
    plain = retrain("plain", recipe="none", cache=False)
    losses = [t.model.record["first_loss"] for t in (cached, direct, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    last = [t.model.record["last_loss"] for t in (cached, direct, plain)]
    assert abs(last[0] - last[1]) < abs(last[0] - last[2])


def test_too_many_for_the_cache(retrain: Callable[..., Any], symmetric: str) -> None:
    """The bound holds for photos as they are and turned ones together; then everything is computed at every step."""
    bounded = retrain("bounded", recipe="auto", cache_gib=1e-4)
    assert any("turned ones among them" in line and "cache_gib" in line for line in bounded.said)
    assert bounded.model.record["turns"][symmetric] == [0, 2, 4, 6]


def test_short_runs_turn_nothing(retrain: Callable[..., Any], symmetric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "TURNED_A_MINUTE", 1)
    short = retrain("short", recipe="auto", minutes=0.1)
    assert any("none is turned, as with --recipe none" in line for line in short.said)
    steps = short.model.record["steps"]
    assert any(f"repeat exactly with --steps {steps} --recipe none" in line for line in short.said)
    assert short.model.config.train.recipe == "none"
    assert short.model.record["turns"][symmetric] == [0]
    assert sha256(retrain("same", recipe="none", steps=steps).folder / WEIGHTS) == sha256(short.folder / WEIGHTS)


def test_recipe_by_name(cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path, symmetric: str) -> None:
    common = (tiny_data, "--config", tiny_yaml, "--steps", 2, "-q")
    answer = cli("train", *common, "-o", tmp_path / "auto", "--recipe", "auto")
    assert answer.code == 0, answer.err
    assert unias.load(tmp_path / "auto", "cpu").config.train.recipe == "auto"
    answer = cli("train", *common, "-o", tmp_path / "wrong", "--recipe", "coco")
    assert answer.code == 2
    assert "recipe" in answer.err
    with pytest.raises(UsageError, match="recipe"):
        unias.train(tiny_data, tmp_path / "wrong", recipe="coco", steps=2)
    assert not (tmp_path / "wrong").exists()
