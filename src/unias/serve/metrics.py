"""What Prometheus reads: requests, times, the queue, batches, verdicts, refusals, and whether parts have drifted."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unias.calibration.drift import Drift, DriftWatch
from unias.inference.products import ProductInfo
from unias.inference.result import Result

MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
NO_ROUTE = "other"  # paths that are none of ours share one label, or strangers could make as many as they like


class Metrics:
    """One server's numbers, in a registry of its own."""

    def __init__(self, products: Sequence[ProductInfo], most: int, name: str, version: str) -> None:
        self.registry = CollectorRegistry()
        self.watches = {one.name: DriftWatch(one.held_out_scores, one.cut.value) for one in products}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        model = self._gauge("unias_model_info", "Always 1; the labels say which model this is.", "name", "version")
        model.labels(name, version).set(1)
        self.requests = Counter(
            "unias_requests_total", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "unias_request_seconds",
            "From a request's head to its answer.",
            ("route",),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.in_flight = self._gauge("unias_photos_in_flight", "Photos let in and not yet answered.")
        self.queue_depth = self._gauge("unias_queue_depth", "Decoded photos that wait for the model.")
        self.held_bytes = self._gauge("unias_upload_bytes", "Bytes of uploads in memory, or promised room there.")
        buckets = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < most] + [most]
        self.batch_size = Histogram(
            "unias_batch_size", "Photos of a batch.", registry=self.registry, buckets=[float(size) for size in buckets]
        )
        self.batch_seconds = Histogram(
            "unias_batch_seconds", "The model's time for a batch.", registry=self.registry, buckets=SECONDS
        )
        self.verdicts = Counter(
            "unias_verdicts_total",
            'Photos judged, by product ("" = of none that the model knows) and verdict.',
            ("product", "verdict"),
            registry=self.registry,
        )
        self.rejected = Counter(
            "unias_rejected_total", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        self.drift = self._gauge(
            "unias_drift", "1 where the last passed parts no longer look like the held-out photos.", "product"
        )
        self.drift_chance = self._gauge(
            "unias_drift_chance", "Probability of a difference as large where nothing has changed.", "product"
        )
        self.drift_distance = self._gauge(
            "unias_drift_distance", "Largest difference of the two distributions of scores, 0 to 1.", "product"
        )

    def judged(self, result: Result) -> None:
        """One photo's verdict; in the event loop's thread alone."""
        self.verdicts.labels(result.product or "", result.verdict).inc()
        if result.product is not None:
            self.watches[result.product].add(result.raw_score)

    def ran(self, photos: int, seconds: float) -> None:
        """One batch."""
        self.batch_size.observe(photos)
        self.batch_seconds.observe(seconds)

    def look(self) -> dict[str, Drift]:
        """What the last passed parts of each product say."""
        return {name: watch.look() for name, watch in self.watches.items()}

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        for name, found in self.look().items():
            self.drift.labels(name).set(found.drifted)
            self.drift_chance.labels(name).set(found.chance)
            self.drift_distance.labels(name).set(found.distance)
        return generate_latest(self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(name, what, labels, registry=self.registry)


class Measured:
    """Middleware: counts and times every request, by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope.setdefault("state", {})
        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.request_seconds.labels(route).observe(time.monotonic() - began)
            if reason := scope["state"].get("refused"):
                self.metrics.rejected.labels(reason).inc()
