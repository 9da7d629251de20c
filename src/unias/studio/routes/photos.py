"""Photos: taken in, listed, shown, moved, taken out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response

from unias.serve.refusals import Refusal, in_time
from unias.serve.settings import MEGABYTE
from unias.serve.uploads import content_type, declared_length, limited, slow
from unias.studio.intake import Taken, beside_good, take

if TYPE_CHECKING:
    from unias.studio.app import Studio

API = "/studio/api"
MOST_FILES = 500  # of one request
MOST_FIELDS = 1000
MOST_BYTES = 512 * MEGABYTE
FIELD = "photo"
HOW = (
    "Send photos as parts 'photo' of a multipart form, their path in the file name; product and kind as fields, and as fields "
    "'sorted' the folders that hold a folder of good photos beside those of defects."
)
CACHED = {"Cache-Control": "private, max-age=60"}


class Ids(BaseModel):
    """Photos."""

    ids: list[str] = Field(max_length=10_000)


class Move(Ids):
    """Where they go."""

    product: str = Field("", max_length=200)
    kind: str = Field(max_length=200)


def add_photos(app: FastAPI, studio: Studio) -> None:
    """Their routes."""
    photos = studio.photos

    @app.post(f"{API}/photos")
    async def upload(request: Request) -> dict[str, Any]:
        """Each photo is looked at by itself: those that are none are named, the others stay."""
        if content_type(request) != "multipart/form-data":
            raise Refusal(415, "content_type", "photos come as multipart/form-data.", HOW)
        declared_length(request, MOST_BYTES)
        with in_time(studio.settings.upload_timeout, slow(studio.settings.upload_timeout)):
            parser = MultiPartParser(
                request.headers,
                limited(request, MOST_BYTES),
                max_files=MOST_FILES,
                max_fields=MOST_FIELDS,
                max_part_size=65536,
            )
            try:
                form = await parser.parse()
            except MultiPartException as error:
                raise Refusal(400, "multipart", f"the form cannot be read: {error.message}", HOW) from error
        try:
            product, kind = (str(form.get(name) or "").strip()[:200] for name in ("product", "kind"))
            # A drop comes in portions, which do not know of each other's folders: the page says them.
            named = [part.filename or "" for name, part in form.multi_items() if isinstance(part, UploadFile)]
            sorted_in = beside_good(named) | {str(one) for one in form.getlist("sorted")}
            found = Taken()
            for name, part in form.multi_items():
                if name != FIELD or not isinstance(part, UploadFile):
                    continue
                if (part.size or 0) > studio.settings.max_bytes:
                    most = studio.settings.max_bytes // MEGABYTE
                    found.refused.append({"name": (part.filename or "")[:300], "why": f"it is over {most} MiB."})
                    continue
                data = await part.read()
                await run_in_threadpool(
                    take, studio.workspace, part.filename or "", data, product, kind, studio.settings, found, sorted_in
                )
        finally:
            await form.close()
        return asdict(found)

    @app.get(f"{API}/photos")
    def understood() -> dict[str, Any]:
        return photos.understood()

    @app.get(f"{API}/photos/list")
    def listed(product: str = "", kind: str = "") -> list[dict[str, Any]]:
        return photos.listed(product, kind)

    @app.post(f"{API}/photos/check")
    def check() -> dict[str, Any]:
        return studio.jobs.add("check", {})

    @app.post(f"{API}/photos/present")
    def present(wish: Ids) -> dict[str, Any]:
        return {"ids": photos.present(wish.ids)}

    @app.post(f"{API}/photos/remove")
    def remove(wish: Ids) -> dict[str, Any]:
        return {"removed": photos.remove(wish.ids)}

    @app.post(f"{API}/photos/move")
    def move(wish: Move) -> dict[str, Any]:
        return {"ids": photos.move(wish.ids, wish.product.strip(), wish.kind.strip())}

    @app.get(f"{API}/photo")
    def photo(number: Annotated[str, Query(alias="id")]) -> Response:
        data, kind = photos.full(number)
        return Response(data, media_type=kind, headers=CACHED)

    @app.get(f"{API}/thumb")
    def thumb(number: Annotated[str, Query(alias="id")], side: int = 160) -> Response:
        return Response(photos.thumb(number, side), media_type="image/jpeg", headers=CACHED)
