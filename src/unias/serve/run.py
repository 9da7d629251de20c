"""The process: an address, a server on it, and an end that leaves nobody without an answer.

SIGTERM or Ctrl-C: not ready any more, new photos are refused with 503, those taken in are answered, then the process ends. A
second one ends it without grace, a third one whatever is open.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from unias.errors import UsageError
from unias.serve.gate import Gate

CONNECTIONS = 1000  # open at once; more are answered with 503
SLACK = 5.0  # seconds that a client may take to read its last answer
QUIET = ("PIL", "tifffile")  # they log what is wrong with strangers' files


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, not listening yet. port: 0 = any free one. Raises UsageError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: is not an address of this machine ({error}). Use 127.0.0.1.") from error
    try:
        if os.name == "posix":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise UsageError(
            f"--host {host} --port {port}: cannot be used ({error.strerror or error}). Another server may have it: choose "
            "another --port, or 0 for any free one."
        ) from error
    return found


def url_of(bound: socket.socket) -> str:
    """http://ADDRESS:PORT."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Ends when nothing is left to answer."""

    def __init__(self, config: uvicorn.Config, gate: Gate, grace: float, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.gate = gate
        self.grace = grace
        self.announce = started
        self.asked: list[int] = []
        self.not_before = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says when it listens."""
        await super().startup(sockets)
        if self.started:
            self.announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not uvicorn's, which stops listening at once and lets the signal end the process when it is done."""
        self.asked.append(sig)
        if len(self.asked) == 1:
            self.gate.draining = True
            self.not_before = time.monotonic() + self.grace
        self.should_exit = len(self.asked) > 1
        self.force_exit = len(self.asked) > 2

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second."""
        if self.asked and self.gate.photos == 0 and time.monotonic() >= self.not_before:
            self.should_exit = True
        return await super().on_tick(counter)


def run_server(
    app: ASGIApp,
    bound: socket.socket,
    gate: Gate,
    *,
    grace: float = 0.0,
    access_log: bool = False,
    started: Callable[[], None] = lambda: None,
) -> int:
    """Serve until a signal; returns which one ended it.

    Args:
        started: called when the first request would be answered.

    Raises SystemExit where the application cannot start.
    """
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Warnings that quote what they found are kept one by one, so that none comes twice: strangers could fill the memory.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    config = uvicorn.Config(
        app,
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(SLACK)),
        ws="none",
    )
    server = _Server(config, gate, grace, started)
    server.run([bound])
    return server.asked[0] if server.asked else signal.SIGTERM
