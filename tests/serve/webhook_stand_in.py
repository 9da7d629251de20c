"""A receiver of webhooks for tests: it checks signatures by itself, counts ids, and answers as the test wishes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from watch_stand_in import KEY

SECRET = "whsec_" + base64.b64encode(KEY).decode()


def is_signed(headers: Message, body: bytes) -> bool:
    """Whether it was signed with KEY, worked out from the specification of Standard Webhooks."""
    digest = hmac.new(KEY, f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body, hashlib.sha256)
    return headers["webhook-signature"] == "v1," + base64.b64encode(digest.digest()).decode()


class Receiver:
    """``answer(letter)`` gives a status, or (status, headers), or None to hang up without a word."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any] = lambda _letter: 204) -> None:
        self.answer = answer
        self.check = is_signed
        self.taken: Counter[str] = Counter()  # answered with 2xx
        self.asked: Counter[str] = Counter()
        self.bodies: dict[str, set[bytes]] = {}
        self.faults: list[str] = []
        self.news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.receive(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:  # a sender that was killed
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?line=5"

    def receive(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers["Content-Length"])
        body = request.rfile.read(length)
        if len(body) < length:  # the sender was killed while it sent: no letter has come
            request.close_connection = True
            return
        id_, stamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        with self.news:
            if not self.check(request.headers, body):
                self.faults.append("signature")
            if abs(int(stamp) - time.time()) > 60 or request.path != "/hook?line=5":
                self.faults.append("time or place")
            letter = json.loads(body)
            if letter["id"] != id_ or request.headers["Content-Type"] != "application/json":
                self.faults.append("id or type")
            self.bodies.setdefault(id_, set()).add(body)
            self.asked[id_] += 1
            answer = self.answer(letter)
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            if status is not None and status // 100 == 2:
                self.taken[id_] += 1
            self.news.notify_all()
        if status is not None:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", "0")
            request.end_headers()

    def wait(self, ready: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(ready, timeout=30)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
