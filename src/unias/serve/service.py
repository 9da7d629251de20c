"""One model at work for many callers: photos are decoded by a few threads, judged by one, answered in the order they are done.

bytes -> checked, decoded (threads) -> micro-batch (the model's own thread) -> verdict counted -> answer written (threads)
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from unias.errors import DataError
from unias.files import sha256
from unias.inference.predictor import Decoded, Model
from unias.inference.result import Result
from unias.serve.gate import Gate, Ticket
from unias.serve.metrics import Metrics
from unias.serve.photos import NAME, check_photo, undecodable
from unias.serve.queue import Batcher, QueueFull
from unias.serve.refusals import Refusal
from unias.serve.settings import ServeSettings

Outcome = TypeVar("Outcome")
MEMORY = 0.8  # of the average time a photo, kept at each batch


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A decoded photo and which product it shows, if anybody says so."""

    photo: Decoded
    product: str | None


class Service:
    """Starts and stops once.

    Args:
        name: of the model, as clients call it. version: the hash of its manifest.
    """

    def __init__(self, model: Model, settings: ServeSettings, name: str, version: str) -> None:
        self.model = model
        self.settings = settings
        self.name = name
        self.version = version
        self.gate = Gate(settings)
        self.metrics = Metrics(model.products, settings.batch, name, version)
        self.metrics.in_flight.set_function(lambda: self.gate.photos)
        self.metrics.held_bytes.set_function(lambda: self.gate.held)
        self.metrics.queue_depth.set_function(lambda: len(self.batcher))
        self.batcher: Batcher[_Wanted, Result] = Batcher(
            self._judge, settings.batch, settings.queue, settings.linger, lambda: self.gate.coming > 0, self._ran
        )
        self._threads = ThreadPoolExecutor(settings.decoders, thread_name_prefix="unias-photos")
        self._free: asyncio.Semaphore | None = None

    @classmethod
    def open(
        cls, folder: Path, settings: ServeSettings, device: str = "auto", precision: str = "float32", name: str = ""
    ) -> Service:
        """A trained or exported model's folder. Raises what ``Model.load`` raises."""
        model = Model.load(folder, device, precision)
        return cls(model, settings, name or folder.resolve().name, sha256(folder / "manifest.json"))

    @property
    def about(self) -> dict[str, Any]:
        """The model, in every answer."""
        return {"name": self.name, "version": self.version}

    async def start(self) -> None:
        """Begin to work; the model sees its first photo now, so that nobody waits for what it sets up."""
        import tifffile  # noqa: F401  # half a second, once, here

        self._free = asyncio.Semaphore(self.settings.decoders)
        self.batcher.start()
        side = self.model.config.input_size
        photo = self.model.decode(np.full((side, side, 3), 128, dtype=np.uint8))
        await asyncio.wrap_future(self.batcher.put(_Wanted(photo, None)))
        self.gate.seconds_per_photo = 0.0  # the first one says little of the others

    async def stop(self) -> None:
        """Finish what was taken in."""
        self.gate.draining = True
        await asyncio.to_thread(self.batcher.stop)
        await asyncio.to_thread(self._threads.shutdown)

    @property
    def ready(self) -> bool:
        """Whether a photo that comes now would be judged."""
        return self.batcher.working and not self.gate.draining

    def check_product(self, product: str | None) -> None:
        """Raises Refusal 422 for a product that the model does not know."""
        names = [one.name for one in self.model.products]
        if product is not None and product not in names:
            shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise Refusal(
                422,
                "product",
                f"product: {product[:80]!r} is not one of this model's.",
                f"Leave it out to have it recognised, or give one of: {shown}. /v1/products lists all.",
            )

    async def judge(self, data: bytes, product: str | None, ticket: Ticket) -> Result:
        """One photo's Result. Raises Refusal 413, 415 or 422 for one that is not decoded, 429 where the queue is full."""
        photo = await self.work(lambda: self._decode(data))
        try:
            waiting = self.batcher.put(_Wanted(photo, product))
        except QueueFull:
            raise self.gate.full("the queue is full") from None
        ticket.arrived()
        result = await asyncio.wrap_future(waiting)
        self.metrics.judged(result)
        return result

    async def work(self, task: Callable[[], Outcome]) -> Outcome:
        """Run something in one of the photos' threads.

        Whoever is given up while waiting for a thread leaves nothing behind; whoever is given up later keeps the thread until
        it is done, so that no more photos than threads are ever in the decoders.
        """
        assert self._free is not None
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        running = self._threads.submit(task)
        running.add_done_callback(lambda _: self._release(loop))
        return await asyncio.wrap_future(running)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._free is not None
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._free.release)

    def _decode(self, data: bytes) -> Decoded:
        check_photo(data, self.settings)
        try:
            return self.model.decode(data, name=NAME)
        except DataError as error:
            raise undecodable(error) from error

    def _judge(self, wanted: list[_Wanted]) -> list[Result]:
        return self.model.predict_decoded([one.photo for one in wanted], [one.product for one in wanted])

    def _ran(self, photos: int, seconds: float) -> None:
        self.metrics.ran(photos, seconds)
        average = self.gate.seconds_per_photo
        self.gate.seconds_per_photo = (
            MEMORY * average + (1 - MEMORY) * seconds / photos if average else seconds / photos
        )
