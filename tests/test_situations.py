"""Products known or unknown, in training and in use: all four."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unias

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(make_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough photos of each product for a word on what is no product at all."""
    folder: Path = make_data(tmp_path_factory.mktemp("situations") / "photos", train=48)
    return folder


@pytest.fixture(scope="module")
def config(tiny_config: Any) -> Any:
    train = dataclasses.replace(tiny_config.train, steps=2)
    return dataclasses.replace(tiny_config, train=train, maps=dataclasses.replace(tiny_config.maps, drawn=0))


@pytest.fixture(scope="module")
def model(data: Path, config: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return unias.train(data, tmp_path_factory.mktemp("model") / "model", config=config, device="cpu", threads=1)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of nothing that was trained on."""
    rows, columns = np.mgrid[0:96, 0:96]
    pixels = np.stack([(rows * 2) % 256, (columns * 2) % 256, (rows * columns) % 256], axis=2).astype(np.uint8)
    path = tmp_path_factory.mktemp("stranger") / "stranger.png"
    Image.fromarray(pixels).save(path)
    return path


def test_known_in_both(model: Any, data: Path) -> None:
    for product in model.products:
        photo = next((data / product.name / "test" / "hole").glob("*.png"))
        said = model.predict(photo, product=product.name)
        assert (said.product, said.product_known) == (product.name, True)


def test_known_in_training_and_found_out_in_use(model: Any, data: Path, stranger: Path) -> None:
    for product in model.products:
        for photo in sorted((data / product.name / "test").rglob("*.png")):
            found = model.predict(photo)
            assert found.product == product.name, photo
            assert found.verdict in ("ok", "defect")
    unknown = model.predict(stranger)
    assert (unknown.product, unknown.product_known, unknown.ok) == (None, False, False)
    assert unknown.verdict == "unknown product"
    assert not unknown.model_mask.any()
    assert unknown.p_value is None
    assert unknown.nearest in [product.name for product in model.products]
    told = model.predict(stranger, product=model.products[0].name)  # whoever says what it is is believed
    assert told.product == model.products[0].name


def test_a_stranger_is_never_a_silent_pass(model: Any, stranger: Path, data: Path, cli: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    (tmp_path / "in").mkdir()
    shutil.copy(stranger, tmp_path / "in")
    shutil.copy(next(data.glob("*/test/good/*.png")), tmp_path / "in" / "known.png")
    answer = cli("predict", tmp_path / "model", tmp_path / "in", "-o", tmp_path / "out", "--threads", 1)
    assert answer.code == 0, answer.err
    assert "(1 of no known product)" in answer.out
    lines = (tmp_path / "out" / "results.csv").read_text(encoding="utf-8").splitlines()
    rows = {Path(row["path"]).name: row for row in csv.DictReader(lines)}
    assert (rows["stranger.png"]["verdict"], rows["stranger.png"]["ok"]) == ("unknown product", "False")
    assert rows["stranger.png"]["product"] == ""
    with Image.open(tmp_path / "out" / rows["stranger.png"]["mask"]) as mask:
        assert not np.asarray(mask).any()


def test_unknown_in_training_told_and_found_out_in_use(data: Path, config: Any, stranger: Path, tmp_path: Path) -> None:
    """Groups of a heap are products like others: they can be said, and they are found out."""
    heap = tmp_path / "heap"
    heap.mkdir()
    for place, photo in enumerate(sorted(data.glob("*/train/good/*.png"))):
        shutil.copy(photo, heap / f"{place:03}.png")
    model = unias.train(heap, tmp_path / "model", config=config, group="auto", device="cpu", threads=1)
    names = [product.name for product in model.products]
    assert names == ["group 1", "group 2"]
    found = set()
    for product in sorted(path for path in data.iterdir() if path.is_dir()):
        own = {model.predict(photo).product for photo in sorted((product / "test" / "good").glob("*.png"))}
        assert len(own) == 1
        found |= own
        said = model.predict(next((product / "test" / "good").glob("*.png")), product=next(iter(own)))
        assert said.product in names
    assert found == set(names)
    assert model.predict(stranger).product is None
