"""Who may ask: whoever is on this machine, or whoever has the token.

Without a token a server is for this machine alone; then a request must also be addressed to it by a name of this machine, and
come from no page of another site, or any web page that a browser here shows could use it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unias.errors import UsageError
from unias.serve.refusals import Refusal

VARIABLE = "UNIAS_TOKEN"
SHORTEST = 16  # characters of a token
# What a load balancer must see without a secret, and the page where people find out how to send one.
OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json")
OPEN_BELOW = ("/docs/",)


def is_local(host: str) -> bool:
    """Whether a server bound to ``host`` is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: Path | None, host: str) -> str | None:
    """The token from a file or from the variable UNIAS_TOKEN; never from the command line, which every user of a machine sees.

    Raises UsageError for a token that is short or cannot be sent, and for a host that needs one where there is none.
    """
    token = os.environ.get(VARIABLE, "") if file is None else _from_file(file)
    source = VARIABLE if file is None else str(file)
    token = token.strip()
    if not token and file is None:
        if is_local(host):
            return None
        raise UsageError(
            f"--host {host}: other machines can reach it, so it needs a token. Write one into a file (openssl rand -hex 32 > "
            f"token) and give --token-file token, or set {VARIABLE}."
        )
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{source}: a token must have at least {SHORTEST} printable ASCII characters and no spaces. Make one with "
            "`openssl rand -hex 32`."
        )
    return token


def _from_file(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise UsageError(
            f"--token-file {file}: cannot be read ({reason}). Give a file with the token alone."
        ) from error


class Guard:
    """Middleware: nothing of a request is looked at before it may ask at all."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self.digest = None if token is None else _digest(token.encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            headers = Headers(scope=scope)
            refusal = self._local_alone(headers) if self.digest is None else self._needs_token(headers)
            if refusal is not None:
                scope.setdefault("state", {})["refused"] = refusal.reason
                await refusal.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _needs_token(self, headers: Headers) -> Refusal | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Digests are compared: of one length, and in constant time.
        right = hmac.compare_digest(_digest(given.strip().encode("latin-1", "replace")), self.digest or b"")
        if right and scheme.lower() == "bearer":
            return None
        return Refusal(
            401,
            "unauthorized",
            "this server needs its token.",
            "Send the header Authorization: Bearer TOKEN.",
            {"WWW-Authenticate": "Bearer"},
        )

    @staticmethod
    def _local_alone(headers: Headers) -> Refusal | None:
        for header, text in (("Host", headers.get("host")), ("Origin", headers.get("origin"))):
            if text is not None and not _names_this_machine(text if header == "Origin" else f"//{text}"):
                return Refusal(
                    403,
                    "foreign",
                    f"{header}: {text[:80]!r} is not this machine, and this server has no token.",
                    f"Ask 127.0.0.1, or start the server with a token ({VARIABLE} or --token-file).",
                )
        return None


def _names_this_machine(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and is_local(host)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_BELOW)


def _digest(word: bytes) -> bytes:
    return hashlib.sha256(word).digest()
