"""/metrics: what was counted, and the drift of parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import PNG, Serve

from unias.inference.predictor import Model
from unias.inference.products import ProductInfo
from unias.serve.metrics import Metrics

pytestmark = pytest.mark.usefixtures("one_thread")


def test_page_is_prometheus_text_and_counts(serve: Serve, good: Path, model: Model) -> None:
    product = model.predict(good).product
    with serve(batch=4) as running:
        for _ in range(3):
            running.inspect(good)
        running.client.post("/v1/inspect", content=b"no photo", headers=PNG)
        running.client.get("/v1/products")
        running.client.get("/nowhere/at/all")
        page = running.client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page.text)
            for sample in family.samples
        }

    def value(name: str, /, **labels: str) -> float:
        return samples[name, tuple(sorted(labels.items()))]

    assert value("unias_requests_total", route="/v1/inspect", status="200") == 3
    assert value("unias_requests_total", route="/v1/inspect", status="415") == 1
    assert value("unias_requests_total", route="other", status="404") == 1
    assert value("unias_request_seconds_count", route="/v1/inspect") == 4
    assert value("unias_request_seconds_count", route="/v1/products") == 1
    assert value("unias_verdicts_total", product=str(product), verdict="ok") == 3
    assert value("unias_rejected_total", reason="format") == 1
    assert value("unias_batch_size_count") == 4  # one when it starts
    assert value("unias_batch_size_sum") == 4
    assert value("unias_batch_size_bucket", le="4.0") == 4
    assert value("unias_photos_in_flight") == value("unias_queue_depth") == value("unias_upload_bytes") == 0
    assert value("unias_model_info", name="tiny", version="0" * 64) == 1
    for one in model.products:
        assert value("unias_drift", product=one.name) == 0


def test_strangers_make_no_new_labels(serve: Serve) -> None:
    with serve() as running:
        for number in range(20):
            running.client.get(f"/nowhere/{number}")
            running.client.get(f"/v2/models/{number}")
        families = running.service.metrics.registry.collect()
        routes = {one.labels["route"] for family in families for one in family.samples if "route" in one.labels}
        assert routes == {"other", "/v2/models/{model}"}


def test_drift_is_told_by_product(model: Model) -> None:
    scores = tuple(float(score) for score in np.random.default_rng(0).uniform(0, 1, 200))
    base = model.products[0]
    cut = dataclasses.replace(base.cut, value=1.0)
    products = [ProductInfo(name, cut, held_out_scores=scores) for name in ("steady", "drifting")]
    metrics = Metrics(products, 8, "tiny", "0")
    one = model.predict(np.zeros((64, 64, 3), np.uint8), product=base.name)
    for number, score in enumerate(np.random.default_rng(1).uniform(0, 1, 300)):
        name = ("steady", "drifting")[number % 2]
        moved = float(score) if name == "steady" else 0.6 + 0.4 * float(score)
        metrics.judged(dataclasses.replace(one, product=name, ok=True, raw_score=moved))
    page = metrics.page().decode()
    assert 'unias_drift{product="steady"} 0.0' in page
    assert 'unias_drift{product="drifting"} 1.0' in page
    looked = metrics.look()
    assert looked["drifting"].higher
    assert looked["drifting"].parts == 150


def test_unknown_products_move_no_drift(serve: Serve, photos: list[Path], model: Model) -> None:
    stranger, reach = photos[0], model.detector.statistics.reach
    before = reach.clone()
    with serve() as running:
        reach.fill_(1e-6)  # every product ends where its class mean lies
        try:
            running.inspect(stranger)
        finally:
            reach.copy_(before)
        assert running.metric("unias_verdicts_total", product="", verdict="unknown product") == 1
        assert all(one.parts == 0 for one in running.service.metrics.look().values())
