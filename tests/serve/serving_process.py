"""``unias serve`` as its users run it: a process of its own on a real port."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Process:
    """A running server."""

    process: subprocess.Popen[str]
    host: str
    port: int
    line: str

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) over a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def inspect(self, data: bytes) -> dict[str, Any]:
        status, _, body = self.ask("POST", "/v1/inspect", data, Content_Type="image/png")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def end(self) -> tuple[int, str]:
        """(exit code, what it said on standard error), once it has ended."""
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


@contextlib.contextmanager
def serving(folder: Path, environment: dict[str, str], *more: str) -> Iterator[Process]:
    """The server from the line that says where it is; killed if it has not ended by itself."""
    command = [sys.executable, "-m", "unias", "serve", str(folder), "--port", "0", "--device", "cpu", *more]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", line)
        if found is None:
            process.kill()
            raise AssertionError(f"it did not start: {line}{process.communicate()[1]}")
        yield Process(process, found[1], int(found[2]), line)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
