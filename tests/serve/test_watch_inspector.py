"""What a watcher is told of drift: stretches of parts that do not overlap, each looked at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from unias.calibration.drift import LAST
from unias.serve.inspector import FIRST, _DriftOfProducts

HELD = tuple(float(score) for score in np.linspace(0.01, 1.0, 100))


def parts(scores: Any, product: str | None = "nut", ok: bool = True) -> list[Any]:
    return [SimpleNamespace(product=product, ok=ok, raw_score=float(score)) for score in scores]


def drifts(said: list[str]) -> _DriftOfProducts:
    infos = [
        SimpleNamespace(name=name, held_out_scores=HELD, cut=SimpleNamespace(value=0.96)) for name in ("nut", "bolt")
    ]
    return _DriftOfProducts(SimpleNamespace(products=infos), said.append)  # type: ignore[arg-type]


def test_parts_that_score_higher_are_told_once_a_stretch() -> None:
    said: list[str] = []
    watch = drifts(said)
    rng = np.random.default_rng(0)
    for part in parts(rng.uniform(0.5, 0.95, FIRST - 1)):
        watch.see(part)
    assert said == []
    for part in parts(rng.uniform(0.5, 0.95, 1 + LAST)):
        watch.see(part)
    assert len(said) == 2
    assert all(text.startswith("nut: drift: the last") and "score higher" in text for text in said)


def test_what_has_not_changed_says_nothing() -> None:
    said: list[str] = []
    watch = drifts(said)
    for part in parts(np.random.default_rng(1).uniform(0.01, 0.95, 20 * LAST)):
        watch.see(part)
    assert said == []


def test_failed_and_unknown_parts_and_other_products_do_not_count() -> None:
    said: list[str] = []
    watch = drifts(said)
    high = np.random.default_rng(2).uniform(0.5, 0.95, FIRST - 1)
    for part in [*parts(high), *parts(high, ok=False), *parts(high, product=None), *parts(high, product="bolt")]:
        watch.see(part)
    assert said == []
