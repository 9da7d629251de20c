"""Multiply-adds by hand, the machine's rate, memory, and what comes back from fresh processes."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unias import memory
from unias.bench import probe
from unias.bench.fresh import fault_of, in_fresh_process, read_answer
from unias.bench.rate import MULTIPLY_ADDS, Convolution, instructions
from unias.bench.subjects import load_trained
from unias.bench.variants import prepare
from unias.bench.work import multiply_adds
from unias.maps.detector import Detector
from unias.memory import peak_memory

pytestmark = pytest.mark.usefixtures("one_thread")


# --- work and rate ------------------------------------------------------------------------------------------


def test_multiply_adds_by_hand() -> None:
    x = torch.zeros(2, 6, 10, 10)
    assert multiply_adds(lambda: nn.Conv2d(6, 4, 3, padding=1)(x)) == 2 * 4 * 6 * 9 * 100
    assert multiply_adds(lambda: nn.Conv2d(6, 6, 3, stride=2, groups=6)(x)) == 2 * 6 * 9 * 16
    assert multiply_adds(lambda: nn.Linear(10, 5)(x)) == 2 * 6 * 10 * 10 * 5
    assert multiply_adds(lambda: torch.zeros(3, 4, 5) @ torch.zeros(3, 5, 6)) == 3 * 4 * 5 * 6
    query = torch.zeros(1, 2, 7, 8)  # 2 heads, 7 tokens of 8 channels: q k^T, then the sum of v
    assert multiply_adds(lambda: F.scaled_dot_product_attention(query, query, query)) == 2 * (2 * 7 * 7 * 8)
    assert multiply_adds(lambda: F.relu(x)) == 0


def test_fused_takes_fewer(paper_folder: Path) -> None:
    counts = {}
    for form in ("plain", "fused"):
        detector = load_trained(paper_folder).detector
        assert isinstance(detector, Detector)
        prepare(detector, form)
        counts[form] = multiply_adds(lambda detector=detector: detector(torch.zeros(1, 3, 128, 128)))  # type: ignore[misc]
    head = 64 * 64 * 9 * (32 * 32 * 2 + 32 * 16)  # of level 1: three convolutions at half size, to 16 channels
    assert counts["plain"] > head
    assert counts["fused"] < 0.6 * counts["plain"]


def test_rate_is_what_it_says() -> None:
    run = Convolution(torch.device("cpu"))
    assert (
        multiply_adds(run.__wrapped__ if hasattr(run, "__wrapped__") else run)
        == MULTIPLY_ADDS
        == 256 * 256 * 9 * 112 * 112
    )
    assert run().shape == (1, 256, 112, 112)
    assert set(instructions()) == {"bfloat16", "int8"}
    assert all(isinstance(value, bool) for value in instructions().values())


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_peak_memory_sees_what_is_held_and_forgets_nothing() -> None:
    before = peak_memory()
    assert before is not None
    held = np.ones(40 << 20, dtype=np.uint8)
    during = peak_memory()
    assert during is not None
    assert held[-1] == 1
    del held
    assert peak_memory() == pytest.approx(during, abs=8)
    assert during >= before


def test_peak_memory_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(memory, "STATUS", status)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\n", encoding="utf-8")
    assert peak_memory() == 2.0
    status.write_text("VmHWM:\t 0 kB\n", encoding="utf-8")
    assert (peak_memory() or 0) > 10  # resource.getrusage
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert peak_memory() is None


# --- fresh processes ----------------------------------------------------------------------------------------


def test_what_a_process_says() -> None:
    assert read_answer(0, 'noise of a library\n\n{"x": 1}\n', "") == {"x": 1}
    assert read_answer(-9, "", "") == {"fault": "failed: killed by signal 9 (out of memory?)"}
    assert read_answer(-11, "", "words") == {"fault": "failed: killed by signal 11"}
    assert read_answer(1, "", "Traceback\n  somewhere\nValueError: bad\n\n") == {"fault": "failed: ValueError: bad"}
    assert read_answer(3, "", "") == {"fault": "failed: exit code 3"}
    assert read_answer(0, "no JSON\n", "") == {"fault": "failed: exit code 0"}
    assert fault_of({"fault": "x"}) == "x"
    assert fault_of({"seconds": 1}) is None


def test_a_real_process_that_fails() -> None:
    assert in_fresh_process("nonsense") == {"fault": "failed: KeyError: 'nonsense'"}


def test_a_fault_on_purpose_comes_back(tmp_path: Path) -> None:
    answer = probe.answer({"task": "predict", "folder": str(tmp_path / "none"), "threads": 1})
    assert "there is no such model folder" in answer["fault"]


@pytest.mark.slow
def test_a_real_process(paper_folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((8, 3, 128, 128), dtype=np.float32))
    variant = {"name": "paper-fused", "title": "x", "model": "paper"}
    answer = in_fresh_process(
        "first_image", variant=variant, folder=paper_folder, images=tmp_path / "images.npy", threads=1, calls=1
    )
    assert answer["first_seconds"] > 0
    assert set(answer["peak_mib"]) == {"1", "8"}


def test_predict_probe(model_folder: Path, tiny_data: Path) -> None:
    photos = sorted(str(path) for path in tiny_data.rglob("test/*/*.png"))
    request = {"task": "predict", "folder": str(model_folder), "photos": photos, "count": 20, "threads": 1}
    answer = json.loads(json.dumps(probe.answer(request)))
    assert answer["count"] == 20
    assert answer["seconds_a_photo"] > 0
    assert answer["tenths"] == []  # of twenty photos tenths would say nothing
