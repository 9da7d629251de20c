"""What the tests of benches share: tiny stand-ins for ``paper`` and ``small``, and measurements without fresh processes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from unias.config import BackboneConfig, Config, MapConfig, ModelConfig, TrainConfig


@pytest.fixture(scope="session")
def tiny_paper() -> Config:
    """The architecture of ``paper``, three-convolution heads and two-step patch embedding included, at 128 pixels."""
    return Config(
        preset="paper",
        size=128,
        backbone=BackboneConfig("tf_efficientnet_lite0", "random"),
        model=ModelConfig(width=32, ffn=64, encoder_layers=1, fpn_widths=(32, 32, 16, 16), patch_widths=(16, 24, 32)),
        maps=MapConfig(),
        train=TrainConfig(precision="32-true"),
    )


@pytest.fixture(scope="session")
def configs(tiny_paper: Config, tiny_config: Config) -> dict[str, Config]:
    small = dataclasses.replace(
        tiny_config,
        backbone=BackboneConfig("tf_efficientnet_lite0", "random"),
        model=dataclasses.replace(tiny_config.model, levels=(4, 2), dropout=0.0),
    )
    return {"paper": tiny_paper, "small": small}


@pytest.fixture(scope="session")
def paper_folder(tiny_paper: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny paper with random weights. Nobody changes it."""
    from unias.bench.subjects import random_subject

    return random_subject("paper", tiny_paper, tmp_path_factory.mktemp("bench"), None).folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Probes answer in this process, through JSON as they would from another; the requests, in order."""
    from unias.bench import probe
    from unias.files import json_ready

    asked: list[dict[str, Any]] = []

    def ask(task: str, **request: Any) -> dict[str, Any]:
        asked.append({"task": task, **request})
        return json.loads(json.dumps(probe.answer(json.loads(json.dumps(json_ready(asked[-1]))))))  # type: ignore[no-any-return]

    for user in ("speed", "scale"):
        monkeypatch.setattr(f"unias.bench.{user}.in_fresh_process", ask)
    return asked


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of the command line is not timed again in each test, and the machine is rated by a small convolution."""
    from unias.bench.rate import Convolution

    class Small(Convolution):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.image = self.image[..., :16, :16]

    monkeypatch.setattr("unias.bench.speed.Convolution", Small)
    found = {"seconds": {"help": 0.2, "torch": 2.0}, "share": 0.1, "rounds": 1}
    monkeypatch.setattr("unias.bench.speed.measure_startup", lambda rounds: found)
