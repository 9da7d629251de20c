"""Everything that the server does not do for somebody, as one JSON object: {"error": what is wrong, "hint": what to do}."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

GONE = 499  # the client hung up: nobody reads this answer, it is for the metrics alone
HINTS = {
    404: "The paths are listed at /docs.",
    405: "The methods of each path are listed at /docs.",
}


class Refusal(Exception):
    """A request that ends here.

    Attributes:
        status: of HTTP, 4xx or 503 or 504.
        reason: one word for the metrics, of a fixed few.
    """

    def __init__(
        self, status: int, reason: str, error: str, hint: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.reason = reason
        self.error = error
        self.hint = hint
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """For HTTP."""
        return JSONResponse({"error": self.error, "hint": self.hint}, self.status, self.headers)


@contextlib.contextmanager
def in_time(seconds: float, late: Refusal) -> Iterator[None]:
    """Raise ``late`` where the block takes longer; it is cancelled then."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise late from error


def too_late(seconds: float) -> Refusal:
    """The answer was not there in time."""
    hint = "Send fewer photos at once, or start the server with a longer --timeout."
    return Refusal(504, "timeout", f"the photo was not judged within {seconds:g} s.", hint)


def install(app: FastAPI) -> None:
    """Every error of the app becomes such an object; its reason is left in ``request.state.refused``."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        request.state.refused = error.reason
        return error.response()

    async def of_the_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        request.state.refused = "http"
        hint = HINTS.get(error.status_code, "See /docs.")
        return JSONResponse({"error": str(error.detail), "hint": hint}, error.status_code, error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        request.state.refused = "parameters"
        return JSONResponse({"error": faults(error.errors()), "hint": "The parameters are listed at /docs."}, 422)

    async def hung_up(request: Request, error: Exception) -> Response:
        request.state.refused = "disconnected"
        return Response(status_code=GONE)

    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(
            {"error": "the server failed on this request.", "hint": "Its log says why; please report it."}, 500
        )

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, of_the_framework)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ClientDisconnect, hung_up)
    app.add_exception_handler(Exception, broken)


def faults(errors: Any) -> str:
    """Pydantic's list of errors as one sentence; what was sent is not repeated."""
    found = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in list(errors)[:5]]
    return "; ".join(found)
