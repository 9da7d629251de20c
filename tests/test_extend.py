"""``unias extend``: a product more, with the old photos and without them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unias
from unias.data.decode import read_photo, to_display
from unias.errors import DataError, UsageError
from unias.extension import extend, joined
from unias.files import sha256
from unias.inference import rehearsal
from unias.progress import Progress
from unias.run.remembered import remembered

pytestmark = pytest.mark.usefixtures("one_thread")
OLD, NEW = "Dichtung groß", "plaque gravée"


@pytest.fixture(scope="module")
def parts(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The two products of the tiny data, each in a folder of its own."""
    home = tmp_path_factory.mktemp("parts")
    for name, folder in ((OLD, "old"), (NEW, "new")):
        shutil.copytree(tiny_data / name, home / folder / name)
    return home / "old", home / "new"


@pytest.fixture(scope="module")
def before(parts: tuple[Path, Path], tiny_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before") / "model"
    unias.train(parts[0], folder, config=tiny_config, steps=4, device="cpu", threads=1)
    return folder


def test_a_model_keeps_photos_as_it_saw_them(before: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    found = rehearsal.unpack(before / rehearsal.FILE, [OLD], tmp_path)
    assert [sample.key for sample in found[OLD]] == ["kept/0/000.png", "kept/0/001.png"]
    model = unias.load(before, device="cpu")
    first = parts[0] / model.products[0].train[0]
    expected = to_display(read_photo(first), 128)
    kept = read_photo(found[OLD][0].path).pixels
    assert kept.shape == expected.shape
    assert np.abs(kept.astype(float) - expected).mean() < 4  # of 255: as a JPEG of high quality
    assert (before / rehearsal.FILE).stat().st_size < 2 * 40_000
    assert "rehearsal.safetensors" in json.loads((before / "manifest.json").read_text(encoding="utf-8"))["files"]
    (before.parent / "broken.safetensors").write_bytes(b"no")
    with pytest.raises((DataError, Exception), match=r"broken|header|read"):
        rehearsal.unpack(before.parent / "broken.safetensors", [OLD], tmp_path)


def test_with_the_old_photos_everything_is_ranked_anew(before: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    kept = {path.name: sha256(path) for path in before.iterdir()}
    model = extend(before, parts[1], tmp_path / "more", old=parts[0], steps=4, device="cpu", threads=1)
    assert {path.name: sha256(path) for path in before.iterdir()} == kept
    assert [product.name for product in model.products] == [OLD, NEW]
    old = unias.load(before, device="cpu").products[0]
    assert (model.products[0].train, model.products[0].held_out) == (old.train, old.held_out)
    assert model.products[0].cut.held_out == len(old.held_out)
    assert model.products[0].cut.value != old.cut.value
    assert model.products[1].cut.held_out == 4
    again = unias.load(tmp_path / "more", device="cpu")
    for name, folder in ((OLD, parts[0]), (NEW, parts[1])):
        photo = next((folder / name / "test" / "good").glob("*.png"))
        assert again.predict(photo).nearest == name
    assert again.record["rehearsed"] == "old"
    assert again.config.train.muon_rate == pytest.approx(unias.load(before, device="cpu").config.train.muon_rate)
    assert len(rehearsal.unpack(tmp_path / "more" / rehearsal.FILE, [OLD, NEW], tmp_path / "kept")) == 2


def test_without_them_the_kept_ones_are_rehearsed(
    before: Path, parts: tuple[Path, Path], tmp_path: Path, cli: Any
) -> None:
    answer = cli("extend", before, parts[1], "-o", tmp_path / "more", "--steps", 4, "--threads", 1)
    assert answer.code == 0, answer.err
    assert "kept ones are rehearsed" in answer.err
    model = unias.load(tmp_path / "more", device="cpu")
    first, second = model.products
    assert first.cut.provisional
    assert first.cut.held_out == 0
    assert first.cut.value > 0
    assert (second.name, second.cut.held_out) == (NEW, 4)
    assert "unias calibrate --good" in answer.err


def test_the_weights_are_gone_on_from(before: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    """After one small step they are near the old ones, and not near those of a training from nothing."""
    model = extend(before, parts[1], tmp_path / "more", old=parts[0], steps=1, device="cpu", threads=1)
    old = unias.load(before, device="cpu").detector.unias.state_dict()
    new = model.detector.unias.state_dict()
    for name, value in old.items():
        if value.is_floating_point() and value.numel() > 1000:
            assert (new[name] - value).norm() < 0.1 * value.norm(), name
    assert any(not torch.equal(new[name], value) for name, value in old.items())


def test_more_photos_of_a_known_product(before: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "again" / OLD / "train" / "good"
    folder.mkdir(parents=True)
    for photo in sorted((parts[0] / OLD / "test" / "good").glob("*.png")):
        shutil.copy(photo, folder / f"later-{photo.name}")
    model = extend(before, tmp_path / "again", tmp_path / "more", old=parts[0], steps=2, device="cpu", threads=1)
    (product,) = model.products
    old = unias.load(before, device="cpu").products[0]
    assert set(old.train) < set(product.train)
    assert set(old.held_out) < set(product.held_out)


def test_a_photo_in_both_folders_counts_once() -> None:
    def sample(key: str) -> Any:
        return unias.data.layouts.Sample(Path(key), "a", "train", "good", None, key)

    split = joined(
        {"a": ([sample("1")], [sample("2")])}, {"a": ([sample("2"), sample("3")], []), "b": ([sample("4")], [])}
    )
    assert [one.key for one in split["a"][0]] == ["1", "3"]
    assert [one.key for one in split["a"][1]] == ["2"]
    assert list(split) == ["a", "b"]


def test_held_out_photos_from_elsewhere_are_left_out_and_said(
    before: Path, parts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As after ``unias calibrate --good``: what joined need not lie in the folder that the model was trained on."""
    (product,) = unias.load(before, device="cpu").products
    joined_later = dataclasses.replace(product, held_out=("later/1.png", *product.held_out))
    split = remembered([joined_later], parts[0], Progress("lines"))
    own, held = split[OLD]
    assert ([one.key for one in own], [one.key for one in held]) == (list(product.train), list(product.held_out))
    assert f"{OLD}: 1 held-out photos are not in" in capsys.readouterr().err
    with pytest.raises(DataError, match="trained on is not there"):
        remembered([dataclasses.replace(product, held_out=("later/1.png",))], parts[0], Progress("silent"))
    with pytest.raises(DataError, match=r"gone\.png.*trained on is not there"):
        remembered([dataclasses.replace(product, train=("gone.png",))], parts[0], Progress("silent"))


def test_what_cannot_be(before: Path, parts: tuple[Path, Path], tmp_path: Path, cli: Any) -> None:
    with pytest.raises(UsageError, match="--minutes or --steps"):
        extend(before, parts[1], tmp_path / "more")
    with pytest.raises(DataError, match="trained on is not there"):
        extend(before, parts[1], tmp_path / "more", old=parts[1], steps=1)
    bare = tmp_path / "bare"
    shutil.copytree(before, bare)
    (bare / rehearsal.FILE).unlink()
    manifest = json.loads((bare / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"].pop(rehearsal.FILE)
    (bare / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    answer = cli("extend", bare, parts[1], "-o", tmp_path / "more", "--steps", 1)
    assert answer.code == 2
    assert "forgotten" in answer.err
    assert not (tmp_path / "more").exists()
