"""``unias calibrate --refit``: the same weights, all else as training would fit it today."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import unias
from unias.files import sha256
from unias.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tiny_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose levels are fused as the preset says, all training photos drawn on."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    config = dataclasses.replace(tiny_config, maps=preset("small").maps)
    unias.train(tiny_data, folder, config=config, steps=4, device="cpu", threads=1)
    return folder


def same(one: Path, other: Path) -> bool:
    return all(sha256(one / name) == sha256(other / name) for name in ("model.safetensors", "products.safetensors"))


def test_it_finds_what_training_found(trained: Path, tiny_data: Path, tmp_path: Path, cli: Any) -> None:
    answer = cli("calibrate", trained, "--refit", "--data", tiny_data, "-o", tmp_path / "again", "--threads", "1", "-q")
    assert answer.code == 0, answer.err
    assert same(trained, tmp_path / "again")
    before, after = unias.load(trained, device="cpu"), unias.load(tmp_path / "again", device="cpu")
    assert after.products == before.products
    assert after.config == before.config
    assert after.record["refitted"]["data"] == tiny_data.name
    assert {key: value for key, value in after.record.items() if key != "refitted"} == before.record


def test_an_older_model_gets_todays_settings(trained: Path, tiny_data: Path, tmp_path: Path, cli: Any) -> None:
    """Statistics that are wrong, a fusion of other times: all of it is fitted anew, in place."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    model = unias.load(copy, device="cpu")
    statistics = model.detector.statistics
    with torch.no_grad():
        statistics.level_mean.fill_(7.0)
        statistics.wide.fill_(1.0)
    from unias.inference.store import StoredModel, save_model

    old = dataclasses.replace(model.config, maps=dataclasses.replace(model.config.maps, wide_sigma=0.0, drawn=0))
    save_model(copy, StoredModel(model.detector, old, model.products, dict(model.record)))
    assert not same(trained, copy)
    answer = cli("calibrate", copy, "--refit", "--data", tiny_data, "--threads", "1", "--json", "-q")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["products"] == [product.name for product in model.products]
    assert same(trained, copy)
    assert unias.load(copy, device="cpu").config.maps.wide_sigma == preset("small").maps.wide_sigma


def test_what_cannot_be(trained: Path, tiny_data: Path, tmp_path: Path, cli: Any) -> None:
    before = {path.name: sha256(path) for path in trained.iterdir()}
    for words in ((), ("--data", tiny_data, "--dry-run"), ("--data", tiny_data, "--false-alarms", "0.1")):
        answer = cli("calibrate", trained, "--refit", *words)
        assert answer.code == 2
        assert "--refit: needs --data" in answer.err
    empty = tmp_path / "other"
    shutil.copytree(tiny_data / "plaque gravée", empty / "plaque gravée")
    answer = cli("calibrate", trained, "--refit", "--data", empty)
    assert answer.code == 3
    assert "a photo that the model was trained on is not there" in answer.err
    other, foreign = tmp_path / "finished", tmp_path / "foreign"
    shutil.copytree(trained, other)
    foreign.mkdir()
    (foreign / "mine.txt").touch()
    for place, fault in ((other, "holds a finished model already"), (foreign, "is not empty and holds no model")):
        answer = cli("calibrate", trained, "--refit", "--data", tiny_data, "-o", place)
        assert answer.code == 3
        assert fault in answer.err
    assert {path.name: sha256(path) for path in trained.iterdir()} == before
