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
API = "/studio/api/"
LOGIN = f"{API}login"
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
        if scope["type"] == "http" and scope["path"].startswith(API):
            refusal = self._from_elsewhere(Headers(scope=scope))
            if refusal is not None:
                await refusal.response()(scope, receive, send)
                return
        opened = scope["type"] == "http" and self.digest is not None
        if opened and (not scope["path"].startswith(API) or scope["path"] == LOGIN):
            await self.app(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    def _from_elsewhere(self, headers: Headers) -> Refusal | None:
        """Another page, of a site that a browser here shows or of another program on this machine, asks for what only ours may.
        Pictures and links need no permission and carry no Origin, but browsers say where they come from."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return Refusal(403, "foreign", "the request comes from another page.", "Use the studio's own page.")
        if self.digest is None and origin is not None and not _same_place(origin, host):
            return Refusal(403, "foreign", f"Origin: {origin[:80]!r} is another page.", "Use the studio's own page.")
        return None

    def _needs_token(self, headers: Headers) -> Refusal | None:
        given = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if given and hmac.compare_digest(given.encode("latin-1", "replace"), (self.cookie or "").encode()):
            origin, host = headers.get("origin"), headers.get("host", "")
            if origin is None or _same_place(origin, host):
                return None
            return Refusal(403, "foreign", f"Origin: {origin[:80]!r} is another site.", "Use the studio's own page.")
        return super()._needs_token(headers)


def _same_place(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.casefold() == host.casefold()
    except ValueError:
        return False


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
