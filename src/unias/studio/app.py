"""The studio over HTTP: its page at ``/``, its API under ``/studio/api``.

sealed (headers) -> allowed to ask (auth) -> the routes, which do their work in threads
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from unias.errors import DataError, MissingError, UniasError
from unias.serve.gate import Gate
from unias.serve.refusals import Refusal, install
from unias.serve.settings import MEGABYTE, ServeSettings
from unias.serve.uploads import declared_length, read_body
from unias.studio.auth import COOKIE, LOGIN, Sealed, StudioGuard, cookie_of
from unias.studio.jobs import Jobs
from unias.studio.models import Shelf
from unias.studio.photos import Photos
from unias.studio.review import Reviews
from unias.studio.routes.jobs import add_jobs
from unias.studio.routes.models import add_models
from unias.studio.routes.photos import add_photos
from unias.studio.workspace import EXPORTS, MODELS, Workspace, read_json

API = "/studio/api"
MOST_OF_A_TOKEN = 4096  # bytes of a request to sign in, which anybody may send
PATIENCE = 10.0  # seconds for it
STATIC = Path(__file__).parent / "static"
SETTINGS = ServeSettings(max_bytes=64 * MEGABYTE, max_pixels=64_000_000, upload_timeout=600.0)


class Studio:
    """All that the routes use.

    Attributes:
        settings: limits of an upload.
        gate: says when the server is stopping.
    """

    def __init__(self, folder: Path | str, settings: ServeSettings = SETTINGS) -> None:
        self.workspace = Workspace(folder)
        self.settings = settings
        self.gate = Gate(settings)
        self.photos = Photos(self.workspace)
        self.shelf = Shelf(self.workspace)
        self.reviews = Reviews(self.workspace, self.shelf)
        self.jobs = Jobs(self.workspace)

    def state(self) -> dict[str, Any]:
        """What the page shows first."""
        understood = self.photos.ids()
        products = {number.split("/")[1] for number in understood if not number.startswith("new/")}
        models = self.shelf.listed()
        return {
            "version": version("unias"),
            "folder": str(self.workspace.root),
            "products": sorted(products),
            "photos": len(understood),
            "models": models,
            "jobs": self.jobs.all(),
            "chosen_model": models[0]["name"] if models else None,
            "limits": {"max_bytes": self.settings.max_bytes, "max_pixels": self.settings.max_pixels},
        }

    def exports(self) -> list[dict[str, Any]]:
        """[{"name", "model", "to", "int8", "bytes"}]."""
        rows = []
        for folder in self.workspace.folders(EXPORTS):
            note = read_json(folder / "studio.json")
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            row = {
                "name": folder.name,
                "model": note.get("model"),
                "to": note.get("to"),
                "int8": bool(note.get("int8")),
            }
            rows.append({**row, "bytes": size})
        return rows

    def folder_of(self, kind: str, name: str) -> Path:
        """Of a finished model or export."""
        return self.workspace.existing(MODELS if kind == "models" else EXPORTS, name)


def create_app(studio: Studio, token: str | None = None) -> FastAPI:
    """The application; it looks after the jobs while it runs.

    token: that every request to the API must carry, or the cookie for it; None = only requests addressed to this machine are
    answered (``serve.auth``).
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for left in studio.workspace.root.glob(".download-*.zip"):  # of a studio that was killed while it sent one
            left.unlink(missing_ok=True)
        studio.jobs.start()
        try:
            yield
        finally:
            studio.gate.draining = True
            await asyncio.to_thread(studio.jobs.stop)

    app = FastAPI(
        title="unias studio",
        version=version("unias"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    install(app)
    _install_ours(app)
    app.add_middleware(StudioGuard, token=token)
    app.add_middleware(Sealed)  # the last one added is the first one met
    _add_login(app, token)

    @app.get(f"{API}/state")
    def state() -> dict[str, Any]:
        return studio.state()

    add_photos(app, studio)
    add_jobs(app, studio)
    add_models(app, studio)
    if STATIC.is_dir():
        app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
    return app


def _add_login(app: FastAPI, token: str | None) -> None:
    @app.post(LOGIN)
    async def login(request: Request) -> Response:
        """{"token"} -> the cookie. Without a token there is nothing to sign in to."""
        if token is None:
            return JSONResponse({"needed": False})
        declared_length(request, MOST_OF_A_TOKEN)
        given = _token_of(await read_body(request, MOST_OF_A_TOKEN, PATIENCE))
        if not hmac.compare_digest(cookie_of(given), cookie_of(token)):
            raise Refusal(
                401, "unauthorized", "this is not the studio's token.", "It stands in the file of --token-file."
            )
        answer = JSONResponse({"needed": True})
        answer.set_cookie(COOKIE, cookie_of(token), httponly=True, samesite="strict", max_age=7 * 86400)
        return answer

    @app.get(LOGIN)
    def needed() -> dict[str, bool]:
        return {"needed": token is not None}


def _token_of(body: bytes) -> str:
    import json

    try:
        given = json.loads(body)["token"]
    except (ValueError, KeyError, TypeError):
        return ""
    return given.strip() if isinstance(given, str) and given.isascii() else ""


def _install_ours(app: FastAPI) -> None:
    """Errors of the package in the same form, and hints that fit the studio."""

    async def ours(_: Request, error: Exception) -> Response:
        status = 422 if isinstance(error, DataError) else 501 if isinstance(error, MissingError) else 400
        return JSONResponse({"error": str(error), "hint": "Mend what it names, then try again."}, status)

    async def of_the_framework(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail), "hint": "Reload the page."}, error.status_code, error.headers)

    app.add_exception_handler(UniasError, ours)
    app.add_exception_handler(HTTPException, of_the_framework)
