"""The type of number that a model in use computes in: who may have which, and what stays float32 whatever was asked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unias
from unias import runtime
from unias.errors import UsageError
from unias.inference.predictor import Model
from unias.maps.detector import Detector

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CLOSE = 2e-2  # largest difference over largest value


@pytest.fixture
def photo(tiny_data: Path) -> Path:
    return sorted(tiny_data.glob("*/test/scratch/*.png"))[0]


@pytest.fixture
def half_model(model: Model) -> Model:
    """The tiny model in bfloat16, whether or not the processor is any faster with it."""
    half = copy.deepcopy(model)
    assert isinstance(half.detector, Detector)
    half.detector.compute_type = torch.bfloat16
    return half


@pytest.mark.parametrize(
    ("choice", "has", "expected"),
    [
        ("float32", True, None),
        ("float32", False, None),
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
        ("bfloat16", True, torch.bfloat16),
    ],
)
def test_of_a_processor(choice: str, has: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: has)
    assert runtime.inference_half(choice, CPU) is expected


@pytest.mark.parametrize(("has", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_of_a_gpu(has: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: has)
    assert runtime.inference_half("auto", CUDA) is expected
    if not has:
        with pytest.raises(UsageError, match="cuda does not compute"):
            runtime.inference_half("bfloat16", CUDA)


def test_bfloat16_where_it_would_be_slower(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match="cpu does not compute in bfloat16"):
        unias.load(model_folder, "cpu", precision="bfloat16")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_unknown_name(command: str, cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli(command, model_folder, tiny_data, "-o", tmp_path / "out", "--precision", "int4", "--device", "cpu")
    assert answer.code == 2
    assert "--precision: 'int4' is not one of float32, auto, bfloat16" in answer.err
    assert not (tmp_path / "out").exists()


def test_maps_are_close_and_not_equal(model: Model, half_model: Model, photo: Path) -> None:
    full, half = model.predict(photo, levels=True), half_model.predict(photo, levels=True)
    pairs = [(full.model_map, half.model_map)]
    pairs += [(full.level_maps[level], half.level_maps[level]) for level in full.level_maps]
    for one, other in pairs:
        assert other.dtype == np.float32
        difference = float(np.abs(one - other).max()) / float(np.abs(one).max())
        assert 0 < difference < CLOSE
    assert half.product == full.product


def test_only_unias_is_in_half(half_model: Model, photo: Path) -> None:
    """Features, distances and maps are float32; the linear layers between them are not."""
    detector = half_model.detector
    assert isinstance(detector, Detector)
    seen: dict[str, set[torch.dtype]] = {"features": set(), "linear": set(), "distances": set()}

    def note(name: str) -> Any:
        return lambda module, inputs, output: seen[name].add(output.dtype)

    hooks = [
        m.register_forward_hook(note("linear")) for m in detector.unias.modules() if isinstance(m, torch.nn.Linear)
    ]
    hooks.append(
        detector.unias.register_forward_pre_hook(
            lambda module, args: seen["features"].update(v.dtype for v in args[0].values())
        )
    )
    hooks.append(
        detector.level_maps.register_forward_pre_hook(
            lambda module, args: seen["distances"].update(v.dtype for v in args[0].values())
        )
    )
    try:
        half_model.predict(photo)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {"features": {torch.float32}, "linear": {torch.bfloat16}, "distances": {torch.float32}}


def test_command_takes_it(
    cli: Any, model_folder: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--precision auto reaches the model; float32 stays the default."""
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: True)
    rows = {}
    for name, more in {"plain": (), "float32": ("--precision", "float32"), "auto": ("--precision", "auto")}.items():
        answer = cli("predict", model_folder, photo, "-o", tmp_path / name, "--device", "cpu", *more)
        assert answer.code == 0, answer.err
        rows[name] = (tmp_path / name / "results.csv").read_text(encoding="utf-8")
    assert rows["plain"] == rows["float32"] != rows["auto"]
