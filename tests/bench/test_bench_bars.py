"""The bars on documents written by hand: met, not met, not measured and why."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from unias.bench.bars import kept_scale_bars, scale_bars, speed_bars
from unias.bench.pages import bar_lines, table

Document = dict[str, Any]


def row(name: str, model: str, times: float, apart: float = 0.0, **more: Any) -> Document:
    batch = {"times_yardstick": times, "milliseconds_an_image": 330 / times}
    return {
        "name": name,
        "title": name,
        "model": model,
        "device": "cpu",
        "form": "plain" if name == "paper-plain" else "fused",
        "fault": None,
        "why": {},
        "batches": {"1": batch, "8": batch},
        "map_difference": apart,
        **more,
    }


def step(name: str, times: float) -> Document:
    return {"name": name, "fault": None, "times_yardstick": times}


GOOD: Document = {
    "quick": False,
    "rows": [
        row("paper-plain", "paper", 1),
        row("paper-fused", "paper", 2.5, 9e-5),
        row("paper-bf16", "paper", 6.5, 1e-2),
        row("small-eager", "small", 20, pap={"screw": 40.0, "mean": 50.0}, pap_lost=0.0),
        row("small-openvino-int8", "small", 31, 0.1, pap={"mean": 49.6}, pap_lost=0.4),
    ],
    "training": {"fault": None, "rows": [step("plain", 1), step("fused", 1.9), step("fused-bf16", 3.6)]},
    "parts": {
        "1": {"rest_over_backbone": 0.9, "rest_over_backbone_nchw": 0.5},
        "8": {
            "rest_over_backbone": 1.0,
            "rest_over_backbone_nchw": 0.6,
            "aupro_over_maps": 0.09,
            "milliseconds": {"AUPRO": 1.5},
        },
    },
    "startup": {"seconds": {"help": 0.3, "torch": 1.0}, "share": 0.3},
    "instructions": {"bfloat16": True, "int8": True},
    "models": {"small": {"record": {"minutes": 30.2, "seed": 1}}},
    "subset": "final.txt",
}


def changed(**changes: Any) -> list[bool | None]:
    document = copy.deepcopy(GOOD)
    document.update({key: value for key, value in changes.items() if key in document})
    for name, values in changes.items():
        for one in document["rows"]:
            if one["name"] == name.replace("_", "-"):
                if "times" in values:
                    one["batches"]["8"]["times_yardstick"] = values.pop("times")
                one.update(values)
    return [bar["met"] for bar in speed_bars(document)]


def test_all_met() -> None:
    bars = speed_bars(GOOD)
    assert [bar["met"] for bar in bars] == [True] * 6 + [None, True, True]
    assert bars[0]["measured"] == "2.50x, maps within 9.0e-05"
    assert bars[1]["bar"] == "6x faster (this processor has bfloat16 or 8-bit products)"
    assert bars[4]["measured"] == "31.0x (10.6 ms an image where plain took 330); +0.40 points lost"
    assert "screw 40.0, mean 50.0 (photos in final.txt; 30.2 minutes, seed 1)" in bars[6]["measured"]
    assert bars[6]["measured"].startswith("not measured: takes three trainings")


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"paper_fused": {"times": 1.9}}),
        (0, {"paper_fused": {"map_difference": 2e-4}}),
        (0, {"paper_fused": {"map_difference": float("nan")}}),
        (1, {"paper_bf16": {"times": 5.9}}),
        (2, {"training": {"fault": None, "rows": [step("fused", 1.7), step("fused-bf16", 3.6)]}}),
        (3, {"training": {"fault": None, "rows": [step("fused", 1.9), step("fused-bf16", 3.4)]}}),
        (4, {"small_openvino_int8": {"times": 29.0}}),
        (4, {"small_openvino_int8": {"pap_lost": 0.6}}),
        (5, {"parts": GOOD["parts"] | {"1": {"rest_over_backbone": 1.1, "rest_over_backbone_nchw": 0.5}}}),
        (7, {"startup": {"seconds": {"help": 0.4, "torch": 1.0}, "share": 0.4}}),
        (8, {"parts": GOOD["parts"] | {"8": GOOD["parts"]["8"] | {"aupro_over_maps": 0.11}}}),
    ],
)
def test_one_not_met(place: int, changes: Document) -> None:
    found = changed(**changes)
    assert found[place] is False
    assert found.count(False) == 1


def test_a_plain_machine_has_a_lower_bar() -> None:
    assert changed(instructions={"bfloat16": False, "int8": False}, paper_bf16={"fault": "no"})[1] is False
    document = copy.deepcopy(GOOD)
    document["instructions"] = {"bfloat16": False, "int8": False}
    document["rows"][2] = row("paper-openvino", "paper", 3.6)
    bars = speed_bars(document)
    assert bars[1]["met"] is True
    assert bars[1]["bar"] == "3.5x faster (this processor has neither bfloat16 nor 8-bit products)"


def test_not_measured_says_why() -> None:
    document = copy.deepcopy(GOOD)
    fault = {"fault": 'not installed: pip install "unias[export]"'}
    document["rows"] = [document["rows"][0], {**row("small-openvino-int8", "small", 1), **fault}]
    del document["rows"][1]["batches"]
    document["parts"] = {}
    document["training"] = {"fault": "failed: killed by signal 9 (out of memory?)"}
    bars = speed_bars(document)
    assert [bar["met"] for bar in bars] == [None] * 7 + [True, None]
    assert bars[0]["measured"] == bars[1]["measured"] == "not measured: left out by --only"
    assert bars[4]["measured"] == fault["fault"]
    assert bars[2]["measured"] == bars[3]["measured"] == document["training"]["fault"]


def test_int8_without_accuracy_is_not_met_by_speed() -> None:
    document = copy.deepcopy(GOOD)
    document["rows"][-1] = row("small-openvino-int8", "small", 40, why={"pap_lost": "random weights"})
    bar = speed_bars(document)[4]
    assert bar["met"] is None
    assert bar["measured"].endswith("pAP: random weights")


def test_quick_judges_nothing() -> None:
    assert all(bar["met"] is None and "--quick" in bar["measured"] for bar in speed_bars({**GOOD, "quick": True}))


SCALE: Document = {
    "quick": False,
    "images": {"fault": None, "comparison": {"many": 10_000, "few": 500, "time_ratio": 1.05, "memory_ratio": 1.1}},
    "products": {
        "fault": None,
        "few": {"products": 5},
        "many": {"products": 300},
        "time_ratio": 1.02,
        "disk_mb_a_product": 0.01,
        "memory_mb_a_product": 0.02,
        "memory_noise_mb_a_product": 0.05,
    },
}


@pytest.mark.parametrize(
    ("part", "changes", "met"),
    [
        ("images", {}, [True, True]),
        (
            "images",
            {"comparison": {"many": 10_000, "few": 500, "time_ratio": 1.11, "memory_ratio": 1.0}},
            [False, True],
        ),
        (
            "images",
            {"comparison": {"many": 10_000, "few": 500, "time_ratio": 1.0, "memory_ratio": 1.21}},
            [False, True],
        ),
        ("images", {"comparison": {"many": 10_000, "few": 500, "time_ratio": 1.0, "memory_ratio": None}}, [None, True]),
        ("images", {"comparison": {"many": 1000, "few": 100, "time_ratio": 1.0, "memory_ratio": 1.0}}, [None, True]),
        ("images", {"fault": "failed: x", "comparison": None}, [None, True]),
        ("products", {"time_ratio": 1.06}, [True, False]),
        ("products", {"disk_mb_a_product": 0.3}, [True, False]),
        ("products", {"memory_mb_a_product": 0.3}, [True, False]),
        ("products", {"memory_mb_a_product": None}, [True, None]),
        ("products", {"memory_mb_a_product": 0.22}, [True, None]),  # 0.2 and a noise of 0.05
        ("products", {"memory_mb_a_product": 0.22, "time_ratio": 1.06}, [True, False]),
        ("products", {"memory_mb_a_product": -0.1}, [True, True]),
        ("products", {"few": {"products": 2}}, [True, None]),
        ("products", {"fault": "failed: x"}, [True, None]),
    ],
)
def test_scale(part: str, changes: Document, met: list[bool | None]) -> None:
    document = {**SCALE, part: {**SCALE[part], **changes}}
    assert [bar["met"] for bar in scale_bars(document)] == met


def test_kept_scale_bars(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    assert [bar["met"] for bar in kept_scale_bars(file)] == [None, None]
    file.write_text("[]", encoding="utf-8")
    assert "bench scale" in kept_scale_bars(file)[0]["measured"]
    content = {"commit": "abc", "date": "today", "bars": scale_bars(SCALE)}
    file.write_text(json.dumps(content), encoding="utf-8")
    assert [bar["met"] for bar in kept_scale_bars(file)] == [True, True]
    assert kept_scale_bars(file)[0]["measured"].endswith("(scale.json, commit abc, today)")


def test_tables_keep_their_columns() -> None:
    assert table(("a", "b"), [("x|y", "1\n2")]) == ["| a | b |", "| --- | ---: |", "| x\\|y | 1 2 |"]
    lines = bar_lines(speed_bars(GOOD))
    assert len(lines) == 11
    assert lines[2].endswith("| met |")
