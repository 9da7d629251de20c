"""What a server may be asked for and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

from unias.errors import UsageError

MEGABYTE = 2**20


@dataclass(frozen=True)
class ServeSettings:
    """The limits of one server. Raises UsageError for values that cannot be.

    Attributes:
        max_bytes: of one photo's file.
        max_pixels: width x height of one photo, read from its header before anything is decoded.
        queue: photos let in and not yet answered; one more is told to come back later.
        held_bytes: of all uploads in memory together; a request that says no length counts as ``max_bytes``.
        batch: photos that go through the model at once, at most.
        linger: seconds that a batch waits for photos which are being decoded, at most.
        timeout: seconds from an upload's last byte to its answer.
        upload_timeout: seconds that an upload may take.
        decoders: threads that decode photos and write masks.
        grace: seconds between the wish to stop and the end, in which a load balancer can see that this server is not ready.
    """

    max_bytes: int = 32 * MEGABYTE
    max_pixels: int = 32_000_000
    queue: int = 64
    held_bytes: int = 256 * MEGABYTE
    batch: int = 8
    linger: float = 0.003
    timeout: float = 30.0
    upload_timeout: float = 60.0
    decoders: int = 2
    grace: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "queue", "batch", "decoders"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: {getattr(self, name)} must be at least 1.")
        for name in ("timeout", "upload_timeout"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}: {getattr(self, name)} must be above 0 seconds.")
        if self.linger < 0 or self.grace < 0:
            raise UsageError("linger and grace: must not be below 0 seconds.")
        if self.held_bytes < 2 * self.max_bytes:
            raise UsageError(
                f"held_bytes: {self.held_bytes} does not hold one photo of {self.max_bytes} bytes in base64. Allow more."
            )
