"""Models: their cuts, their answers, reviews, downloads."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Query
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from unias.errors import DataError
from unias.files import json_ready
from unias.serve.refusals import Refusal
from unias.studio.workspace import MODELS

if TYPE_CHECKING:
    from unias.studio.app import Studio

API = "/studio/api"
MODEL = f"{API}/models/{{name}}"


class CutWish(BaseModel):
    """Where the cut of a product goes: to its k-th largest held-out score."""

    product: str
    k: int


class Verdict(BaseModel):
    """A person's; null takes it back."""

    id: str
    label: Literal["good", "defect"] | None


class Recalibration(BaseModel):
    """Of one product, or of all."""

    product: str | None = None


def add_models(app: FastAPI, studio: Studio) -> None:
    """Their routes."""
    shelf, reviews = studio.shelf, studio.reviews
    _add_downloads(app, studio)

    @app.get(MODEL)
    def about(name: str) -> Any:
        return json_ready(shelf.about(name))

    @app.get(f"{MODEL}/scores")
    def scores(name: str, product: str) -> Any:
        return json_ready(shelf.scores(name, product))

    @app.post(f"{MODEL}/cut")
    def cut(name: str, wish: CutWish) -> Any:
        return json_ready(shelf.set_cut(name, wish.product, wish.k))

    @app.get(f"{MODEL}/inspect")
    def inspect(name: str, number: Annotated[str, Query(alias="id")]) -> Any:
        return json_ready(shelf.inspected(name, number))

    @app.get(f"{MODEL}/layer.png")
    def layer(name: str, number: Annotated[str, Query(alias="id")], layer: str = "map") -> Response:
        return Response(shelf.layer(name, number, layer), media_type="image/png", headers={"Cache-Control": "no-store"})

    @app.get(f"{MODEL}/list")
    def listed(name: str, product: str = "", which: Literal["all", "failed", "passed"] = "all") -> Any:
        rows = shelf.judged_views(name, product)
        kept = [row for row in rows if which == "all" or row["ok"] is (which == "passed")]
        return json_ready(kept)

    @app.get(f"{MODEL}/review")
    def borderline(name: str, product: str = "") -> Any:
        return json_ready(reviews.borderline(name, product))

    @app.post(f"{MODEL}/review")
    def review(name: str, verdict: Verdict) -> Any:
        studio.workspace.existing(MODELS, name)
        return reviews.say(name, verdict.id, verdict.label)

    @app.post(f"{MODEL}/recalibrate")
    def recalibrate(name: str, wish: Recalibration | None = None) -> Any:
        return json_ready(reviews.recalibrate(name, (wish.product if wish else None) or ""))

    @app.post(f"{MODEL}/judge")
    def judge(name: str) -> dict[str, Any]:
        studio.workspace.existing(MODELS, name)
        return studio.jobs.add("judge", {"model": name})


def _add_downloads(app: FastAPI, studio: Studio) -> None:
    @app.get(f"{API}/exports")
    def exports() -> list[dict[str, Any]]:
        return studio.exports()

    @app.get(f"{API}/{{kind}}/{{name}}/download")
    def download(kind: str, name: str) -> Response:
        if kind not in ("models", "exports"):
            raise Refusal(404, "missing", f"there is no {kind[:40]!r} here.", "Reload the page.")
        folder = studio.folder_of(kind, name)
        packed = zipped(folder, studio.workspace.root)
        done = BackgroundTask(packed.unlink, missing_ok=True)
        return FileResponse(packed, media_type="application/zip", filename=f"{name}.zip", background=done)


def zipped(folder: Path, home: Path) -> Path:
    """A folder as one .zip under a temporary name in ``home``, its files below the folder's own name; weights do not shrink, so
    they are stored as they are. Raises DataError where it cannot be written."""
    handle, name = tempfile.mkstemp(prefix=".download-", suffix=".zip", dir=home)
    os.close(handle)
    packed = Path(name)
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, f"{folder.name}/{file.relative_to(folder).as_posix()}")
    except OSError as error:
        packed.unlink(missing_ok=True)
        raise DataError(f"{home}: the download cannot be packed there ({error.strerror}). Free some space.") from error
    return packed
