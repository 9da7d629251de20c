"""``unias bench serve``: figures from known clients, bars, and one run against a real server."""

from __future__ import annotations

import http.server
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unias.bench.bars import serve_bars
from unias.bench.serve import Load, bare_rate, mean_batch, percentile, resident_memory, running_server, send
from unias.bench.serve_page import serve_page
from unias.errors import UniasError
from unias.inference.predictor import Model

DOCUMENT: dict[str, Any] = {
    "quick": False,
    "errors": {},
    "answers": 1000,
    "seconds": {"p50": 0.1, "p99": 0.3, "max": 0.5},
    "share_of_bare": 0.9,
    "memory_mib": [600.0, 610.0, 629.0],
}


def met(**changes: Any) -> dict[str, bool | None]:
    return {one["what"]: one["met"] for one in serve_bars({**DOCUMENT, **changes})}


def test_bars_are_the_issues() -> None:
    assert set(met().values()) == {True}
    assert met(errors={"status 500": 1})["errors"] is False
    assert met(seconds={"p50": 0.1, "p99": 0.31, "max": 1.0})["p99 against p50"] is False
    assert met(share_of_bare=0.89)["throughput against the bare predictor at its best batch"] is False
    assert met(memory_mib=[600.0, 631.0])["memory after warm-up"] is False
    assert met(memory_mib=[100.0, 115.0])["memory after warm-up"] is True  # so little is noise
    assert met(memory_mib=[None, None])["memory after warm-up"] is None
    assert set(met(quick=True).values()) == {None}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_a_rank(share: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_nothing_answered_is_not_a_number() -> None:
    assert math.isnan(percentile([], 0.5))
    assert Load().rate == 0.0


@pytest.fixture
def stub() -> Iterator[tuple[tuple[str, int], list[bytes]]]:
    """A server that refuses every fourth photo, hangs up on every tenth, and has metrics."""
    seen: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            number = len(seen)
            if number % 10 == 0:
                self.close_connection = True
                return
            self.send_response(429 if number % 4 == 0 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            body = (
                b"process_resident_memory_bytes 2.097152e+06\nunias_batch_size_sum 30.0\nunias_batch_size_count 10.0\n"
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ("127.0.0.1", server.server_address[1]), seen
        server.shutdown()
        thread.join()


def test_clients_count_answers_and_errors(stub: tuple[tuple[str, int], list[bytes]]) -> None:
    address, seen = stub
    load = send(address, [b"a", b"bb", b"ccc"], clients=2, seconds=0.2)
    assert len(load.latencies) + load.errors.total() == len(seen) >= 2
    assert load.errors.keys() <= {"status 429", "RemoteDisconnected"}
    assert load.errors.total() >= len(seen) // 4
    assert set(seen) <= {b"a", b"bb", b"ccc"}
    assert load.rate == len(load.latencies) / load.seconds
    assert resident_memory(address) == 2.0
    assert mean_batch(address) == 3.0


@pytest.mark.usefixtures("one_thread")
def test_bare_predictor_is_timed_on_whole_batches(
    model: Model, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [file.read_bytes() for file in sorted(tiny_data.glob("*/test/good/*.png"))]
    batches: list[int] = []
    real = model.predict_decoded
    monkeypatch.setattr(
        model, "predict_decoded", lambda decoded, *rest: batches.append(len(decoded)) or real(decoded, *rest)
    )
    assert bare_rate(model, photos, 4, 0.1) > 0
    assert set(batches) == {4}


def test_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UniasError, match="did not start"), running_server(tmp_path / "none", 1, 8, 16):
        pass


@pytest.mark.slow
def test_one_run(model_folder: Path, tiny_data: Path, tmp_path: Path, cli: Any) -> None:
    answer = cli(
        "bench", "serve", model_folder, "--data", tiny_data, "-o", tmp_path, "--quick", "--threads", "1", "--json", "-q"
    )
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["errors"] == {}
    assert document["answers"] > 10
    assert document["seconds"]["p50"] <= document["seconds"]["p99"] <= document["seconds"]["max"]
    assert len(document["stretches"]) == 2
    assert len(document["memory_mib"]) == 3
    assert document["mean_batch"] > 1  # eight clients at once
    assert [one["what"] for one in document["bars"]] == [
        "errors",
        "p99 against p50",
        "throughput against the bare predictor at its best batch",
        "memory after warm-up",
    ]
    page = (tmp_path / "serve.md").read_text(encoding="utf-8")
    assert page == serve_page(json.loads((tmp_path / "serve.json").read_text(encoding="utf-8")))
    for piece in ("## Bars", "--quick", "commit:", "8 clients"):
        assert piece in page
