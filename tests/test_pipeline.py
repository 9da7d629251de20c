"""Train, load, predict: the whole way in a small size, and what must be the same whichever way is taken."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unias
from unias.backbones.timm_backbone import build_backbone
from unias.config import Config, Tiling, load_config
from unias.data.layouts import scan
from unias.data.split import hold_out
from unias.data.transforms import Augmentation
from unias.errors import DataError, TrainingError, UsageError
from unias.files import sha256
from unias.inference import rehearsal
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.inference.store import FILES, FORMAT_VERSION
from unias.model.losses import level_losses
from unias.training.batches import ImageBatches, StepDataset

pytestmark = pytest.mark.usefixtures("one_thread")
CLOSE = 1e-5


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "products.safetensors")}


def same(one: Path, other: Path) -> bool:
    """Bit for bit."""
    return all(sha256(one / name) == sha256(other / name) for name in ("model.safetensors", "products.safetensors"))


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one, other, rtol=CLOSE, atol=CLOSE * float(np.abs(one).max())))


@pytest.fixture(scope="module")
def photo(tiny_data: Path) -> Path:
    return sorted(tiny_data.glob("*/test/scratch/*.png"))[0]


@pytest.fixture(scope="module")
def photos(tiny_data: Path) -> list[Path]:
    return sorted(tiny_data.glob("*/test/*/*.png"))


# --- the folder that training leaves ------------------------------------------------------------------------


def test_folder_holds_what_is_documented(model_folder: Path) -> None:
    assert {entry.name for entry in model_folder.iterdir()} == {*FILES, rehearsal.FILE, "manifest.json"}
    assert set(FILES) == {"model.safetensors", "config.yaml", "products.json", "products.safetensors", "card.md"}


def test_manifest_has_the_version_and_the_hash_of_each_file(model_folder: Path) -> None:
    manifest = json.loads((model_folder / "manifest.json").read_text(encoding="utf-8"))
    files = {name: sha256(model_folder / name) for name in (*FILES, rehearsal.FILE)}
    assert manifest == {"format": FORMAT_VERSION, "files": files}


@pytest.mark.parametrize("name", ["../../.bashrc", "a/b", "..", "a\\b", ""])
def test_manifest_names_files_of_its_folder_alone(name: str, model_folder: Path, tmp_path: Path, cli: Any) -> None:
    """A foreign model must not make a copy of it write elsewhere."""
    home = tmp_path / "a" / "b" / "model"
    shutil.copytree(model_folder, home)
    (tmp_path / "a" / ".bashrc").write_text("mine", encoding="utf-8")
    manifest = json.loads((home / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = sha256(tmp_path / "a" / ".bashrc")
    (home / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    answer = cli("calibrate", home, "--false-alarms", 0.3, "-o", tmp_path / "c" / "d" / "new", "-q")
    assert answer.code == 3
    assert "no file of its folder" in answer.err
    assert not (tmp_path / "c").exists()


def test_nothing_lies_beside_the_folder(model_folder: Path) -> None:
    assert [entry.name for entry in model_folder.parent.iterdir()] == [model_folder.name]


def test_split_is_stored_and_disjoint(model_folder: Path, tiny_data: Path) -> None:
    stored = json.loads((model_folder / "products.json").read_text(encoding="utf-8"))["products"]
    dataset = scan(tiny_data)
    assert [entry["name"] for entry in stored] == list(dataset.products)
    for entry in stored:
        keys = [sample.key for sample in dataset.train(entry["name"])]
        assert (entry["train"], entry["held_out"]) == hold_out(keys, seed=0)
        assert not set(entry["train"]) & set(entry["held_out"])
        assert sorted(entry["train"] + entry["held_out"]) == sorted(keys)
        assert len(entry["held_out"]) == max(round(0.2 * len(keys)), min(20, len(keys) // 2))


def test_cut_is_the_highest_score_of_the_held_out_photos(model: Model, tiny_data: Path) -> None:
    for product in model.products:
        scores = [model.predict(tiny_data / key, product=product.name).raw_score for key in product.held_out]
        assert product.cut.value == pytest.approx(max(scores), rel=CLOSE)
        assert list(product.held_out_scores) == pytest.approx(scores, rel=CLOSE)
        assert (product.cut.held_out, product.cut.provisional) == (len(scores), len(scores) < 20)
        assert product.cut.false_alarm_rate == pytest.approx(1 / (len(scores) + 1))


def test_settings_record_and_card(model_folder: Path, model: Model, tiny_config: Config) -> None:
    assert load_config(model_folder / "config.yaml") == model.config
    assert model.config == tiny_config
    assert {"data", "seed", "steps", "minutes", "commit", "machine", "versions"} <= set(model.record)
    assert (model.record["steps"], model.record["seed"]) == (6, 0)
    card = (model_folder / "card.md").read_text(encoding="utf-8")
    for word in (*(product.name for product in model.products), "Fotos übrig", "seed: 0", "steps: 6", "torch"):
        assert word in card


def test_training_says_its_split(trained: Any) -> None:
    for product in trained.model.products:
        assert f"{product.name}: 4 photos to learn from, 4 held out for the cut" in trained.said


def test_products_are_told_apart(model: Model, tiny_data: Path) -> None:
    for sample in scan(tiny_data).test():
        assert model.predict(sample.path).product == sample.product


def test_loaded_model_predicts_what_the_trained_one_did(
    trained: Any, model: Model, photos: list[Path], tmp_path: Path
) -> None:
    trained.model.save(tmp_path / "copy")
    copy = unias.load(tmp_path / "copy", device="cpu")
    for path in photos[:4]:
        first, second, third = trained.model.predict(path), model.predict(path), copy.predict(path)
        assert np.array_equal(first.model_map, second.model_map)
        assert np.array_equal(first.model_map, third.model_map)
        assert (first.raw_score, first.cut, first.ok) == (second.raw_score, second.cut, second.ok)


# --- what predict takes -------------------------------------------------------------------------------------


def test_one_photo_gives_one_result_whatever_it_comes_as(model: Model, photo: Path) -> None:
    with Image.open(photo) as picture:
        picture.load()
    pixels = np.array(picture)
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 9, np.uint8)])
    expected = model.predict(photo)
    assert expected.path == photo
    sources = (str(photo), photo.read_bytes(), bytearray(photo.read_bytes()), picture, pixels, opaque)
    for source in sources:
        result = model.predict(source)
        assert isinstance(result, Result), type(source)
        assert np.array_equal(result.model_map, expected.model_map), type(source)
        assert result.path == (photo if isinstance(source, str) else None)
    assert expected.model_map.dtype == np.float32
    assert expected.model_map.shape == expected.model_mask.shape == (128, 128)
    assert expected.raw_score == float(expected.model_map.max())
    assert expected.size == (96, 96)


def test_grey_is_three_equal_channels(model: Model, photo: Path) -> None:
    with Image.open(photo) as picture:
        grey = np.array(picture.convert("L"))
    expected = model.predict(np.repeat(grey[..., None], 3, axis=2)).model_map
    for source in (grey, grey[..., None], Image.fromarray(grey)):
        assert np.array_equal(model.predict(source).model_map, expected)


def test_sixteen_bits_are_divided_by_the_full_range(model: Model, photo: Path) -> None:
    with Image.open(photo) as picture:
        grey = np.array(picture.convert("L"))
    deep = grey.astype(np.uint16) * 257
    file = io.BytesIO()
    Image.fromarray(deep).save(file, format="PNG")
    expected = model.predict(deep).model_map
    assert np.array_equal(model.predict(file.getvalue()).model_map, expected)
    assert np.array_equal(model.predict(deep.astype(np.float32) / np.float32(65535)).model_map, expected)
    shallow = model.predict(grey).model_map  # the same picture, but resized in steps of 1 / 255
    assert np.abs(shallow - expected).max() < 0.1 * expected.max()


def test_many_photos_give_an_iterator_in_order(model: Model, tiny_data: Path) -> None:
    folder = tiny_data / "Dichtung groß" / "test" / "good"
    paths = sorted(folder.iterdir())
    arrays = [np.array(Image.open(path)) for path in paths]
    expected = [model.predict(path).raw_score for path in paths]
    sources: list[Any] = [
        folder,
        str(folder),
        f"{folder}/*.png",
        list(paths),
        [str(path) for path in paths],
        (path.read_bytes() for path in paths),
        np.stack(arrays),
        [paths[0], [arrays[1]], iter([paths[2]])],
    ]
    for source in sources:
        results = model.predict(source)
        assert iter(results) is results
        found = list(results)
        assert all(isinstance(result, Result) for result in found)
        assert [result.raw_score for result in found] == pytest.approx(expected, rel=CLOSE)
    assert [result.path for result in model.predict(folder)] == paths
    assert list(model.predict([])) == []


def test_photos_are_taken_as_they_are_needed(model: Model) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield np.full((32, 32, 3), number % 256, np.uint8)

    results = model.predict(endless(), batch_size=4)
    assert taken == 0
    next(results)
    assert taken == 4
    for _ in range(4):
        next(results)
    assert taken == 8
    results.close()


def test_what_is_no_photo_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        model.predict(tmp_path / "none.png")
    with pytest.raises(DataError, match="no photos here"):
        list(model.predict(tmp_path))
    with pytest.raises(DataError, match="no photos here"):
        list(model.predict(f"{tmp_path}/*.png"))
    with pytest.raises(UsageError, match="int is not a photo"):
        list(model.predict(3))
    with pytest.raises(DataError, match="int64"):
        model.predict(np.zeros((32, 32, 3), np.int64))


def test_batch_is_single(model: Model, photos: list[Path]) -> None:
    singles = [model.predict(path) for path in photos]
    for size in (3, 8):
        for one, many in zip(singles, model.predict(photos, batch_size=size), strict=True):
            assert alike(one.model_map, many.model_map)
            assert one.product == many.product


def test_product_can_be_said(model: Model, photo: Path) -> None:
    found = model.predict(photo)
    other = next(product for product in model.products if product.name != found.product)
    said = model.predict(photo, product=other.name)
    assert (said.product, said.cut) == (other.name, other.cut.value)
    assert model.predict(photo, product=found.product).raw_score == found.raw_score
    (many,) = model.predict([photo], product=other.name)
    assert many.product == other.name
    for source in (photo, [photo]):
        with pytest.raises(UsageError, match=r"'screw' is not one of this model's: Dichtung groß, plaque gravée"):
            model.predict(source, product="screw")


# --- what a Result says -------------------------------------------------------------------------------------


def check_verdict(result: Result) -> None:
    assert result.ok == (not result.model_mask.any()) == (result.pred_score <= 0.5) == (result.raw_score <= result.cut)
    assert result.pred_mask.any() == result.model_mask.any()
    assert 0 <= result.pred_score < 1


def test_ok_is_an_empty_mask_is_a_score_up_to_one_half(model: Model, photos: list[Path]) -> None:
    for result in model.predict(photos):
        check_verdict(result)


@pytest.mark.parametrize("side", ["at", "a hair below", "a hair above", "half", "double"])
def test_verdict_next_to_the_cut(trained: Any, photo: Path, side: str) -> None:
    """Whatever the cut is, and however near the score, the three say the same."""
    stored = trained.model._stored
    raw = trained.model.predict(photo).raw_score
    cut = {
        "at": raw,
        "a hair below": math.nextafter(raw, 0),
        "a hair above": math.nextafter(raw, 2 * raw),
        "half": raw / 2,
        "double": 2 * raw,
    }[side]
    products = tuple(dataclasses.replace(p, cut=dataclasses.replace(p.cut, value=cut)) for p in stored.products)
    result = Model(dataclasses.replace(stored, products=products)).predict(photo)
    check_verdict(result)
    assert result.ok == (side in ("at", "a hair above", "double"))


@pytest.mark.parametrize("shape", [(60, 150), (300, 40), (16, 16)])
def test_pred_mask_has_the_photos_own_size(trained: Any, photo: Path, shape: tuple[int, int]) -> None:
    stored = trained.model._stored
    with Image.open(photo) as picture:
        resized = np.array(picture.resize(shape[::-1]))
    raw = trained.model.predict(resized).raw_score
    cut = 0.999 * raw  # a handful of pixels is left
    products = tuple(dataclasses.replace(p, cut=dataclasses.replace(p.cut, value=cut)) for p in stored.products)
    result = Model(dataclasses.replace(stored, products=products)).predict(resized)
    assert result.size == shape
    assert result.pred_mask.shape == shape
    assert result.pred_mask.dtype == np.bool_
    check_verdict(result)


def test_levels_and_picture_on_request(model: Model, photo: Path) -> None:
    plain = model.predict(photo)
    assert plain.level_maps == {}
    assert plain.image is None
    full = model.predict(photo, levels=True, image=True)
    assert list(full.level_maps) == [4, 3, 2, 1]
    assert all(m.shape == (128, 128) and m.dtype == np.float32 and (m >= 0).all() for m in full.level_maps.values())
    assert full.image is not None
    assert (full.image.shape, full.image.dtype) == ((128, 128, 3), np.uint8)
    assert np.array_equal(full.model_map, plain.model_map)


def test_an_unreadable_photo_among_others(model: Model, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    mixed = [photos[0], tmp_path / "empty.png", photos[1]]
    with pytest.raises(DataError, match=r"empty\.png"):
        list(model.predict(mixed))
    named: list[Any] = []
    results = list(model.predict(mixed, on_error=lambda source, error: named.append((source, str(error)))))
    assert [result.path for result in results] == photos[:2]
    assert [source for source, _ in named] == [tmp_path / "empty.png"]
    assert "zero bytes" in named[0][1]


# --- the same again, and not the same -----------------------------------------------------------------------


def test_same_seed_same_weights_other_seed_others(retrain: Any, model_folder: Path) -> None:
    again = retrain("again")
    assert same(again.folder, model_folder)
    stored = [json.loads((f / "products.json").read_text("utf-8"))["products"] for f in (again.folder, model_folder)]
    assert stored[0] == stored[1]
    other = retrain("other", seed=1)
    assert not same(other.folder, model_folder)
    assert [p.held_out for p in other.model.products] != [p.held_out for p in again.model.products]


def test_weights_by_chance_come_of_the_seed(retrain: Any, tiny_config: Config) -> None:
    """The backbone's too, whatever chance was used for before in the process."""
    config = dataclasses.replace(tiny_config, backbone=dataclasses.replace(tiny_config.backbone, weights="random"))
    first = retrain("first", config=config, steps=1)
    torch.rand(7)
    again, other = retrain("again", config=config, steps=1), retrain("other", config=config, steps=1, seed=1)
    assert same(first.folder, again.folder)
    name = "backbone.network.conv_stem.weight"
    ours, theirs = (load_file(run.folder / "model.safetensors")[name] for run in (first, other))
    assert not torch.equal(ours, theirs)


def test_cached_and_uncached_agree(retrain: Any, model_folder: Path, model: Model) -> None:
    """The cache keeps 16-bit floats, so the numbers differ a little and nothing else does."""
    uncached = retrain("uncached", cache=False)
    assert [(p.name, p.train, p.held_out) for p in uncached.model.products] == [
        (p.name, p.train, p.held_out) for p in model.products
    ]
    assert uncached.model.record["steps"] == model.record["steps"]
    ours, theirs = weights(uncached.folder), weights(model_folder)
    rules = ("weights", "power", "wide")  # chosen on two photos here: a hair's breadth may tip it
    for place, (one, other) in enumerate(zip(uncached.model.products, model.products, strict=True)):
        if all(torch.equal(ours[name][place], theirs[name][place]) for name in rules):
            assert one.cut.value == pytest.approx(other.cut.value, rel=0.1)
    for name, value in theirs.items():
        if value.is_floating_point() and name not in rules:
            assert torch.allclose(ours[name], value, rtol=0.1, atol=0.02), name


@pytest.mark.slow
def test_minutes_fix_the_steps_and_steps_repeat_the_run(retrain: Any, tiny_config: Config) -> None:
    timed = retrain("timed", minutes=0.3)
    steps = timed.model.record["steps"]
    assert steps > 2
    assert timed.model.record["minutes_asked"] == 0.3
    assert (timed.model.config.train.steps, timed.model.config.train.minutes) == (steps, None)
    assert any(f"repeat exactly with --steps {steps}" in line for line in timed.said)
    assert any("--config and the config.yaml" in line for line in timed.said)  # no time to choose fusions
    repeated = retrain("repeated", steps=steps, config=dataclasses.replace(tiny_config, maps=timed.model.config.maps))
    assert same(repeated.folder, timed.folder)
    names = ("config.yaml", "model.safetensors")
    assert all((repeated.folder / name).read_bytes() == (timed.folder / name).read_bytes() for name in names)


# --- photos that are augmented ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bottles(make_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product that the recipe flips and turns."""
    return make_data(tmp_path_factory.mktemp("bottles") / "set", products=("bottle",), train=10)


def batches(bottles: Path, config: Config, recipe: str, workers: int, start: int, stop: int) -> list[Any]:
    backbone = build_backbone(config.backbone)
    steps = StepDataset(scan(bottles).train(), Tiling(1, 128, 0), None, Augmentation(recipe), 4, seed=5)
    return list(ImageBatches(steps, backbone, torch.device("cpu"), workers).steps(start, stop))


@pytest.mark.slow
def test_spawned_workers_give_the_same_batches(bottles: Path, tiny_config: Config) -> None:
    here = batches(bottles, tiny_config, "mvtec", 0, 0, 7)
    spawned = batches(bottles, tiny_config, "mvtec", 1, 0, 7)
    assert [len(batch.names) for batch in here] == [4, 4, 2, 4, 4, 2, 4]
    assert [batch.names for batch in here] == [batch.names for batch in spawned]
    for one, other in zip(here, spawned, strict=True):
        assert all(torch.equal(one.features[level], other.features[level]) for level in (4, 3, 2, 1))


def test_augmented_batches_begin_anywhere_and_change_by_epoch(bottles: Path, tiny_config: Config) -> None:
    whole = batches(bottles, tiny_config, "mvtec", 0, 0, 6)
    late = batches(bottles, tiny_config, "mvtec", 0, 4, 6)
    plain = batches(bottles, tiny_config, "none", 0, 0, 6)
    for one, other in zip(whole[4:], late, strict=True):
        assert one.names == other.names
        assert all(torch.equal(one.features[level], other.features[level]) for level in (4, 3, 2, 1))
    assert [batch.names for batch in whole] == [batch.names for batch in plain]
    same = (torch.equal(one.features[4], other.features[4]) for one, other in zip(whole, plain, strict=True))
    assert not all(same)

    def rows(epoch: list[Any]) -> dict[str, torch.Tensor]:
        return {name: batch.features[4][i] for batch in epoch for i, name in enumerate(batch.names)}

    first, second = rows(whole[:3]), rows(whole[3:])
    assert set(first) == set(second)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_loss_that_is_not_finite_names_step_and_files(
    retrain: Any, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def broken(reconstruction: Any) -> Any:
        nonlocal calls
        calls += 1
        losses = level_losses(reconstruction)
        if calls <= 3:
            return losses
        return dataclasses.replace(losses, mse={k: v * math.nan for k, v in losses.mse.items()})

    monkeypatch.setattr("unias.training.task.level_losses", broken)
    with pytest.raises(TrainingError, match=r"the loss of step 3 is nan") as caught:
        retrain("broken")
    named = [str(sample.path) for sample in scan(tiny_data).train() if str(sample.path) in str(caught.value)]
    assert len(named) == 4
    assert caught.value.exit_code == 1


class Saboteur(unias.Progress):
    """Calls ``act`` once, when the first step of training is done."""

    def __init__(self, act: Any) -> None:
        super().__init__("silent")
        self.act = act

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Any]:
        acted = False

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal acted
            if name == "training" and not acted:
                acted = True
                self.act()

        yield advance


def test_photo_cut_short_in_the_middle_of_training(make_data: Any, retrain: Any, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", products=("bottle",))
    learned = hold_out([sample.key for sample in scan(data).train()], seed=0)[0]

    def cut_short() -> None:
        for key in learned:
            content = (data / key).read_bytes()
            (data / key).write_bytes(content[: len(content) // 2])

    with pytest.raises(DataError, match=r"truncated or damaged.*--skip-bad\.?$") as caught:
        retrain("model", data=data, recipe="mvtec", cache=False, progress=Saboteur(cut_short))
    assert any(str(data / key) in str(caught.value) for key in learned)
    assert not (tmp_path / "model" / "manifest.json").exists()
    for key in learned[1:]:  # all but one are good again
        Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(data / key)
    with pytest.raises(DataError, match=r"--skip-bad"):
        retrain("other", data=data, recipe="mvtec", cache=False)
    skipped = retrain("skipped", data=data, recipe="mvtec", cache=False, skip_bad=True)
    assert any("left out" in line and str(data / learned[0]) in line for line in skipped.said)
    used = {key for product in skipped.model.products for key in (*product.train, *product.held_out)}
    assert used == {sample.key for sample in scan(data).train()} - {learned[0]}


def test_skipping_everything_is_refused(make_data: Any, retrain: Any, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", products=("bottle", "nut"))
    for path in (data / "bottle" / "train" / "good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="bottle"):
        retrain("model", data=data, skip_bad=True)


def test_one_photo_a_product_gets_a_provisional_cut(make_data: Any, retrain: Any, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", products=("nut",), train=1)
    found = retrain("model", data=data, steps=2)
    (product,) = found.model.products
    assert product.cut.provisional
    assert (product.held_out, product.cut.held_out) == ((), 0)
    assert any("provisional" in line for line in found.said)
