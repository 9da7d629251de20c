"""Servers of the tiny model, and photos that it passes and fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving import HERE, VERSION, Running, Serve, product_of

from unias.inference.predictor import Model
from unias.serve.app import create_app
from unias.serve.service import Service
from unias.serve.settings import ServeSettings


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
            yield Running(client, service, app)

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
    """A photo that the tiny model passes, and not by a hair: those that its cuts rest on lie on them to rounding."""
    photos = sorted(tiny_data.glob("*/train/good/*.png"))
    return next(photo for photo in photos if (found := model.predict(photo)).ok and found.pred_score < 0.49)
