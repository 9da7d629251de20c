"""The application: its paths, and what every request goes through on its way to them.

counted and timed (metrics) -> allowed to ask (auth) -> let in (gate) -> read (uploads) -> judged (service) -> written (answers)
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse, JSONResponse, Response

from unias.serve.answers import answer, as_json, product_of
from unias.serve.auth import Guard
from unias.serve.metrics import MEDIA_TYPE, Measured
from unias.serve.oip import oip_routes
from unias.serve.refusals import in_time, install, too_late
from unias.serve.schema import Inspection, Problem, Products, Wishes
from unias.serve.service import Service
from unias.serve.uploads import FIELD, body_limit, declared_length, read_photo, request_number

ASSETS = "/docs/assets"
FORMATS = ("image/png", "image/jpeg", "image/bmp", "image/tiff", "application/octet-stream")
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "string", "format": "binary", "description": "One photo."}},
            }
        },
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS},
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "No photo, or a body that cannot be read."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    403: {"model": Problem, "description": "There is no token, and the request is not from and to this machine."},
    408: {"model": Problem, "description": "The upload took too long."},
    413: {"model": Problem, "description": "Too many bytes or pixels."},
    415: {"model": Problem, "description": "None of PNG, JPEG, BMP, TIFF."},
    422: {"model": Problem, "description": "A broken photo, an unknown product, a parameter that is none."},
    429: {"model": Problem, "description": "The queue is full: come back after Retry-After seconds."},
    503: {"model": Problem, "description": "The server is stopping."},
    504: {"model": Problem, "description": "Not done in time."},
}


def create_app(service: Service, token: str | None = None) -> FastAPI:
    """The service over HTTP; it starts and stops with the application.

    token: that every request must carry; None = only requests addressed to this machine are answered (``auth``).
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="unias",
        version=version("unias"),
        description="Photos in, verdicts, masks and maps out.",
        lifespan=lifespan,
        dependencies=[] if token is None else [Depends(HTTPBearer(auto_error=False))],  # a field for it at /docs
        docs_url=None,
        redoc_url=None,
    )
    install(app)
    app.add_middleware(Guard, token=token)  # the last one added is the first one met
    app.add_middleware(Measured, metrics=service.metrics)
    _add_docs(app)
    _add_health(app, service)
    _add_inspection(app, service)
    app.include_router(oip_routes(service))
    return app


def _add_inspection(app: FastAPI, service: Service) -> None:
    settings = service.settings

    @app.post(
        "/v1/inspect",
        tags=["inspection"],
        summary="Inspect one photo",
        openapi_extra={"requestBody": BODY},
        responses={200: {"model": Inspection}, **PROBLEMS},
        response_model=None,
    )
    async def inspect(request: Request, wishes: Annotated[Wishes, Query()]) -> Response:
        """The verdict, the scores, the marked regions and the mask of one photo. Photos of several requests are judged
        together, so many at once cost less than one after the other."""
        service.check_product(wishes.product)
        number = request_number(request)
        with service.gate.enter(declared_length(request, body_limit(request, settings))) as ticket:
            data = await read_photo(request, settings)
            with in_time(settings.timeout, too_late(settings.timeout)):
                result = await service.judge(data, wishes.product, ticket)
                body = await service.work(
                    lambda: as_json(answer(result, wishes.mask, wishes.map, number, service.about))
                )
        return Response(body, media_type="application/json", headers={"X-Request-Id": number})

    @app.get(
        "/v1/products",
        tags=["inspection"],
        summary="Products, their cuts and what these promise",
        responses={200: {"model": Products}, 401: PROBLEMS[401]},
        response_model=None,
    )
    async def products() -> Response:
        """With counts of photos, and whether the last passed parts still look like the held-out ones."""
        drifts = service.metrics.look()
        listed = [product_of(one, drifts[one.name]) for one in service.model.products]
        return Response(as_json({"model": service.about, "products": listed}), media_type="application/json")


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], summary="Whether the process lives", response_model=None)
    async def healthz() -> Response:
        """503 where the model's thread has died: start the server again."""
        return _state(service.batcher.working, "alive", "the model's thread has ended")

    @app.get("/readyz", tags=["health"], summary="Whether a photo would be taken now", response_model=None)
    async def readyz() -> Response:
        """503 while the server is stopping."""
        return _state(service.ready, "ready", "stopping" if service.gate.draining else "the model's thread has ended")

    @app.get("/metrics", tags=["health"], summary="Numbers for Prometheus", response_model=None)
    async def metrics() -> Response:
        """Text in Prometheus's format."""
        return Response(service.metrics.page(), media_type=MEDIA_TYPE)


def _state(good: bool, word: str, otherwise: str) -> JSONResponse:
    return JSONResponse({"status": word if good else otherwise}, 200 if good else 503)


def _add_docs(app: FastAPI) -> None:
    """Swagger UI from the package fastapi-offline: FastAPI's own page loads it from a CDN, which a factory does not reach."""
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="unias",
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS}/favicon.png",
        )
