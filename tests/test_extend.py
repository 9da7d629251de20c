"""``unias extend``: a product more, with the old photos and without them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unias
from unias import extension
from unias.config import Config
from unias.data.decode import read_photo, to_display
from unias.data.layouts import Sample
from unias.data.transforms import Augmentation
from unias.errors import DataError, UsageError
from unias.extension import extend, joined
from unias.files import sha256
from unias.inference import rehearsal
from unias.inference.store import rewrite_products
from unias.maps.fusion import Rule
from unias.progress import Progress
from unias.run.extend import ExtendRun
from unias.run.remembered import remembered
from unias.training.batches import turned_rows

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
    with pytest.raises(DataError, match=r"broken.safetensors: cannot be read as kept photos"):
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


def test_old_products_keep_their_fusions_and_what_was_set(
    before: Path, parts: tuple[Path, Path], tmp_path: Path, cli: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fusions were chosen in more minutes and on all photos; areas, zones and rates are people's."""
    folder = tmp_path / "set"
    shutil.copytree(before, folder)
    zone = np.zeros((128, 128), dtype=np.uint8)
    zone[:20, :20] = 255
    Image.fromarray(zone).save(tmp_path / "zone.png")
    words = ("--min-area", 3, "--ignore", f"{OLD}={tmp_path / 'zone.png'}", "--false-alarms", 0.3, "--data", parts[0])
    assert cli("calibrate", folder, *words, "-q").code == 0
    set_before = unias.load(folder, device="cpu")
    rule = Rule((0.1, 0.2, 0.3, 0.4), 0.3, 0.25)
    set_before.detector.statistics.set_rule(0, rule)
    set_before.save(tmp_path / "ruled")
    was = set_before.products[0]
    for old in (parts[0], None):
        output = tmp_path / f"more-{old is None}"
        model = extend(tmp_path / "ruled", parts[1], output, old=old, steps=2, device="cpu", threads=1)
        known, new = model.products
        found = model.detector.statistics.rule(0)
        assert (found.power, found.wide) == pytest.approx((rule.power, rule.wide))
        assert found.weights == pytest.approx(rule.weights)
        assert (known.min_area, known.cut.promise.wished, known.blurred) == (3, 0.3, 0.25)
        assert np.array_equal(known.ignore, was.ignore)
        assert (new.min_area, new.ignore, new.cut.promise.wished) == (1, None, 0.05)
        assert known.cut.held_out == (len(was.held_out) if old else 0)


def test_a_saved_copy_can_be_extended(before: Path, tmp_path: Path) -> None:
    unias.load(before, device="cpu").save(tmp_path / "copy")
    assert (tmp_path / "copy" / rehearsal.FILE).read_bytes() == (before / rehearsal.FILE).read_bytes()
    unias.load(tmp_path / "copy", device="cpu").save(tmp_path / "copy")  # onto itself
    assert (tmp_path / "copy" / rehearsal.FILE).read_bytes() == (before / rehearsal.FILE).read_bytes()


def test_one_kept_photo_in_four_tells_how_scores_have_moved(before: Path, tmp_path: Path) -> None:
    """It is not rehearsed: what was learned by heart would make the cut too low."""
    pictures = [np.full((40, 40, 3), 20 * n, dtype=np.uint8) for n in range(8)]
    paths = []
    for n, picture in enumerate(pictures):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(picture).save(paths[-1])
    samples = [Sample(path, OLD, "train", "good", None, path.name) for path in paths]
    content = rehearsal.keep({OLD: samples}, 8, 40, None)
    assert content is not None
    folder = tmp_path / "model"
    shutil.copytree(before, folder)
    (folder / rehearsal.FILE).write_bytes(content)
    infos = unias.load(before, device="cpu").products
    split, back = extension._old_split(folder, infos, None, tmp_path / "spare", Progress("silent"))
    assert [sample.path.name for sample in back[OLD]] == ["000.png", "004.png"]
    assert [sample.path.name for sample in split[OLD][0]] == [f"00{n}.png" for n in (1, 2, 3, 5, 6, 7)]
    assert split[OLD][1] == []


def test_more_photos_of_a_known_product_with_the_kept_ones_alone(
    before: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    """Names of photos are remembered, not of the model's own copies: the next extension or refit looks for them."""
    folder = tmp_path / "later" / OLD / "train" / "good"
    folder.mkdir(parents=True)
    for photo in sorted((parts[0] / OLD / "test" / "good").glob("*.png")):
        shutil.copy(photo, folder / f"later-{photo.name}")
    (product,) = extend(before, tmp_path / "later", tmp_path / "more", steps=2, device="cpu", threads=1).products
    old = unias.load(before, device="cpu").products[0]
    assert product.train[: len(old.train)] == old.train
    assert len(product.train) > len(old.train)
    assert not any(key.startswith("kept/") for key in (*product.train, *product.held_out))


def test_another_photo_of_an_old_name_is_refused(before: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    """Photos are remembered by their names; a new day's photos of the same names must not pass for the old ones."""
    shutil.copytree(parts[0] / OLD / "train", tmp_path / "day2" / OLD / "train")
    name = unias.load(before, device="cpu").products[0].train[0]
    Image.new("RGB", (96, 96), (9, 9, 9)).save(tmp_path / "day2" / name)
    with pytest.raises(DataError, match=r"another photo than .* under the same name"):
        extend(before, tmp_path / "day2", tmp_path / "more", old=parts[0], steps=1, device="cpu", threads=1)
    assert not (tmp_path / "more").exists()


def test_photos_of_flat_folders_are_no_other_products(before: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    """Their names are bare: 000.png of one product is not 000.png of the other."""
    (product,) = unias.load(before, device="cpu").products
    flat = dataclasses.replace(product, name="flat", train=("000.png",), held_out=("001.png",), held_out_scores=(1.0,))
    other = dataclasses.replace(
        product, name="other", train=("000.png",), held_out=("001.png",), held_out_scores=(1.0,)
    )
    (tmp_path / "flat").mkdir()
    for n in range(3):
        Image.new("RGB", (96, 96)).save(tmp_path / "flat" / f"00{n}.png")
    split = remembered([flat], tmp_path / "flat", Progress("silent"))
    assert [len(part) for part in split["flat"]] == [1, 1]
    with pytest.raises(DataError, match="trained on is not there"):
        remembered([flat, other], tmp_path / "flat", Progress("silent"))


def test_a_product_of_folds_has_no_photo_left_to_rank(before: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    (product,) = unias.load(before, device="cpu").products
    folder = tmp_path / "folded"
    shutil.copytree(before, folder)
    scores = tuple(float(n) for n in range(len(product.train)))
    rewrite_products(folder, [dataclasses.replace(product, held_out=product.train, held_out_scores=scores)])
    with pytest.raises(UsageError, match="trained with --folds"):
        extend(folder, parts[1], tmp_path / "more", old=parts[0], steps=1, device="cpu", threads=1)
    (known, _) = extend(folder, parts[1], tmp_path / "more", steps=1, device="cpu", threads=1).products
    assert known.cut.provisional


def test_short_minutes_turn_a_part_of_the_photos() -> None:
    samples = [Sample(Path(f"{n}.png"), "nut", "train", "good", None, f"{n}.png") for n in range(300)]
    said: list[str] = []
    run = ExtendRun.__new__(ExtendRun)
    run.config = dataclasses.replace(Config(), train=dataclasses.replace(Config().train, minutes=4.0, recipe="auto"))
    run.trained = SimpleNamespace(samples=samples)  # type: ignore[assignment]
    run.augmentation = Augmentation("auto", {"nut": tuple(range(8))})
    run.progress = SimpleNamespace(say=said.append)  # type: ignore[assignment]
    run.every = 1
    run._drop_turns_of_short_runs()
    assert run.every == 3  # 2,100 turned photos, 200 a minute
    assert len(turned_rows(samples, run.augmentation, run.every)) <= 800
    assert run.config.train.recipe == "auto"
    assert "one photo in 3 is turned" in said[0]


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


def test_a_photo_that_is_cut_short_is_told_with_what_can_be_done(
    before: Path, parts: tuple[Path, Path], tmp_path: Path, cli: Any
) -> None:
    shutil.copytree(parts[1], tmp_path / "new")
    photo = sorted((tmp_path / "new" / NEW / "train" / "good").iterdir())[0]
    photo.write_bytes(photo.read_bytes()[:200])
    answer = cli("extend", before, tmp_path / "new", "-o", tmp_path / "more", "--steps", 1)
    assert answer.code == 3
    assert photo.name in answer.err
    assert "take it out of its folder" in answer.err
    assert "--skip-bad" not in answer.err  # which `unias extend` has not
    assert not (tmp_path / "more").exists()
