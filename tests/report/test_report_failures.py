"""Failure cases: what went wrong, why, and in which order."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import unias
from unias.report.failures import (
    DOUBTFUL_DEFECT,
    DOUBTFUL_GOOD,
    ELSEWHERE,
    FALSE_ALARM,
    LEAST,
    MISSED,
    STRANGER,
    Trace,
    failures,
    traced,
)


def test_trace_by_hand() -> None:
    """The rim round the truth counts as the truth: a map is smooth."""
    anomaly_map = np.full((64, 64), 0.1, dtype=np.float32)
    anomaly_map[30, 30], anomaly_map[42, 30], anomaly_map[60, 60] = 0.7, 0.8, 0.5
    mask = np.zeros((64, 64), dtype=bool)
    mask[28:36, 28:36] = True
    assert traced(anomaly_map, mask) == pytest.approx((0.8, 0.5, 0.1))
    assert traced(anomaly_map, None)[1:] == pytest.approx((0.8, 0.1))
    assert math.isnan(traced(anomaly_map, np.zeros_like(mask)).inside)
    assert traced(anomaly_map, np.ones_like(mask)).outside == 0


def test_reasons_and_order() -> None:
    nan = math.nan
    photos = [
        (False, 0.5, Trace(nan, 0.5, 0.1), None),  # good, passed
        (False, 1.1, Trace(nan, 1.1, 0.1), FALSE_ALARM),
        (False, 9.0, Trace(nan, 9.0, 0.1), DOUBTFUL_GOOD),
        (True, 2.0, Trace(2.0, 0.3, 0.1), None),  # found
        (True, 2.0, Trace(0.5, 2.0, 0.1), ELSEWHERE),
        (True, 0.9, Trace(0.9, 0.3, 0.1), MISSED),
        (True, 0.9, Trace(0.1, 0.9, 0.1), DOUBTFUL_DEFECT),
        (True, 2.0, Trace(1.5, 2.0, 0.1), ELSEWHERE),
        (True, 0.8, Trace(nan, 0.8, 0.1), MISSED),  # without a mask its score speaks
        (True, 1.3, Trace(nan, 1.3, 0.1), None),
    ]
    is_defect, scores = np.array([p[0] for p in photos]), np.array([p[1] for p in photos])
    traces, failed = [p[2] for p in photos], scores > 1.0
    found = failures(is_defect, scores, 1.0, traces, failed)
    assert {one.place: one.why for one in found} == {i: p[3] for i, p in enumerate(photos) if p[3] is not None}
    assert [one.badness for one in found] == sorted((one.badness for one in found), reverse=True)
    assert [one.place for one in found[:3]] == [6, 2, 4]  # ten times, nine times, four times
    assert failures(is_defect, scores, 1.0, traces, failed, count=2) == found[:2]
    assert failures(is_defect, scores, math.nan, traces, failed) == []
    assert failures(is_defect[:0], scores[:0], 1.0, [], failed[:0]) == []


def test_verdicts_that_rest_on_something_else_than_the_score() -> None:
    """On no known product, or on another product's cut."""
    nan = math.nan
    photos = [
        (False, 0.5, True, Trace(nan, 0.5, 0.1), STRANGER),
        (False, 1.5, False, Trace(nan, 1.5, 0.1), None),  # it passed
        (True, 0.5, True, Trace(0.5, 0.3, 0.1), None),  # failed as a stranger: not missed
        (True, 1.5, False, Trace(1.5, 0.3, 0.1), MISSED),
    ]
    is_defect, scores, failed = (np.array([p[place] for p in photos]) for place in range(3))
    found = failures(is_defect, scores, 1.0, [p[3] for p in photos], failed)
    assert {one.place: one.why for one in found} == {0: STRANGER, 3: MISSED}
    assert {one.badness for one in found} == {LEAST}


def test_evaluation_names_and_shows_them(model: unias.Model, tiny_data: Path, tmp_path: Path) -> None:
    """Every photo on the wrong side is among them, each with its picture."""
    document = unias.evaluate(model, tiny_data, tmp_path / "report")
    assert (
        json.loads((tmp_path / "report" / "metrics.json").read_text(encoding="utf-8"))["failures"]
        == document["failures"]
    )
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    total = 0
    for name, values in document["classes"].items():
        wrong = set()
        for file in sorted((tiny_data / name / "test").glob("*/*.png")):
            result = model.predict(file)
            if result.ok == (file.parent.name != "good"):
                wrong.add(file.relative_to(tiny_data).as_posix())
        named = [one["photo"] for one in document["failures"][name]]
        assert wrong <= set(named)
        assert len(named) <= values["n_good"] + values["n_defective"]
        total += len(named)
    assert total > 0
    assert len(list((tmp_path / "report" / "assets").glob("p*-f*[0-9].jpg"))) == total
    assert page.count("Failure cases:") == sum(bool(one) for one in document["failures"].values())
