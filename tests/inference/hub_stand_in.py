"""A stand-in for the Hugging Face Hub on 127.0.0.1: what huggingface_hub asks for when models are pushed and fetched."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Files = dict[str, bytes]


@dataclass
class Repo:
    """A model: its commits by id, its branches and tags by name."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        """The files added to the branch."""
        whole = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        name = hashlib.sha1(repr((branch, len(self.commits), sorted(whole))).encode()).hexdigest()
        self.commits[name] = whole
        self.refs[branch] = name
        return name


class Hub:
    """``url``, ``repos`` {name: Repo}, ``asked`` (method, path) in order, ``refuse`` what answers everything (0 = nothing)."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str]] = []
        self.refuse = 0
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Silence."""

            def do_HEAD(self) -> None:
                hub.answer(self)

            do_GET = do_POST = do_HEAD  # noqa: N815

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else self._chunks(request)
        path = request.path.split("?")[0]
        self.asked.append((request.command, path))
        parts = [part for part in path.split("/") if part]
        if self.refuse:
            self._send(request, self.refuse, b"{}")
        elif parts[:2] == ["api", "repos"]:
            self._create(request, json.loads(body))
        elif parts == ["api", "validate-yaml"]:
            faults = [] if json.loads(body)["content"].startswith("---\n") else [{"message": "no front matter"}]
            self._send(request, 200, json.dumps({"errors": faults, "warnings": []}).encode())
        elif parts[:2] == ["api", "models"]:
            self._api(request, "/".join(parts[2:4]), parts[4:], body)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve(request, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(request, 404, b"{}")

    @staticmethod
    def _chunks(request: http.server.BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") != "chunked":
            return b""
        body = b""
        while size := int(request.rfile.readline(), 16):
            body += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        return body

    def _create(self, request: Any, wish: dict[str, Any]) -> None:
        name = f"{wish.get('organization') or 'somebody'}/{wish['name']}"
        if name in self.repos:
            return self._send(request, 409, json.dumps({"url": f"{self.url}/{name}"}).encode())
        private = bool(wish.get("private")) or wish.get("visibility") == "private"
        self.repos[name] = Repo(private)
        self.repos[name].commit("main", {".gitattributes": b""})
        return self._send(request, 200, json.dumps({"url": f"{self.url}/{name}"}).encode())

    def _api(self, request: Any, name: str, rest: list[str], body: bytes) -> None:
        repo = self.repos.get(name)
        if repo is None:
            return self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["branch"]:
            if rest[1] in repo.refs:
                return self._send(request, 409, b"{}")
            repo.refs[rest[1]] = repo.refs["main"]
            return self._send(request, 200, b"{}")
        if rest[:1] == ["preupload"]:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(request, 200, json.dumps({"files": files}).encode())
        if rest[:1] == ["commit"]:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = repo.commit(rest[1], files)
            outcome = {"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit, "success": True}
            return self._send(request, 200, json.dumps(outcome).encode())
        info = {"id": name, "modelId": name, "private": repo.private, "sha": repo.refs["main"], "siblings": []}
        return self._send(request, 200, json.dumps(info).encode())

    def _resolve(self, request: Any, name: str, revision: str, file: str) -> None:
        repo = self.repos.get(name)
        if repo is None:
            return self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        content = repo.commits[commit].get(file)
        if content is None:
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return self._send(request, 200, content, headers)

    @staticmethod
    def _send(request: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        request.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


@contextmanager
def running() -> Iterator[Hub]:
    """The hub, answering until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
