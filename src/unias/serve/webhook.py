"""Rows to a URL: a signed POST each, in the form of Standard Webhooks (https://www.standardwebhooks.com), until it arrives.

Headers: ``webhook-id`` is the row's id, the same at every try; ``webhook-timestamp`` the seconds of the try since 1970;
``webhook-signature`` is ``v1,`` and the base64 of the HMAC-SHA256 of ``id.timestamp.body``. Any answer of 2xx is a delivery.
400 to 499 refuse the row for good, except 408 and 429; whatever else happens is tried again.

urllib, since httpx is no part of the plain installation. It follows no redirect here, and knows no schemes but http and https.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message

from unias import __version__
from unias.errors import UsageError
from unias.progress import Progress
from unias.serve.courier import FIRST_PAUSE, LONGEST_PAUSE, Courier
from unias.serve.ledger import Ledger, Letter

TIMEOUT = 15.0  # seconds of silence
LONGEST_WISH = 3600.0  # seconds that Retry-After may ask for
PREFIX = "whsec_"
LEAST_KEY = 16  # bytes
AT_ONCE = 16  # letters read from the ledger
TRIED_AGAIN = (408, 429)  # of the answers 400 to 499


class Webhook(Courier):
    """Posts rows to one URL, one after the other.

    Args:
        url, key: see ``check_url`` and ``read_key``.
        timeout: seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        url: str,
        key: bytes,
        progress: Progress,
        timeout: float = TIMEOUT,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        super().__init__("webhook", ledger, progress, first_pause, longest_pause)
        self._url = check_url(url)
        self._key = key
        self._timeout = timeout
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            self._opener.add_handler(handler)

    def turn(self) -> None:
        """Post the letters that are due, until one fails."""
        letters = self.ledger.letters(self.sink, AT_ONCE)
        if not letters:
            self.idle()
        for letter in letters:
            if self._stopping.is_set():
                return
            status, reason, least = self._post(letter)
            if status // 100 == 2:
                self.arrived([letter.number])
            elif status // 100 == 4 and status not in TRIED_AGAIN:
                self.ledger.park(self.sink, letter.number, reason)
                self.progress.say(
                    f"webhook: {reason}: row {letter.number} ({letter.id}) is parked; --resend tries it again"
                )
            else:
                self.failed([letter.number], letter.tries, reason, least)
                return

    def _post(self, letter: Letter) -> tuple[int, str, float]:
        """(status of the answer or 0, what went wrong, seconds to wait at least)."""
        stamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"unias/{__version__}",
            "webhook-id": letter.id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(self._key, letter.id, stamp, letter.body),
        }
        request = urllib.request.Request(self._url, data=letter.body, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return int(answer.status), "", 0.0
        except urllib.error.HTTPError as error:
            with error:
                reason = f"{_host(self._url)} answers {error.code} {error.reason}"
                if 300 <= error.code < 400:
                    reason += f" to {error.headers.get('Location')}, and redirects are not followed: give that URL"
                return error.code, reason, _wish(error.headers)
        except (OSError, http.client.HTTPException) as error:
            return 0, f"{_host(self._url)}: {getattr(error, 'reason', None) or error or type(error).__name__}", 0.0


def sign(key: bytes, id_: str, stamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    digest = hmac.new(key, f"{id_}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode("ascii")


def read_key(secret: str | None) -> bytes:
    """The key in a secret of the form ``whsec_<base64>``. Raises UsageError for anything else."""
    how = "Make one with: python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
    if secret is None:
        raise UsageError(
            f"--webhook: needs a secret to sign with, in --webhook-secret-file or UNIAS_WEBHOOK_SECRET. {how}"
        )
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) < LEAST_KEY:
        raise UsageError(f"--webhook: its secret must be {PREFIX} and the base64 of {LEAST_KEY} bytes or more. {how}")
    return key


def check_url(url: str) -> str:
    """The URL. Raises UsageError unless it is http or https, with a host and without a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not url.isascii() or any(sign.isspace() for sign in url):
        raise UsageError(f"--webhook {url}: give a URL such as https://host/path.")
    if parts.username is not None or parts.password is not None:
        raise UsageError("--webhook: a URL with a user or password shows them to everybody here. Leave them out.")
    return url


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _wish(headers: Message) -> float:
    """Seconds that a ``Retry-After`` asks for; dates are not read."""
    given = headers.get("Retry-After", "")
    return min(float(given), LONGEST_WISH) if given.isascii() and given.isdigit() else 0.0
