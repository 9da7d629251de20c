"""Bytes, pixels, places and seconds: what is over is refused early, by name, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from serving import PNG, Running, Serve, encoded

from unias.errors import UsageError
from unias.inference.predictor import Model
from unias.serve.gate import Gate
from unias.serve.refusals import Refusal
from unias.serve.settings import ServeSettings

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"max_bytes": 5000, "held_bytes": 20_000}  # bytes


async def never() -> Any:
    raise AssertionError("the body was asked for")


def chunks(*sizes: int) -> Any:
    """A receive that gives bodies of these sizes, then says that it is the end."""
    left = list(sizes)

    async def receive() -> dict[str, Any]:
        size = left.pop(0)
        return {"type": "http.request", "body": bytes(size), "more_body": bool(left)}

    receive.left = left  # type: ignore[attr-defined]
    return receive


def empty(running: Running) -> bool:
    gate = running.service.gate
    return (gate.photos, gate.held, gate.coming) == (0, 0, 0)


@pytest.fixture(scope="module")
def small(serve: Serve) -> Iterator[Running]:
    """Photos of at most 5,000 bytes and 10,000 pixels."""
    with serve(**SMALL, max_pixels=10_000) as running:
        yield running


def test_length_over_the_limit_is_refused_before_the_body(small: Running) -> None:
    for kind, length in (("image/png", "5001"), ("multipart/form-data; boundary=x", str(5001 + 16 * 1024))):
        status, body, _ = small.receiving(never, content_length=length, content_type=kind)
        assert status == 413
        assert b"limit" in body
    assert small.receiving(never, content_length="1e9")[0] == 400
    assert small.metric("unias_rejected_total", reason="too_large") == 2
    assert empty(small)


def test_body_without_a_length_is_cut_off_at_the_limit(small: Running) -> None:
    receive = chunks(3000, 3000, 3000, 3000)
    assert small.receiving(receive)[0] == 413
    assert len(receive.left) == 2
    assert empty(small)


def test_file_in_a_form_has_the_same_limit(small: Running) -> None:
    answer = small.client.post("/v1/inspect", files={"image": bytes(5001)})
    assert answer.status_code == 413
    assert small.client.post("/v1/inspect", files={"image": bytes(5000)}).status_code == 415
    assert empty(small)


def test_pixels_are_counted_before_decoding(small: Running, monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    fits, over = encoded(np.zeros((100, 100), np.uint8)), encoded(np.zeros((100, 101), np.uint8))
    assert small.inspect(fits)["size"] == [100, 100]

    def decode(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(model, "decode", decode)
    for data in (
        over,
        encoded(np.zeros((101, 100), np.uint8), "TIFF", compression="tiff_deflate"),
        encoded(np.zeros((200, 200), np.uint8), "BMP")[:4000],
    ):
        answer = small.client.post("/v1/inspect", content=data, headers=PNG)
        assert answer.status_code == 413
        assert "pixels" in answer.json()["error"]
    assert empty(small)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"picture": b"x"}, "'picture'"),
        ([("image", b"x"), ("image", b"y")], "Too many files"),
        ({"image": (None, "text")}, "'image'"),
        ([("image", b"x"), ("product", (None, "bolt"))], "'product'"),
        ([("image", (None, "a")), ("other", (None, "b"))], "Too many fields"),
    ],
)
def test_form_must_hold_one_photo_and_nothing_else(running: Running, files: Any, named: str) -> None:
    answer = running.client.post("/v1/inspect", files=files)
    assert answer.status_code == 400
    assert named in answer.json()["error"]
    assert empty(running)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (b"--y\r\n\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\n" + b"A: b\r\n" * 3000, "multipart/form-data; boundary=x"),
        (b"--x\r\n" + b"\0" * 5000, "multipart/form-data; boundary=x"),
        (b"x" * 5000, "multipart/form-data; boundary=" + "x" * 3000),
        (
            b"--x\r\nContent-Disposition: form-data; name=image; filename=\xff\r\n\r\n",
            "multipart/form-data; boundary=x",
        ),
        (b"", "image/png"),
    ],
)
def test_bodies_that_are_no_form(running: Running, content: bytes, kind: str) -> None:
    answer = running.client.post("/v1/inspect", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "hint"}
    assert empty(running)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/x-www-form-urlencoded"])
def test_other_content_types_are_refused(running: Running, good: Path, kind: str) -> None:
    answer = running.client.post("/v1/inspect", content=good.read_bytes(), headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert "Content-Type" in answer.json()["hint"]


def test_slow_upload_is_given_up(serve: Serve) -> None:
    async def trickle() -> Any:
        await anyio.sleep_forever()

    with serve(upload_timeout=0.05) as running:
        for kind in ("image/png", "multipart/form-data; boundary=x"):
            assert running.receiving(trickle, content_type=kind)[0] == 408
        assert running.receiving(trickle, path="/v2/models/tiny/infer", content_type="application/json")[0] == 408
        assert empty(running)


def test_client_that_hangs_up_is_forgotten(running: Running) -> None:
    async def hang_up() -> dict[str, str]:
        return {"type": "http.disconnect"}

    assert running.receiving(hang_up)[0] == 499
    assert running.receiving(hang_up, content_type="multipart/form-data; boundary=x")[0] == 499
    assert running.metric("unias_rejected_total", reason="disconnected") == 2
    assert empty(running)


class Held:
    """The model stopped in its first batch, until it may go on."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy, self.go_on = threading.Event(), threading.Event()
        real = model.predict_decoded

        def slow(decoded: Any, products: Any) -> Any:
            self.busy.set()
            assert self.go_on.wait(60)
            return real(decoded, products)

        monkeypatch.setattr(model, "predict_decoded", slow)


def test_one_more_than_the_queue_holds_comes_back_later(
    serve: Serve, model: Model, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(queue=2) as running, ThreadPoolExecutor(2) as threads:
        held = Held(model, monkeypatch)
        inside = [threads.submit(running.inspect, good) for _ in range(2)]
        assert held.busy.wait(60)
        while running.service.gate.photos < 2:
            assert not any(one.done() for one in inside)
        status, body, headers = running.receiving(never, content_length="100")
        assert (status, b"busy" in body) == (429, True)
        assert 1 <= int(headers["retry-after"]) <= 60
        assert running.metric("unias_rejected_total", reason="queue_full") == 1
        held.go_on.set()
        assert all(one.result()["verdict"] == "ok" for one in inside)
        assert running.inspect(good)["ok"]
        assert empty(running)


def test_late_answers_are_given_up_and_their_place_is_free(
    serve: Serve, model: Model, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(timeout=0.05, batch=1) as running:
        with monkeypatch.context() as patch:
            held = Held(model, patch)
            for _ in range(3):  # the first is with the model, the others wait for it
                answer = running.client.post("/v1/inspect", content=good.read_bytes(), headers=PNG)
                assert answer.status_code == 504
                assert empty(running)
            held.go_on.set()
        assert running.metric("unias_rejected_total", reason="timeout") == 3
        running.service.batcher.stop()
        assert running.metric("unias_batch_size_count") == 2  # nobody waited for the other two


def test_gate_counts_bytes_and_photos() -> None:
    gate = Gate(ServeSettings(max_bytes=50, held_bytes=100, queue=3))
    with gate.enter(60) as ticket:
        with pytest.raises(Refusal) as full:
            gate.enter(41)
        assert full.value.status == 429
        ticket.more(2)
        with pytest.raises(Refusal):
            gate.enter(1)
        assert (gate.photos, gate.held, gate.coming) == (3, 60, 3)
        ticket.arrived()
        assert gate.coming == 2
        ticket.leave()
        assert (gate.photos, gate.held, gate.coming) == (0, 0, 0)
    assert (gate.photos, gate.held, gate.coming) == (0, 0, 0)
    gate.seconds_per_photo = 0.4
    gate.photos = 100
    assert gate.wait == 40
    gate.draining = True
    with pytest.raises(Refusal) as stopping:
        gate.enter(1)
    assert stopping.value.status == 503


def test_stopping_server_says_so(serve: Serve, good: Path) -> None:
    with serve() as running:
        assert running.client.get("/readyz").status_code == 200
        running.service.gate.draining = True
        assert running.client.get("/readyz").status_code == 503
        assert running.client.get("/v2/health/ready").status_code == 503
        assert running.client.get("/healthz").status_code == 200
        assert running.receiving(never)[0] == 503
        assert running.metric("unias_rejected_total", reason="draining") == 1


def test_dead_model_is_seen(serve: Serve) -> None:
    with serve() as running:
        running.service.batcher.stop()
        for path in ("/healthz", "/readyz", "/v2/health/live"):
            assert running.client.get(path).status_code == 503


def test_fault_of_the_server_is_a_500_that_says_nothing(
    serve: Serve, model: Model, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(raising=False) as running:

        def broken(*_: Any) -> Any:
            raise RuntimeError("secret")

        with monkeypatch.context() as patch:
            patch.setattr(model, "predict_decoded", broken)
            answer = running.client.post("/v1/inspect", content=good.read_bytes(), headers=PNG)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert set(answer.json()) == {"error", "hint"}
        assert empty(running)
        assert running.inspect(good)["ok"]


@pytest.mark.parametrize(
    "wish", [{"queue": 0}, {"timeout": 0}, {"linger": -1}, {"max_bytes": 100, "held_bytes": 199}, {"decoders": 0}]
)
def test_settings_that_cannot_be(wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wish)) if len(wish) == 1 else "held_bytes"):
        ServeSettings(**wish)
