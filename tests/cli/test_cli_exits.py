"""Every fault has its exit code and one line that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from unias.errors import MissingError, TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")


MODEL, DATA, OUT, SETTINGS = "<model>", "<data>", "<out>", "<settings>"  # places that are filled in
TRAIN = ("train", DATA, "-o", OUT, "--config", SETTINGS)
FAULTS: list[tuple[int, tuple[str, ...], str]] = [
    (2, ("nonsense",), ""),
    (2, ("train",), ""),
    (2, ("train", DATA), ""),
    (2, (*TRAIN, "--steps", "0"), ""),
    (2, (*TRAIN, "--steps", "many"), ""),
    (2, (*TRAIN, "--nonsense"), ""),
    (2, (*TRAIN, "--bits", "8"), ""),
    (2, (*TRAIN, "--threads", "0"), ""),
    (2, (*TRAIN, "--workers", "-1"), ""),
    (2, ("train", DATA, "-o", OUT, "--preset", "large"), "preset: 'large'"),
    (2, ("train", DATA, "-o", OUT, "--config", "none.yaml"), "none.yaml"),
    (2, (*TRAIN, "--minutes", "1", "--steps", "2"), "--minutes, --steps and --epochs"),
    (2, (*TRAIN, "--minutes", "-1"), "minutes: -1"),
    (2, (*TRAIN, "--minutes", "nan"), "minutes: nan"),
    (2, (*TRAIN, "--size", "130"), "size: 130"),
    (2, (*TRAIN, "--size", "96"), "size: 96"),
    (2, (*TRAIN, "--seed", "-1"), "seed: -1"),
    (2, (*TRAIN, "--device", "abacus"), "--device: 'abacus'"),
    (2, (*TRAIN, "--device", "mps:7"), "--device: 'mps:7'"),
    (2, (*TRAIN, "--backbone", "nonsense"), "backbone: timm cannot make 'nonsense'"),
    (2, (*TRAIN, "--logger", "paper"), "--logger: 'paper'"),
    (3, ("train", "none", "-o", OUT, "--config", SETTINGS), "none: no such folder"),
    (3, ("train", DATA, "-o", MODEL, "--config", SETTINGS), "holds a finished model already"),
    (3, (*TRAIN, "--weights", SETTINGS), ""),
    (4, (*TRAIN, "--weights", "none.pth"), "none.pth: there is no such weights file"),
    (2, ("predict", MODEL), ""),
    (2, ("predict", MODEL, DATA), ""),
    (2, ("predict", MODEL, DATA, "-o", OUT, "--product", "screw"), "'screw' is not one of this model's"),
    (2, ("predict", MODEL, DATA, "-o", OUT, "--device", "abacus"), "--device: 'abacus'"),
    (3, ("predict", "none", DATA, "-o", OUT), "none: there is no such model folder"),
    (3, ("predict", MODEL, "none*.png", "-o", OUT), "none*.png: no photos here"),
    (2, ("evaluate", MODEL, DATA), ""),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--size", "huge"), "--size: 'huge'"),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", "dev"), "--subset dev"),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", "dev=none.txt"), "none.txt"),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", f"dev={MODEL}/model.safetensors"), "cannot be read"),
    (3, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", f"dev={SETTINGS}"), "is no test photo"),
    (3, ("evaluate", "none", DATA, "-o", OUT), "none: there is no such model folder"),
    (3, ("evaluate", MODEL, "none", "-o", OUT), "none: no such folder"),
    (2, ("data",), ""),
    (2, ("data", DATA, "--bits", "17"), ""),
    (3, ("data", "none"), "none: no such folder"),
    (2, ("convert", SETTINGS), ""),
    (3, ("convert", "none.pth", "-o", OUT), "none.pth: there is no such file"),
    (3, ("convert", SETTINGS, "-o", OUT), "cannot be read as a checkpoint"),
    (2, ("demo", "--steps", "0"), ""),
]


@pytest.mark.parametrize(("code", "arguments", "message"), FAULTS, ids=lambda value: str(value)[:60])
def test_faults(
    code: int,
    arguments: tuple[str, ...],
    message: str,
    cli: Any,
    tree: Any,
    model_folder: Path,
    tiny_data: Path,
    tiny_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One message on standard error, nothing on standard output, nothing on disk."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    places = {MODEL: model_folder, DATA: tiny_data, OUT: work / "out", SETTINGS: tiny_yaml}
    filled = []
    for argument in arguments:
        for mark, place in places.items():
            argument = argument.replace(mark, str(place))
        filled.append(argument)
    answer = cli(*filled)
    assert answer.code == code, (answer.out, answer.err)
    assert answer.out == ""
    assert "Traceback" not in answer.err
    if message:
        error = answer.err.splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
    else:
        assert answer.err.strip()
    assert tree(work) == {}


def test_ctrl_c_is_said(cli: Any, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unias.data.layouts.scan", interrupt)
    assert cli("data", tiny_data) == (130, "", "interrupted.\n")


def test_missing_extra_of_the_demo(cli: Any, tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def absent(name: str, *_: Any) -> None:
        assert name == "elpv_dataset"

    monkeypatch.setattr("importlib.util.find_spec", absent)
    answer = cli("demo", "-q")
    assert answer.code == MissingError.exit_code == 4
    assert 'pip install "unias[demo]"' in answer.err
    assert tree(tmp_path) == {}


def test_missing_package_of_a_logger(
    cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lightning", "lightning.pytorch", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    answer = cli("train", tiny_data, "-o", tmp_path / "model", "--config", tiny_yaml, "--logger", "wandb", "-q")
    assert answer.code == 4
    assert "pip install" in answer.err
    assert not (tmp_path / "model").exists()


def test_training_that_fails_ends_with_one(
    cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_reconstruction: Any) -> None:
        raise TrainingError("the loss of step 0 is nan")

    monkeypatch.setattr("unias.training.task.level_losses", broken)
    answer = cli("train", tiny_data, "-o", tmp_path / "model", "--config", tiny_yaml, "-q")
    assert (answer.code, answer.out, answer.err) == (1, "", "error: the loss of step 0 is nan\n")
    assert not (tmp_path / "model" / "manifest.json").exists()
