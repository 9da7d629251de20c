"""A server inside the test's own process and ways to ask it: requests go through all of the application but its socket."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from unias.serve.service import Service

VERSION = "0" * 64
HERE = "http://127.0.0.1"
PNG = {"Content-Type": "image/png"}
Receive = Callable[[], Any]


@dataclasses.dataclass
class Running:
    """A server and ways to ask it."""

    client: TestClient
    service: Service
    app: FastAPI

    def metric(self, name: str, **labels: str) -> float:
        """A number as Prometheus would read it; 0 where nothing has been counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def inspect(self, photo: Path | bytes, **query: str) -> dict[str, Any]:
        """A photo's answer, which must be one."""
        data = photo if isinstance(photo, bytes) else photo.read_bytes()
        answer = self.client.post("/v1/inspect", content=data, headers=PNG, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def receiving(
        self, receive: Receive, path: str = "/v1/inspect", **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """POST with a body that comes as ``receive`` gives it: (status, body, headers)."""
        given = {"host": "127.0.0.1", "content-type": "image/png"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        assert self.client.portal is not None
        self.client.portal.call(self.app, scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], body, {key.decode(): value.decode() for key, value in sent[0]["headers"]}


Serve = Callable[..., contextlib.AbstractContextManager[Running]]


def product_of(photo: Path) -> str:
    """By its folder."""
    return photo.relative_to(photo.parents[3]).parts[0]


def encoded(pixels: np.ndarray, kind: str = "PNG", **wishes: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **wishes)
    return buffer.getvalue()


def picture(text: str) -> np.ndarray:
    """Base64 of an image file as an array."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))))
