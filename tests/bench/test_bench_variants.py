"""The rows: how each is opened, that they give the same maps, and what is said where they cannot be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from unias.bench import variants
from unias.bench.subjects import load_trained
from unias.bench.variants import (
    NO_BFLOAT16,
    SMALL_EAGER,
    VARIANTS,
    YARDSTICK,
    lacking,
    open_variant,
    pick,
    prepare,
    reference,
)
from unias.errors import UsageError
from unias.maps.detector import Detector

pytestmark = pytest.mark.usefixtures("one_thread")
BY_NAME = {variant.name: variant for variant in VARIANTS}


def test_rows_are_told_apart() -> None:
    assert len(BY_NAME) == len(VARIANTS)
    assert len({variant.title for variant in VARIANTS}) == len(VARIANTS)
    assert {reference(variant) for variant in VARIANTS} == {YARDSTICK, SMALL_EAGER}
    names = [variant.name for variant in VARIANTS]
    for variant in VARIANTS:  # what a row is compared with is opened before it
        assert names.index(reference(variant)) <= names.index(variant.name)
    assert all(variant.form == "fused" for variant in VARIANTS if variant.engine != "eager")


def test_pick() -> None:
    assert pick(()) == VARIANTS
    assert [variant.name for variant in pick(["paper-fused"])] == [YARDSTICK, "paper-fused"]
    assert [variant.name for variant in pick(["small-onnx"])] == [YARDSTICK, SMALL_EAGER, "small-onnx"]
    with pytest.raises(UsageError, match="--only: 'paper' is not one of paper-plain, paper-fused"):
        pick(["paper"])


def test_what_a_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(variants, "cpu_has_bfloat16", lambda: False)
    said = {name: lacking(variant) for name, variant in BY_NAME.items()}
    assert said["paper-cuda-amp"] == said["small-cuda"] == "not measured: no CUDA device here"
    assert said["paper-bf16"] == said["small-bf16"] == NO_BFLOAT16
    assert said[YARDSTICK] is said["paper-openvino-int8"] is said["small-onnx"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(variants, "cpu_has_bfloat16", lambda: True)
    assert all(lacking(variant) is None for variant in VARIANTS)


def on_cpu(name: str) -> variants.Variant:
    return dataclasses.replace(BY_NAME[name], device="cpu")


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("paper-fused", 1e-4),
        ("paper-bf16", 0.1),
        ("paper-cuda-plain", 1e-6),
        ("paper-cuda", 1e-4),
        ("paper-cuda-amp", 0.1),
    ],
)
def test_rows_give_the_yardsticks_maps(name: str, limit: float, paper_folder: Path) -> None:
    """The GPU's rows too, whose code knows no device."""
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    whole = open_variant(on_cpu(YARDSTICK), paper_folder)(images)
    maps = open_variant(on_cpu(name), paper_folder)(images)
    assert maps.shape == (3, 128, 128)
    assert maps.dtype == torch.float32
    assert maps.device.type == "cpu"
    assert float(whole.std()) > 0.001  # random weights make maps, not nothing
    assert float((maps - whole).abs().max() / whole.abs().max()) < limit
    assert torch.equal(maps, open_variant(on_cpu(name), paper_folder)(images))


def test_the_yardstick_is_plain(paper_folder: Path) -> None:
    plain, fused = (load_trained(paper_folder).detector for _ in range(2))
    assert isinstance(plain, Detector)
    assert isinstance(fused, Detector)
    prepare(plain, "plain")
    prepare(fused, "fused")
    weights = {
        form: next(
            m.weight
            for m in detector.backbone.network.modules()
            if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)
        )
        for form, detector in (("plain", plain), ("fused", fused))
    }
    assert weights["plain"].is_contiguous()
    assert not weights["fused"].is_contiguous()
    heads = {form: detector.unias.heads.heads["1"] for form, detector in (("plain", plain), ("fused", fused))}
    assert heads["plain"].form == "plain"
    assert heads["fused"].fused is not None
