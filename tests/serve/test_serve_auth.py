"""Who may ask: the token, and what stands in its place on the own machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import PNG, Running, Serve

from unias.errors import UsageError
from unias.serve.auth import VARIABLE, is_local, read_token

TOKEN = "a-token-of-32-characters-or-more"
CLOSED = ("/v1/products", "/metrics", "/v2", "/v2/models/tiny", "/nowhere")
OPEN = (
    "/healthz",
    "/readyz",
    "/v2/health/live",
    "/v2/health/ready",
    "/docs",
    "/openapi.json",
    "/docs/assets/favicon.png",
)


@pytest.fixture(scope="module")
def guarded(serve: Serve) -> Iterator[Running]:
    with serve(token=TOKEN) as running:
        yield running


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_own_addresses(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", "localhost.example.org", ""])
def test_other_addresses(host: str) -> None:
    assert not is_local(host)


def test_only_this_machine_is_served_without_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_token(None, "127.0.0.1") is None
    for host in ("0.0.0.0", "192.168.0.7"):
        with pytest.raises(UsageError, match="needs a token"):
            read_token(None, host)
    monkeypatch.setenv(VARIABLE, TOKEN)
    assert read_token(None, "0.0.0.0") == TOKEN
    assert read_token(None, "127.0.0.1") == TOKEN
    file = tmp_path / "token"
    file.write_text("another-token-of-32-characters\n", encoding="ascii")
    assert read_token(file, "0.0.0.0") == "another-token-of-32-characters"


@pytest.mark.parametrize(
    "text", ["", "short", "with spaces in the middle of it", "ein-Schlüssel-mit-Umlaut", "a\0" * 20]
)
def test_tokens_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="token"):
        read_token(file, "127.0.0.1")
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "none", "127.0.0.1")


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_needs_the_token(guarded: Running, path: str) -> None:
    refused = guarded.client.get(path)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert set(refused.json()) == {"error", "hint"}
    answer = guarded.client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize("path", OPEN)
def test_health_and_description_do_not(guarded: Running, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
    ],
)
def test_wrong_tokens(guarded: Running, header: str) -> None:
    assert guarded.client.get("/v1/products", headers={"Authorization": header}).status_code == 401


def test_strange_bytes_in_a_token(guarded: Running) -> None:
    headers = [(b"Authorization", b"Bearer \xff\xfe\x00")]
    assert guarded.client.get("/v1/products", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_nothing_is_read_before_the_token_is_seen(guarded: Running) -> None:
    async def never() -> None:
        raise AssertionError("the body was asked for")

    assert guarded.receiving(never)[0] == 401
    assert guarded.metric("unias_rejected_total", reason="unauthorized") >= 1


def test_token_opens_inspection_from_anywhere(guarded: Running, good: Path) -> None:
    headers = PNG | {"Authorization": f"bearer {TOKEN}", "Host": "line3.example.org", "Origin": "https://example.org"}
    assert guarded.client.post("/v1/inspect", content=good.read_bytes(), headers=headers).json()["ok"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "attacker.example"}, 403),
        ({"Host": "127.0.0.1.attacker.example"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost:8000"}, 200),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_without_a_token_no_web_page_can_use_it(running: Running, headers: dict[str, str], status: int) -> None:
    """A name that somebody else pointed at this machine, or a page of another site."""
    assert running.client.get("/v1/products", headers=headers).status_code == status
