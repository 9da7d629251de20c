"""A request's body to one photo's bytes, never more of them than allowed."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from unias.serve.refusals import Refusal, in_time
from unias.serve.settings import MEGABYTE, ServeSettings

FIELD = "image"
ENVELOPE = 16 * 1024  # bytes that a multipart body may have beside the photo
HOW = "Send one photo as the multipart field 'image', or its bytes as they are with Content-Type: image/png."
NUMBER = re.compile(r"[A-Za-z0-9._-]{1,64}")
RAW_TYPES = ("application/octet-stream", "image/")


class _InMemory(MultiPartParser):
    """The gate has made room for these bytes: no second copy on disk."""

    spool_max_size = sys.maxsize


def declared_length(request: Request, most: int) -> int:
    """What Content-Length says, ``most`` where it says nothing. Raises Refusal 413 where it is more than that."""
    text = request.headers.get("content-length")
    if text is None:
        return most
    if not (text.isascii() and text.isdigit()):
        raise Refusal(
            400, "http", f"Content-Length: {text[:20]!r} is not a number.", "Send the body's length in bytes."
        )
    length = int(text[:20])
    if length > most:
        raise too_large(most)
    return length


def too_large(most: int) -> Refusal:
    """The body is over the limit."""
    return Refusal(
        413,
        "too_large",
        f"the body is over this server's limit of {most / MEGABYTE:.3g} MiB.",
        "Send a smaller file, or start the server with a higher --max-mib.",
    )


def slow(seconds: float) -> Refusal:
    """The body takes too long."""
    hint = "Send it faster, or start the server with a longer --upload-timeout."
    return Refusal(408, "slow_upload", f"the body was not there after {seconds:g} s.", hint)


def request_number(request: Request) -> str:
    """The caller's X-Request-Id where it is up to 64 letters, digits, dots, dashes or underscores; else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if NUMBER.fullmatch(given) else uuid.uuid4().hex


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """All of it. Raises Refusal: 413 over ``most`` bytes, 408 where it takes longer than ``seconds``."""
    with in_time(seconds, slow(seconds)):
        return b"".join([chunk async for chunk in limited(request, most)])


async def read_photo(request: Request, settings: ServeSettings) -> bytes:
    """The one photo of a request. Raises Refusal 400, 408, 413 or 415."""
    kind = content_type(request)
    if kind == "multipart/form-data":
        with in_time(settings.upload_timeout, slow(settings.upload_timeout)):
            data = await _from_form(request, settings)
    elif kind.startswith(RAW_TYPES):
        data = await read_body(request, settings.max_bytes, settings.upload_timeout)
    else:
        said = f"Content-Type: {kind[:80]!r} is not a photo's" if kind else "there is no Content-Type"
        raise Refusal(415, "content_type", f"{said}.", HOW)
    if not data:
        raise Refusal(400, "empty", "the photo has no bytes.", HOW)
    return data


def body_limit(request: Request, settings: ServeSettings) -> int:
    """Bytes that the body may have."""
    more = ENVELOPE if content_type(request) == "multipart/form-data" else 0
    return settings.max_bytes + more


def content_type(request: Request) -> str:
    """Lower case, without its parameters; "" where there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _from_form(request: Request, settings: ServeSettings) -> bytes:
    stream = limited(request, settings.max_bytes + ENVELOPE)
    parser = _InMemory(request.headers, stream, max_files=1, max_fields=1, max_part_size=ENVELOPE)
    try:
        parts = (await parser.parse()).multi_items()
        if len(parts) != 1 or parts[0][0] != FIELD or not isinstance(parts[0][1], UploadFile):
            named = ", ".join(repr(name[:40]) for name, _ in parts) or "none"
            raise Refusal(
                400,
                "multipart",
                f"the form must have one file, in the field {FIELD!r}; it has the fields: {named}.",
                f"{HOW} Everything else goes into the query: /v1/inspect?product=NAME&mask=png",
            )
        data = await parts[0][1].read()
    except MultiPartException as error:
        raise Refusal(400, "multipart", f"the multipart body cannot be read: {error.message}", HOW) from error
    finally:
        for file in parser._files_to_close_on_error:  # a form that ends early leaves one open that is no part yet
            file.close()
    if len(data) > settings.max_bytes:
        raise too_large(settings.max_bytes)
    return data


async def limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body piece by piece. Raises Refusal 413 where it is over ``most`` bytes."""
    taken = 0
    async for chunk in request.stream():
        taken += len(chunk)
        if taken > most:
            raise too_large(most)
        yield chunk
