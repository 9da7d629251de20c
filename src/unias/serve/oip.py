"""The Open Inference Protocol (version 2, REST), as KServe, Triton and OpenVINO Model Server speak it: a thin adapter.

One input ``image`` of type BYTES, shape [N], the photos' files in base64; beside it, where wished, an input ``product`` of
type BYTES, shape [N], "" = to be recognised. The binary extension is not spoken.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import JSONResponse, Response

from unias.inference.result import Result
from unias.serve.answers import as_json, png, text_of
from unias.serve.gate import Ticket
from unias.serve.refusals import Refusal, faults, in_time, too_late
from unias.serve.service import Service
from unias.serve.uploads import declared_length, read_body

ENVELOPE = 64 * 1024  # bytes of a body beside base64
MOST_MARKS = 10_000  # brackets and commas of a body: base64 has none, and each costs far more memory than it is long
HINT = "The body is described in docs/serve.md and at /docs."
Name = Annotated[str, Path(max_length=500)]
NO_P_VALUE = -1.0  # the protocol has no null


class InputTensor(BaseModel):
    """One input."""

    name: str
    shape: list[int]
    datatype: str
    data: list[str] | list[list[str]]


class OutputWish(BaseModel):
    """One output asked for."""

    name: str


class InferRequest(BaseModel):
    """The body of an inference."""

    id: str | None = Field(None, max_length=200)
    inputs: list[InputTensor]
    outputs: list[OutputWish] | None = Field(None, description="Left out or empty: all of them.")


@dataclass(frozen=True)
class _Output:
    """How one output is made of a Result. ``shape``: of one photo's value, -1 where it varies."""

    datatype: str
    value: Callable[[Result], Any]
    shape: tuple[int, ...] = ()


def _outputs(size: int) -> dict[str, _Output]:
    return {
        "verdict": _Output("BYTES", lambda one: one.verdict),
        "ok": _Output("BOOL", lambda one: bool(one.ok)),
        "product": _Output("BYTES", lambda one: one.product or ""),
        "pred_score": _Output("FP64", lambda one: one.pred_score),
        "p_value": _Output("FP64", lambda one: NO_P_VALUE if one.p_value is None else one.p_value),
        "raw_score": _Output("FP64", lambda one: one.raw_score),
        "cut": _Output("FP64", lambda one: one.cut),
        "mask": _Output("BYTES", lambda one: text_of(png(one.pred_mask))),
        "anomaly_map": _Output("FP32", lambda one: one.model_map.reshape(-1).tolist(), (size, size)),
    }


def oip_routes(service: Service) -> APIRouter:
    """Everything below /v2."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    outputs = _outputs(service.model.config.input_size)

    @routes.get("", summary="Server metadata", response_model=None)
    async def server() -> Response:
        """Name, version, extensions (none)."""
        return JSONResponse({"name": "unias", "version": version("unias"), "extensions": []})

    @routes.get("/health/live", summary="Whether the server lives", response_model=None)
    async def live() -> Response:
        """By the status."""
        alive = service.batcher.working
        return JSONResponse({"live": alive}, 200 if alive else 503)

    @routes.get("/health/ready", summary="Whether it takes photos", response_model=None)
    async def ready() -> Response:
        """By the status."""
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @routes.get("/models/{model}/ready", summary="Whether the model takes photos", response_model=None)
    @routes.get("/models/{model}/versions/{number}/ready", include_in_schema=False, response_model=None)
    async def model_ready(model: Name, number: Name | None = None) -> Response:
        """By the status."""
        _check_name(service, model, number)
        return JSONResponse({"name": service.name, "ready": service.ready}, 200 if service.ready else 503)

    @routes.get("/models/{model}", summary="Model metadata", response_model=None)
    @routes.get("/models/{model}/versions/{number}", include_in_schema=False, response_model=None)
    async def metadata(model: Name, number: Name | None = None) -> Response:
        """Inputs and outputs."""
        _check_name(service, model, number)
        return JSONResponse(
            {
                "name": service.name,
                "versions": [service.version],
                "platform": "unias",
                "inputs": [{"name": key, "datatype": "BYTES", "shape": [-1]} for key in ("image", "product")],
                "outputs": [
                    {"name": key, "datatype": one.datatype, "shape": [-1, *one.shape]} for key, one in outputs.items()
                ],
            }
        )

    body = {"required": True, "content": {"application/json": {"schema": _described()}}}

    @routes.post(
        "/models/{model}/infer", summary="Inspect photos", response_model=None, openapi_extra={"requestBody": body}
    )
    @routes.post("/models/{model}/versions/{number}/infer", include_in_schema=False, response_model=None)
    async def infer(request: Request, model: Name, number: Name | None = None) -> Response:
        """The photos of one request are judged together; one that cannot be decoded refuses the request."""
        _check_name(service, model, number)
        settings = service.settings
        most = settings.max_bytes * 4 // 3 + ENVELOPE
        with service.gate.enter(declared_length(request, most)) as ticket:
            text = await read_body(request, most, settings.upload_timeout)
            with in_time(settings.timeout, too_late(settings.timeout)):
                asked = await service.work(lambda: _parsed(text))
                wanted = _wanted(asked, outputs)
                files, products = await service.work(
                    lambda: _photos(asked, min(settings.batch, settings.queue), settings.max_bytes)
                )
                for product in products:
                    service.check_product(product)
                ticket.more(len(files) - 1)
                results = await _judged(service, files, products, ticket)
                answer = await service.work(lambda: as_json(_answer(service, asked, wanted, outputs, results)))
        return Response(answer, media_type="application/json")

    return routes


def _described() -> dict[str, Any]:
    """The body's schema in one piece: references into it would be looked up in the whole document."""
    schema = InferRequest.model_json_schema()
    parts = schema.pop("$defs")

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix("#/$defs/")
            return whole(parts[name]) if name else {key: whole(item) for key, item in value.items()}
        return [whole(item) for item in value] if isinstance(value, list) else value

    described: dict[str, Any] = whole(schema)
    return described


def _check_name(service: Service, model: str, number: str | None) -> None:
    if model != service.name or number not in (None, service.version):
        raise Refusal(
            404,
            "model",
            "there is no such model or version here.",
            f"This server has {service.name!r} {service.version}.",
        )


def _parsed(text: bytes) -> InferRequest:
    if sum(text.count(mark) for mark in (b"[", b"{", b",")) > MOST_MARKS:
        raise _bad("the body has more parts than any request needs.")
    try:
        return InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise _bad(faults(error.errors(include_url=False, include_input=False, include_context=False))) from error


def _wanted(asked: InferRequest, outputs: dict[str, _Output]) -> list[str]:
    wanted = [one.name for one in asked.outputs or ()] or list(outputs)
    if strangers := [name[:40] for name in wanted if name not in outputs]:
        raise _bad(f"outputs: {strangers[0]!r} is none of {', '.join(outputs)}.")
    return wanted


def _photos(asked: InferRequest, most: int, most_bytes: int) -> tuple[list[bytes], list[str | None]]:
    """Each photo's file and product."""
    given = {tensor.name: tensor for tensor in asked.inputs}
    if len(given) != len(asked.inputs) or not {"image"} <= set(given) <= {"image", "product"}:
        raise _bad("inputs: one named 'image' is needed, one named 'product' may be.")
    texts = _strings(given["image"])
    if not 1 <= len(texts) <= most:
        raise _bad(f"inputs: {len(texts)} photos; this server takes 1 to {most} in a request.")
    products = _strings(given["product"]) if "product" in given else [""] * len(texts)
    if len(products) != len(texts):
        raise _bad(f"inputs: {len(products)} products for {len(texts)} photos.")
    files = []
    for place, text in enumerate(texts):
        try:
            file = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _bad(f"image[{place}]: not base64 ({error}).") from error
        if not file or len(file) > most_bytes:
            raise _bad(f"image[{place}]: {len(file)} bytes; 1 to {most_bytes} are taken.")
        files.append(file)
    return files, [product or None for product in products]


def _strings(tensor: InputTensor) -> list[str]:
    """The values of a BYTES tensor of shape [N] or [N, 1], flat or nested."""
    flat = [text for row in tensor.data for text in ([row] if isinstance(row, str) else row)]
    if tensor.datatype != "BYTES" or tensor.shape not in ([len(flat)], [len(flat), 1]):
        raise _bad(f"inputs: {tensor.name!r} must be BYTES of the shape [{len(flat)}], as many as its data.")
    return flat


async def _judged(
    service: Service, files: Sequence[bytes], products: Sequence[str | None], ticket: Ticket
) -> list[Result]:
    photos = zip(files, products, strict=True)
    found = await asyncio.gather(
        *(service.judge(file, product, ticket) for file, product in photos), return_exceptions=True
    )
    results = []
    for place, one in enumerate(found):
        if isinstance(one, Refusal):
            raise Refusal(one.status, one.reason, f"image[{place}]: {one.error}", one.hint, one.headers)
        if isinstance(one, BaseException):
            raise one
        results.append(one)
    return results


def _answer(
    service: Service,
    asked: InferRequest,
    wanted: Sequence[str],
    outputs: dict[str, _Output],
    results: Sequence[Result],
) -> dict[str, Any]:
    tensors = []
    for name in wanted:
        output = outputs[name]
        values = [output.value(result) for result in results]
        data = [number for row in values for number in row] if output.shape else values
        tensor = {"name": name, "datatype": output.datatype, "shape": [len(results), *output.shape], "data": data}
        tensors.append(tensor)
    answer: dict[str, Any] = {"model_name": service.name, "model_version": service.version, "outputs": tensors}
    return answer if asked.id is None else {**answer, "id": asked.id}


def _bad(what: str) -> Refusal:
    return Refusal(400, "protocol", what, HINT)
