"""A result's maps, masks and regions at the photo's own size, and its plain form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unias
from unias.errors import DataError
from unias.inference.pictures import GAP, GREEN, RED
from unias.inference.result import Result, pred_score


def result(size: tuple[int, int], product: str | None = "part") -> Result:
    values = np.zeros((8, 8), dtype=np.float32)
    values[1:3, 1:4] = 2
    values[6, 6] = 3
    mask = values > 1
    return Result(None, product, "part", False, 3.0, pred_score(3.0, 1.5), 0.05, 1.5, size, values, mask)


@pytest.mark.parametrize("size", [(8, 8), (80, 40), (4, 4)])
def test_everything_has_the_photos_own_size(size: tuple[int, int]) -> None:
    found = result(size)
    assert found.anomaly_map.shape == found.pred_mask.shape == size
    assert found.anomaly_map.dtype == np.float32
    assert found.pred_mask.any()
    if size == (80, 40):
        assert found.pred_mask.sum() == 7 * 10 * 5
        assert found.anomaly_map.max() == pytest.approx(3, rel=0.06)


def test_regions_are_in_the_photos_pixels_highest_first() -> None:
    small, large = result((80, 40)).regions
    assert small.box == (30, 60, 5, 10)
    assert small.area == 50
    assert small.score == pred_score(3.0, 1.5) > large.score == pred_score(2.0, 1.5)
    assert large.box == (5, 10, 15, 20)
    assert large.area == 6 * 50
    assert large.contour.min(axis=0).tolist() == [5, 10]
    assert large.contour.max(axis=0).tolist() == [20, 30]


def test_plain_form_is_json() -> None:
    content = json.loads(json.dumps(result((80, 40)).to_dict(), allow_nan=False))
    assert content["verdict"] == "defect"
    assert content["defect_area"] == pytest.approx(7 / 64)
    assert len(content["regions"]) == 2
    unknown = result((80, 40), None).to_dict()
    assert (unknown["verdict"], unknown["product"], unknown["product_known"]) == ("unknown product", None, False)
    assert unknown["nearest"] == "part"


def panels(picture: Image.Image) -> list[Any]:
    """The three pictures of a strip."""
    strip = np.asarray(picture)
    width = (strip.shape[1] - 2 * GAP) // 3
    return [strip[:, place * (width + GAP) : place * (width + GAP) + width] for place in range(3)]


@pytest.fixture
def on_disk(tmp_path: Path) -> Result:
    """A defective photo of 80 x 40, green, with its file."""
    Image.new("RGB", (40, 80), GREEN).save(tmp_path / "part 1.png")
    return dataclasses.replace(result((80, 40)), path=tmp_path / "part 1.png")


def test_plot_is_photo_map_and_outline(on_disk: Result) -> None:
    photo, heat, outlined = panels(on_disk.plot(side=None))
    assert photo.shape == heat.shape == outlined.shape == (80, 40, 3)
    assert (photo == GREEN).all()
    assert (heat[70, 34] != GREEN).any()  # where the map is highest
    assert (heat[50, 5] == GREEN).all()  # where it is 0
    changed = (outlined != GREEN).any(axis=2)
    assert (outlined[changed] == RED).all()
    mask = on_disk.pred_mask
    assert not (changed & mask).any()
    beside = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        beside[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = True
    np.testing.assert_array_equal(changed, beside & ~mask)


@pytest.mark.parametrize("side", [20, 512])
def test_plot_at_another_size(on_disk: Result, side: int) -> None:
    found = panels(on_disk.plot(side))
    assert {panel.shape for panel in found} == {(side, side // 2, 3)}
    assert (found[2] == RED).all(axis=2).any()


def test_plot_without_a_file_shows_what_the_model_saw(on_disk: Result) -> None:
    assert on_disk.path is not None
    on_disk.path.unlink()
    seen = np.full((8, 8, 3), 77, dtype=np.uint8)
    (photo, *_), (pale, _, outlined) = (
        panels(dataclasses.replace(on_disk, image=image).plot(80)) for image in (seen, None)
    )
    assert (photo == 77).all()
    assert photo.shape == (80, 40, 3)
    assert len(np.unique(pale)) == 1
    assert (outlined == RED).all(axis=2).any()


def test_plot_of_a_photo_that_passes_has_no_outline(on_disk: Result) -> None:
    passed = dataclasses.replace(on_disk, ok=True, model_mask=np.zeros((8, 8), dtype=bool))
    photo, _, outlined = panels(passed.plot(80))
    np.testing.assert_array_equal(photo, outlined)


def test_save_to_a_folder(on_disk: Result, tmp_path: Path) -> None:
    home = on_disk.save(tmp_path / "out" / "part 1")
    assert sorted(path.name for path in home.iterdir()) == ["heatmap.png", "mask.png", "result.json"]
    with Image.open(home / "mask.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture) == 255, on_disk.pred_mask)
    with Image.open(home / "heatmap.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), panels(on_disk.plot(None))[1])
    assert json.loads((home / "result.json").read_text("utf-8")) == on_disk.to_dict()
    with pytest.raises(DataError, match="exists already"):
        on_disk.save(home)
    assert sorted(path.name for path in home.parent.iterdir()) == ["part 1"]


def test_save_to_a_file(on_disk: Result, tmp_path: Path) -> None:
    for name in ("plot.png", "plot.jpg", "plain.json"):
        for _ in range(2):  # the second time it is replaced
            assert on_disk.save(tmp_path / name) == tmp_path / name
    with Image.open(tmp_path / "plot.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(on_disk.plot()))
    with Image.open(tmp_path / "plot.jpg") as picture:
        assert picture.format == "JPEG"
    assert json.loads((tmp_path / "plain.json").read_text("utf-8")) == on_disk.to_dict()


@pytest.mark.parametrize("target", ["folder", "file.png"])
def test_save_is_whole_or_not_at_all(
    on_disk: Result, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match="the disk is full"):
        on_disk.save(tmp_path / target)
    assert sorted(tmp_path.iterdir()) == before


def test_what_has_no_path_keeps_what_the_model_saw(model: Any, tiny_data: Path) -> None:
    path = sorted(tiny_data.glob("*/test/hole/*.png"))[0]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    by_path, asked, by_pixels = model.predict(path), model.predict(path, image=True), model.predict(pixels)
    assert by_path.image is None
    assert by_path.name == str(path)
    assert by_pixels.path is None
    assert by_pixels.name == ""
    np.testing.assert_array_equal(by_pixels.image, asked.image)
    side = model.config.size
    resized = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(asked.image, np.asarray(resized))
    assert np.asarray(by_path.plot()).shape == np.asarray(by_pixels.plot()).shape


def test_a_map_that_is_no_number_never_passes(
    model: unias.Model, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is above a cut that is compared with no number."""
    photo = next(tiny_data.glob("*/test/good/*.png"))
    assert model.predict(photo).ok in (True, False)
    blank = torch.full((1, model.config.input_size, model.config.input_size), float("nan"))
    forward = model.detector.forward
    monkeypatch.setattr(model.detector, "forward", lambda *words: forward(*words)._replace(anomaly_map=blank))
    with pytest.raises(DataError, match="no numbers"):
        model.predict(photo)
