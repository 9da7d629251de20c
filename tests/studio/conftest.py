"""Studios in the test's own process, with the tiny model and its photos in their folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from studio_running import HERE, MODEL, Open, Running

from unias.config import Config, dump_config
from unias.studio.app import Studio, create_app


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty studio's folder."""
    return tmp_path / "Werkstatt für alle"


@pytest.fixture
def full_home(home: Path, tiny_data: Path, model_folder: Path, tiny_config: Config) -> Path:
    """A studio's folder with the tiny model and the photos that it was trained on."""
    shutil.copytree(tiny_data, home / "photos")
    shutil.copytree(model_folder, home / "models" / MODEL)
    (home / "settings.yaml").write_text(dump_config(tiny_config), encoding="utf-8")
    return home


@pytest.fixture
def open_studio() -> Open:
    """with open_studio(folder, token=..., command=...) as running; jobs do not start by themselves where ``still``."""

    @contextlib.contextmanager
    def run(
        folder: Path,
        token: str | None = None,
        command: tuple[str, ...] | None = None,
        still: bool = False,
        **wishes: Any,
    ) -> Iterator[Running]:
        studio = Studio(folder, **wishes)
        if command is not None:
            studio.jobs.command = command
        if still:
            studio.jobs.start = studio.jobs.stop = lambda: None  # type: ignore[method-assign]
        with TestClient(create_app(studio, token), base_url=HERE) as client:
            yield Running(client, studio)

    return run


@pytest.fixture
def running(open_studio: Open, full_home: Path) -> Iterator[Running]:
    """A studio with the tiny model, whose jobs wait."""
    with open_studio(full_home, still=True) as started:
        yield started


@pytest.fixture
def judged(running: Running) -> Running:
    """The same after all photos were judged."""
    from unias.progress import Progress
    from unias.studio.child.judging import judge_all

    judge_all(running.studio.workspace, MODEL, Progress("silent"))
    return running
