"""Who may come in: photos and bytes in memory are counted before a body is read, so that neither ever grows without bound.

Everything here belongs to the event loop's thread.
"""

from __future__ import annotations

import math
from types import TracebackType

from unias.serve.refusals import Refusal
from unias.serve.settings import ServeSettings

LONGEST_WAIT = 60  # seconds that a client is told to stay away, at most


class Gate:
    """Counts what is inside.

    Attributes:
        photos: let in and not yet answered.
        held: bytes of uploads in memory, or promised room there.
        coming: photos let in that do not wait for the model yet: on their way up, or being decoded.
        draining: nobody is let in any more; who is inside is answered.
        seconds_per_photo: lately, for telling when to come back.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.photos = 0
        self.held = 0
        self.coming = 0
        self.draining = False
        self.seconds_per_photo = 0.0

    def enter(self, size: int) -> Ticket:
        """Room for one photo and ``size`` bytes. Raises Refusal: 503 while draining, 429 where there is no room."""
        if self.draining:
            raise Refusal(
                503, "draining", "the server is stopping.", "Send it to another one.", {"Retry-After": str(self.wait)}
            )
        if self.held + size > self.settings.held_bytes:
            raise self.full(f"{self.held} bytes of photos are waiting already")
        ticket = Ticket(self, size)
        self.held += size
        try:
            ticket.more(1)
        except Refusal:
            ticket.leave()
            raise
        return ticket

    def full(self, what: str) -> Refusal:
        """The queue has no room."""
        again = {"Retry-After": str(self.wait)}
        return Refusal(429, "queue_full", f"the server is busy: {what}.", f"Try again in {self.wait} s.", again)

    @property
    def wait(self) -> int:
        """Seconds until those inside are likely to be answered, 1 to 60."""
        return min(LONGEST_WAIT, max(1, math.ceil(self.photos * self.seconds_per_photo)))


class Ticket:
    """One request's share of the gate; leaving it gives all back."""

    def __init__(self, gate: Gate, size: int) -> None:
        self.gate = gate
        self.size = size
        self.photos = 0
        self.coming = 0

    def more(self, photos: int) -> None:
        """Room for more photos of the same request. Raises Refusal 429."""
        inside = self.gate.photos
        if inside + photos > self.gate.settings.queue:
            raise self.gate.full(f"{inside} photos are waiting already")
        self.photos += photos
        self.gate.photos += photos
        self.coming += photos
        self.gate.coming += photos

    def arrived(self) -> None:
        """One of its photos waits for the model now."""
        self.coming -= 1
        self.gate.coming -= 1

    def leave(self) -> None:
        """All back; twice is once."""
        self.gate.held -= self.size
        self.gate.photos -= self.photos
        self.gate.coming -= self.coming
        self.size = self.photos = self.coming = 0

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
