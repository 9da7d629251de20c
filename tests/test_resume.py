"""Training that is killed or interrupted goes on as if nothing had been; prediction keeps what was finished."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import unias
from unias.config import Config, dump_config
from unias.errors import DataError, Interrupted, UsageError
from unias.files import sha256
from unias.training.checkpoint import STATE_FILE
from unias.training.loop import Trainer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals"),
]
STEPS = 24
SCRIPT = '''
"""Trains as its arguments say, each step a little slower, so that it can be met half-way."""
import contextlib
import sys
import time

import unias


class Slow(unias.Progress):
    @contextlib.contextmanager
    def stage(self, name, total, done=0):
        yield lambda count=1, note="": time.sleep(0.05 if name == "training" else 0)


if __name__ == "__main__":
    data, output, config, resume = sys.argv[1:]
    unias.train(
        data, output, config=unias.load_config(config), resume=resume == "resume", threads=1, progress=Slow("silent")
    )
'''


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    """A state is kept after every step."""
    return dataclasses.replace(
        tiny_config, train=dataclasses.replace(tiny_config.train, steps=STEPS, checkpoint_minutes=1e-9)
    )


@pytest.fixture(scope="module")
def settings(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "resume.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def never_stopped(tiny_data: Path, config: Config, cli: Any, settings: Path, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    answer = cli("train", tiny_data, "-o", folder, "--config", settings, "--threads", 1, "-q")
    assert answer.code == 0, answer.err
    return folder


def same(one: Path, other: Path) -> bool:
    names = ("model.safetensors", "products.safetensors", "config.yaml")
    cuts = [
        [(p["name"], p["cut"]) for p in json.loads((folder / "products.json").read_text("utf-8"))["products"]]
        for folder in (one, other)
    ]
    return cuts[0] == cuts[1] and all(sha256(one / name) == sha256(other / name) for name in names)


def steps_done(folder: Path) -> int:
    """The step of the state on disk; it is replaced whole, so it can be read at any time."""
    file = folder / "train_state" / STATE_FILE
    return int(torch.load(file, map_location="cpu", weights_only=True)["step"]) if file.is_file() else 0


def start(arguments: list[Any], environment: dict[str, str], group: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=group,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # even where pytest ignores it
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"it ended early with {process.returncode}:\n{out}\n{err}")
        if time.monotonic() > end:
            process.kill()
            pytest.fail("it never came that far")
        time.sleep(0.01)


def finish(process: subprocess.Popen[str], number: int) -> tuple[str, str]:
    process.send_signal(number)
    return process.communicate(timeout=60)


@pytest.mark.slow
def test_killed_half_way_and_resumed(
    tiny_data: Path,
    settings: Path,
    never_stopped: Path,
    tmp_path: Path,
    clean_environment: dict[str, str],
) -> None:
    script, model = tmp_path / "train.py", tmp_path / "model"
    script.write_text(SCRIPT, encoding="utf-8")
    process = start([script, tiny_data, model, settings, "anew"], clean_environment)
    wait_for(lambda: steps_done(model) >= STEPS // 2, process)
    finish(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert STEPS // 2 <= steps_done(model) < STEPS
    assert not (model / "manifest.json").exists()
    process = start([script, tiny_data, model, settings, "resume"], clean_environment)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    record = json.loads((model / "products.json").read_text("utf-8"))["record"]
    assert STEPS // 2 <= record["resumed_at"] < STEPS
    assert record["steps"] == STEPS
    assert same(model, never_stopped)
    assert not (model / "train_state").exists()


@pytest.mark.slow
def test_ctrl_c_in_training_can_be_resumed(
    tiny_data: Path,
    settings: Path,
    config: Config,
    never_stopped: Path,
    tmp_path: Path,
    cli: Any,
    clean_environment: dict[str, str],
) -> None:
    model = tmp_path / "model"
    command = ["train", tiny_data, "-o", model, "--config", settings, "--threads", 1]
    process = start(["-m", "unias", *command], clean_environment)
    wait_for(lambda: (model / "train_state" / STATE_FILE).exists(), process)
    out, err = finish(process, signal.SIGINT)
    assert process.returncode == 130, err
    assert out == ""
    assert "--resume" in err
    assert "KeyboardInterrupt" not in err
    assert str(model / "train_state") in err
    assert sorted(entry.name for entry in (model / "train_state").iterdir()) == [STATE_FILE]
    reached = steps_done(model)
    assert 0 < reached < STEPS

    anew = cli(*command)
    assert anew.code == 3
    assert "--resume" in anew.err
    unfinished = cli("predict", model, tiny_data, "-o", tmp_path / "out")
    assert unfinished.code == 3
    assert "unfinished" in unfinished.err
    other = cli(*command, "--resume", "--seed", 5)
    assert other.code == DataError.exit_code
    assert "other data or settings" in other.err
    longer = cli(*command, "--resume", "--steps", STEPS + 1)
    assert longer.code == UsageError.exit_code
    assert steps_done(model) == reached

    resumed = cli(*command, "--resume")
    assert resumed.code == 0, resumed.err
    assert f"resumed at step {reached} of {STEPS}" in resumed.err
    assert same(model, never_stopped)


@pytest.mark.slow
def test_ctrl_c_with_workers(
    make_data: Any, config: Config, tmp_path: Path, cli: Any, clean_environment: dict[str, str]
) -> None:
    """In a terminal Ctrl-C reaches the workers too; photos that are turned anew each epoch, so that nothing is cached."""
    data = make_data(tmp_path / "data", products=("bottle",), train=10)
    settings = tmp_path / "workers.yaml"
    changed = dataclasses.replace(config, train=dataclasses.replace(config.train, recipe="mvtec", cache=False))
    settings.write_text(dump_config(changed), encoding="utf-8")
    model, whole = tmp_path / "model", tmp_path / "whole"
    command = ["train", data, "-o", model, "--config", settings, "--threads", 1]
    process = start(["-m", "unias", *command, "--workers", 1], clean_environment, group=True)
    wait_for(lambda: steps_done(model) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "KeyboardInterrupt" not in err
    assert cli(*command, "--resume", "-q").code == 0
    assert cli("train", data, "-o", whole, "--config", settings, "--threads", 1, "-q").code == 0
    assert same(model, whole)


@pytest.mark.slow
def test_ctrl_c_before_the_first_step(tiny_data: Path, settings: Path, tmp_path: Path, cli: Any) -> None:
    """Interrupted while photos are looked at: the same command simply works again."""
    import unias
    from unias.errors import Interrupted

    class Impatient(unias.Progress):
        def say(self, text: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        unias.train(tiny_data, tmp_path / "model", config=unias.load_config(settings), progress=Impatient("lines"))
    answer = cli("train", tiny_data, "-o", tmp_path / "model", "--config", settings, "--steps", 2)
    assert answer.code == 0, answer.err


@pytest.mark.slow
def test_ctrl_c_in_predict_keeps_the_finished_rows(
    model_folder: Path, tiny_data: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    photo = next(iter(sorted(tiny_data.glob("*/test/*/*.png"))))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(600):
        (many / f"{number:03}.png").symlink_to(photo)
    out = tmp_path / "out"
    part = out / ".results.csv.part"
    command = ["-m", "unias", "predict", model_folder, many, "-o", out, "--threads", 1]
    process = start(command, clean_environment)
    wait_for(lambda: part.is_file() and part.read_bytes().count(b"\n") > 12, process)
    _, err = finish(process, signal.SIGINT)
    assert process.returncode == 130, err
    assert "finished rows are in" in err
    assert "KeyboardInterrupt" not in err
    rows = list(csv.DictReader((out / "results.csv").read_text("utf-8").splitlines()))
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    assert 12 <= len(rows) < 600
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    for row in rows:
        assert (out / row["mask"]).is_file()
        assert (out / row["heatmap"]).is_file()
    assert [path for path in out.rglob("*") if ".part" in path.name] == []


@pytest.mark.parametrize("kept", [True, False])
def test_half_a_step_is_never_kept(
    kept: bool, config: Config, never_stopped: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C does not wait for the step's end: weights have moved, the step has not been counted."""
    if not kept:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, checkpoint_minutes=9))
    real = Trainer._step

    def cut_short(self: Trainer, step: int, *rest: Any) -> None:
        real(self, step, *rest)
        if step == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", cut_short)
    told = "middle of a step.*--resume" if kept else "nothing had been kept yet. Run the same command again"
    with pytest.raises(Interrupted, match=told):
        unias.train(tiny_data, tmp_path / "model", config=config, threads=1)
    assert steps_done(tmp_path / "model") == (7 if kept else 0)
    monkeypatch.undo()
    unias.train(tiny_data, tmp_path / "model", config=config, threads=1, resume=kept)
    if kept:
        assert same(tmp_path / "model", never_stopped)
