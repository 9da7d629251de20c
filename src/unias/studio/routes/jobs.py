"""Jobs: asked for, watched, cancelled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from unias.serve.refusals import Refusal
from unias.studio.jobs import Jobs
from unias.studio.workspace import MODELS, PHOTOS

if TYPE_CHECKING:
    from unias.studio.app import Studio

API = "/studio/api"
TICK = 0.25  # seconds between looks, so at most four events a second and job
PING = 15.0  # seconds without an event after which a comment keeps the line open


class Train(BaseModel):
    """A model from the photos that are there."""

    kind: Literal["train"]
    name: str
    minutes: float = Field(10.0, ge=0.1, le=7 * 24 * 60)
    preset: Literal["small", "paper", "visa", "released"] = "small"
    false_alarms: float | None = Field(None, gt=0, lt=1)


class Export(BaseModel):
    """A model for another runtime."""

    kind: Literal["export"]
    model: str
    to: Literal["onnx", "openvino", "torch"]
    int8: bool = False


class Judge(BaseModel):
    """All test and new photos through a model."""

    kind: Literal["judge"]
    model: str


class Check(BaseModel):
    """Odd ones out and duplicates."""

    kind: Literal["check"]


Wish = Annotated[Train | Export | Judge | Check, Body(discriminator="kind")]


def add_jobs(app: FastAPI, studio: Studio) -> None:
    """Their routes."""
    jobs = studio.jobs

    @app.post(f"{API}/jobs")
    def add(wish: Wish) -> dict[str, Any]:
        check_wish(studio, wish)
        return jobs.add(wish.kind, wish.model_dump(exclude={"kind"}))

    @app.get(f"{API}/jobs")
    def listed() -> list[dict[str, Any]]:
        return jobs.all()

    @app.get(f"{API}/jobs/{{number}}")
    def one(number: str) -> dict[str, Any]:
        return jobs.one(number)

    @app.post(f"{API}/jobs/{{number}}/cancel")
    def cancel(number: str) -> dict[str, Any]:
        return jobs.cancel(number)

    @app.get(f"{API}/jobs/{{number}}/log")
    def log(number: str) -> Response:
        return PlainTextResponse(jobs.log(number))

    @app.get(f"{API}/events")
    async def watch() -> Response:
        stream = events(jobs, lambda: studio.gate.draining)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def check_wish(studio: Studio, wish: Train | Export | Judge | Check) -> None:
    """What can be said before a job waits in line. Raises Refusal."""
    if isinstance(wish, Train):
        if studio.workspace.named(MODELS, wish.name).exists():
            raise Refusal(409, "taken", f"there is a model {wish.name!r} already.", "Choose another name.")
        waiting = [
            job for job in studio.jobs.all() if job["state"] in ("waiting", "running") and job["kind"] == "train"
        ]
        if any(job["wishes"].get("name") == wish.name for job in waiting):
            raise Refusal(409, "taken", f"a model {wish.name!r} is being trained already.", "Choose another name.")
        if not studio.photos.ids("good"):
            raise Refusal(422, "nothing", f"there is no good photo in {PHOTOS}.", "Drop photos of good parts first.")
    elif isinstance(wish, (Export, Judge)):
        studio.workspace.existing(MODELS, wish.model)
        if isinstance(wish, Export) and wish.int8 and wish.to != "openvino":
            raise Refusal(422, "parameters", f"int8 is not for {wish.to}.", "Choose openvino for it.")


async def events(jobs: Jobs, stopping: Callable[[], bool], ping: float = PING) -> AsyncIterator[str]:
    """Server-sent events: every job that is open or has changed, from now on. Ends when the studio stops."""
    version, last = jobs.version, time.monotonic()
    yield "retry: 2000\n\n"
    for job in reversed(jobs.all()):
        if job["state"] in ("waiting", "running"):
            yield event(job)
    while not stopping():
        await asyncio.sleep(TICK)
        if version != jobs.version:
            version, changed = jobs.changed(version)
            for job in changed:
                yield event(job)
            last = time.monotonic()
        elif time.monotonic() - last >= ping:
            yield ": ping\n\n"
            last = time.monotonic()


def event(job: dict[str, Any]) -> str:
    """One job as an event."""
    return f"event: job\ndata: {json.dumps(job, ensure_ascii=False, allow_nan=False)}\n\n"
