"""Who may use the studio: as with the server, whoever is on this machine, or whoever has the token.

A browser cannot add a header to pictures and event streams, so with a token the page signs in once and gets a cookie that only
this site's own requests carry (HttpOnly, SameSite=Strict).
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unias.serve.auth import Guard
from unias.serve.refusals import Refusal

COOKIE = "unias_studio"
LOGIN = "/studio/api/login"
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


def cookie_of(token: str) -> str:
    """What the cookie holds: it proves that its bearer knew the token, and is not the token."""
    return hmac.new(token.encode("ascii"), b"unias studio cookie", hashlib.sha256).hexdigest()


class StudioGuard(Guard):
    """``serve.auth.Guard``, which also takes the cookie; without token or cookie only the page itself and the way in are open."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        super().__init__(app, token)
        self.cookie = None if token is None else cookie_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page's own files hold nothing of anybody."""
        opened = scope["type"] == "http" and self.digest is not None
        if opened and (not scope["path"].startswith("/studio/api/") or scope["path"] == LOGIN):
            await self.app(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    def _needs_token(self, headers: Headers) -> Refusal | None:
        given = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if given and hmac.compare_digest(given.encode("latin-1", "replace"), (self.cookie or "").encode()):
            origin, host = headers.get("origin"), headers.get("host", "")
            if origin is None or urlsplit(origin).netloc.casefold() == host.casefold():
                return None
            return Refusal(403, "foreign", f"Origin: {origin[:80]!r} is another site.", "Use the studio's own page.")
        return super()._needs_token(headers)


class Sealed:
    """Middleware: every answer says what its page may load, which is what lies here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Headers are added to what has none of that name."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers") or [])
                names = {name.lower() for name, _ in given}
                message["headers"] = [*given, *(pair for pair in HEADERS if pair[0] not in names)]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
