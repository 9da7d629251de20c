"""A studio inside the test's own process and ways to ask it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi.testclient import TestClient

from unias.studio.app import Studio

HERE = "http://127.0.0.1"
MODEL = "tiny"


@dataclass
class Running:
    """A studio and ways to ask it."""

    client: TestClient
    studio: Studio

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get(f"/studio/api{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.client.post(f"/studio/api{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, files: dict[str, bytes], **fields: str) -> Any:
        parts = [("photo", (name, data, "application/octet-stream")) for name, data in files.items()]
        answer = self.client.post("/studio/api/photos", files=parts, data=fields)
        assert answer.status_code == 200, answer.text
        return answer.json()


Open = Callable[..., Any]
