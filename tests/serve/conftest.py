"""Servers of the tiny model, inside the test's own process: requests go through all but sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from unias.inference.predictor import Model
from unias.serve.app import create_app
from unias.serve.service import Service
from unias.serve.settings import ServeSettings

VERSION = "0" * 64
HERE = "http://127.0.0.1"


@dataclasses.dataclass
class Running:
    """A server and a way to ask it."""

    client: TestClient
    service: Service

    def metric(self, name: str, **labels: str) -> float:
        """A number as Prometheus would read it; 0 where it has not been counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


Serve = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def serve(model: Model) -> Serve:
    """with serve(queue=1, token="...", model=...) as running."""

    @contextlib.contextmanager
    def run(
        token: str | None = None, model: Model = model, name: str = "tiny", raising: bool = True, **wishes: Any
    ) -> Iterator[Running]:
        service = Service(model, ServeSettings(**wishes), name, VERSION)
        app = create_app(service, token)
        with TestClient(app, base_url=HERE, raise_server_exceptions=raising) as client:
            yield Running(client, service)

    return run


@pytest.fixture(scope="module")
def running(serve: Serve) -> Iterator[Running]:
    with serve() as started:
        yield started


@pytest.fixture(scope="session")
def photos(tiny_data: Path) -> list[Path]:
    """Good and defective ones of both products."""
    return sorted(tiny_data.glob("*/test/*/*.png"))


@pytest.fixture(scope="session")
def defective(model: Model, photos: list[Path]) -> Path:
    """A photo that the tiny model fails where it is told the product; by itself it does not know these photos."""
    return next(photo for photo in photos if not model.predict(photo, product=product_of(photo)).ok)


@pytest.fixture(scope="session")
def good(model: Model, tiny_data: Path) -> Path:
    """A photo that the tiny model passes: there is always one among those that its cuts rest on."""
    return next(photo for photo in sorted(tiny_data.glob("*/train/good/*.png")) if model.predict(photo).ok)


def product_of(photo: Path) -> str:
    """By its folder."""
    return photo.parts[-4]


def encoded(pixels: np.ndarray, kind: str = "PNG", **wishes: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **wishes)
    return buffer.getvalue()
