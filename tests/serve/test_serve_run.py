"""The process: its start, its end, and a real socket."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from serving_process import Process, serving

from unias.errors import UsageError
from unias.files import sha256
from unias.inference.predictor import Model
from unias.serve.auth import VARIABLE
from unias.serve.run import bind, url_of

NO_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")


def test_ports_that_are_taken_or_strange(tmp_path: Path) -> None:
    taken = bind("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    assert url_of(taken) == f"http://127.0.0.1:{port}"
    with pytest.raises(UsageError, match=f"--port {port}"):
        bind("127.0.0.1", port)
    taken.close()
    with pytest.raises(UsageError, match="not an address"):
        bind("no such host.", 0)
    with pytest.raises(UsageError, match="cannot be used"):
        bind("192.0.2.1", 0)  # kept for documentation: never this machine's


@pytest.mark.usefixtures("one_thread")
def test_what_cannot_be_served_is_an_error_at_once(
    cli: Any, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    code, out, said = cli("serve", model_folder, "--host", "0.0.0.0", "--port", "0")
    assert (code, out) == (2, "")
    assert "needs a token" in said
    assert cli("serve", model_folder, "--token-file", tmp_path / "none", "--port", "0").code == 2
    assert cli("serve", model_folder, "--batch", "0").code == 2
    missing = cli("serve", tmp_path / "none", "--port", "0")
    assert missing.code == 3
    assert "no such model folder" in missing.err
    taken = bind("127.0.0.1", 0)
    taken.listen()
    busy = cli("serve", model_folder, "--port", taken.getsockname()[1])
    taken.close()
    assert busy.code == 2
    assert "--port" in busy.err


def test_missing_extra_is_named(cli: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    code, _, said = cli("serve", model_folder, "--port", "0")
    assert code == 4
    assert 'prometheus_client, which is not installed here. pip install "unias[serve]"' in said


def half_sent(server: Process, data: bytes) -> socket.socket:
    """A photo of which the first half is on its way; returns when the server has let it in."""
    head = f"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((server.host, server.port), timeout=60)
    connection.sendall(head.encode() + data[: len(data) // 2])
    while b"unias_photos_in_flight 1.0" not in server.ask("GET", "/metrics")[2]:
        assert server.process.poll() is None
    return connection


def received(connection: socket.socket) -> tuple[int, bytes]:
    """All that comes until the server closes the connection: (status, body)."""
    whole = b""
    while part := connection.recv(65_536):
        whole += part
    connection.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.slow
@NO_SIGNALS
def test_sigterm_answers_what_was_taken_in_and_nothing_else(
    model_folder: Path, model: Model, good: Path, clean_environment: dict[str, str]
) -> None:
    data = good.read_bytes()
    with serving(model_folder, clean_environment) as server:
        assert f"{model_folder.name}: {len(model.products)} products at http://127.0.0.1:" in server.line
        found = server.inspect(data)
        expected = model.predict(good)
        assert (found["verdict"], found["product"]) == (expected.verdict, expected.product)
        assert found["raw_score"] == pytest.approx(expected.raw_score, abs=1e-5)
        assert found["model"] == {"name": model_folder.name, "version": sha256(model_folder / "manifest.json")}
        assert server.ask("GET", "/readyz")[0] == 200
        connection = half_sent(server, data)
        server.process.send_signal(signal.SIGTERM)
        while server.ask("GET", "/readyz")[0] != 503:
            assert server.process.poll() is None
        status, headers, body = server.ask("POST", "/v1/inspect", data, Content_Type="image/png")
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert b"stopping" in body
        assert server.ask("GET", "/healthz")[0] == 200
        connection.sendall(data[len(data) // 2 :])
        status, body = received(connection)
        assert status == 200
        assert json.loads(body)["verdict"] == expected.verdict
        code, said = server.end()
        assert (code, said) == (0, "")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((server.host, server.port), timeout=60)


@pytest.mark.slow
@NO_SIGNALS
def test_ctrl_c_ends_likewise_and_a_second_one_at_once(
    model_folder: Path, good: Path, clean_environment: dict[str, str]
) -> None:
    with serving(model_folder, clean_environment, "--grace", "3600") as server:
        server.inspect(good.read_bytes())
        server.process.send_signal(signal.SIGINT)
        while server.ask("GET", "/readyz")[0] != 503:
            assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        code, said = server.end()
        assert code == 130
        assert "Ctrl-C" in said
        assert "Traceback" not in said


@pytest.mark.slow
@NO_SIGNALS
def test_real_socket_and_token(model_folder: Path, good: Path, clean_environment: dict[str, str]) -> None:
    """What only a real connection shows: no Continue for what is too large, no end to a lying length, noise for HTTP."""
    token = "a-token-of-32-characters-or-more"
    environment = clean_environment | {VARIABLE: token}
    bearer = {"Authorization": f"Bearer {token}"}
    with serving(model_folder, environment, "--host", "0.0.0.0", "--max-mib", "1", "--upload-timeout", "1") as server:
        host = ("127.0.0.1", server.port)
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.ask("GET", "/v1/products")[0] == 401
        assert server.ask("GET", "/v1/products", **bearer)[0] == 200
        assert server.ask("POST", "/v1/inspect", good.read_bytes(), Content_Type="image/png", **bearer)[0] == 200

        def raw(request: str, body: bytes = b"") -> bytes:
            with socket.create_connection(host, timeout=60) as connection:
                connection.sendall(request.replace("\n", "\r\n").encode() + body)
                return connection.recv(65_536)

        head = f"POST /v1/inspect HTTP/1.1\nHost: x\nAuthorization: Bearer {token}\nContent-Type: image/png\n"
        assert b" 413 " in raw(f"{head}Content-Length: 9999999999\nExpect: 100-continue\n\n").split(b"\r\n")[0]
        assert b" 408 " in raw(f"{head}Content-Length: 1000\n\n", bytes(10)).split(b"\r\n")[0]  # the rest never comes
        chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
        assert b" 413 " in raw(f"{head}Transfer-Encoding: chunked\n\n", chunk * 20).split(b"\r\n")[0]
        assert b" 400 " in raw("\x16\x03\x01 what is this\n\n").split(b"\r\n")[0]
        assert b" 400 " in raw(f"{head}Content-Length: -5\n\n").split(b"\r\n")[0]
        assert server.ask("POST", "/v1/inspect", good.read_bytes(), Content_Type="image/png", **bearer)[0] == 200
        server.process.send_signal(signal.SIGTERM)
        code, said = server.end()
        assert code == 0
        assert token not in said
