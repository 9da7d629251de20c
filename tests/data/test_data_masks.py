"""Which pixels of a mask mean defect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unias.data.masks import load_mask, read_mask, resize_mask
from unias.errors import DataError

SHAPE = np.zeros((10, 14), bool)
SHAPE[2:5, 3:9] = True


def saved(tmp_path: Path, image: Image.Image, name: str = "m.png") -> Path:
    image.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("value", [1, 3, 127, 128, 200, 255])
def test_grey_masks_of_any_value(tmp_path: Path, value: int) -> None:
    path = saved(tmp_path, Image.fromarray(SHAPE.astype(np.uint8) * np.uint8(value)))
    mask = read_mask(path)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, SHAPE)


def test_from_128_up_where_the_mask_reaches_it(tmp_path: Path) -> None:
    values = np.array([[0, 1, 100, 127, 128, 129, 255]], np.uint8)
    assert read_mask(saved(tmp_path, Image.fromarray(values))).tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    small = np.array([[0, 1, 2, 100, 127]], np.uint8)
    assert read_mask(saved(tmp_path, Image.fromarray(small))).tolist() == [[0, 1, 1, 1, 1]]


def test_an_empty_mask_is_empty(tmp_path: Path) -> None:
    assert not read_mask(saved(tmp_path, Image.fromarray(SHAPE.astype(np.uint8) * 0))).any()


def test_one_bit(tmp_path: Path) -> None:
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(SHAPE))), SHAPE)


@pytest.mark.parametrize("index", [1, 200])
def test_palette_indices_not_colours(tmp_path: Path, index: int) -> None:
    """Index 0 is white and the defect's index is black: by colours this would be the opposite mask."""
    image = Image.fromarray(SHAPE.astype(np.uint8) * np.uint8(index))
    image.putpalette([255, 255, 255] + [0, 0, 0] * 255)
    assert image.mode == "P"
    assert np.array_equal(read_mask(saved(tmp_path, image)), SHAPE)


def test_a_palette_index_under_128_beside_one_above(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 200]], np.uint8))
    image.putpalette([0, 0, 0] * 256)
    assert read_mask(saved(tmp_path, image)).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_any_colour_counts_and_alpha_does_not(tmp_path: Path, mode: str, channel: int) -> None:
    array = np.zeros((10, 14, len(mode)), np.uint8)
    array[..., channel][SHAPE] = 255
    array[..., 3:] = 255
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(array))), SHAPE)


def test_grey_with_alpha(tmp_path: Path) -> None:
    array = np.stack([SHAPE.astype(np.uint8) * 255, np.full((10, 14), 255, np.uint8)], axis=2)
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(array))), SHAPE)


@pytest.mark.parametrize("value", [1, 255, 65535])
def test_16_bits(tmp_path: Path, value: int) -> None:
    array = SHAPE.astype(np.uint16) * np.uint16(value)
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(array))), SHAPE)
    tifffile.imwrite(tmp_path / "m.tif", np.repeat(array[..., None], 3, axis=2), photometric="rgb")
    assert np.array_equal(read_mask(tmp_path / "m.tif"), SHAPE)


def test_16_bits_are_cut_at_one_half(tmp_path: Path) -> None:
    values = np.array([[0, 300, 32000, 33000, 65535]], np.uint16)
    assert read_mask(saved(tmp_path, Image.fromarray(values))).tolist() == [[0, 0, 0, 1, 1]]


def test_floats_are_cut_at_one_half(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", np.array([[0, 0.4, 0.5, 1]], np.float32))
    assert read_mask(tmp_path / "m.tif").tolist() == [[0, 0, 1, 1]]
    tifffile.imwrite(tmp_path / "n.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(DataError, match=r"n\.tif: the mask holds NaN"):
        read_mask(tmp_path / "n.tif")


def test_broken_masks_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"m\.png: truncated or damaged"):
        read_mask(path)
    with pytest.raises(DataError, match="no such file"):
        read_mask(tmp_path / "none.png")


def test_resize_is_pillows_nearest() -> None:
    for size in (5, 28, (20, 7)):
        height, width = (size, size) if isinstance(size, int) else size
        expected = Image.fromarray(SHAPE).convert("L").resize((width, height), Image.Resampling.NEAREST)
        got = resize_mask(SHAPE, size)
        assert got.dtype == np.bool_
        assert np.array_equal(got, np.asarray(expected) > 0)
    assert np.array_equal(resize_mask(SHAPE, (10, 14)), SHAPE)


def test_load_mask_checks_the_proportions(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(SHAPE))
    for size in ((10, 14), (100, 140), (11, 14), (5, 7), (101, 139)):
        assert load_mask(path, size).shape == (10, 14)
    assert load_mask(path).shape == (10, 14)
    for size in ((14, 10), (100, 100), (10, 20), (120, 140)):
        with pytest.raises(DataError, match=r"m\.png: the mask is 14 x 10 pixels, its photo a\.jpg "):
            load_mask(path, size, "a.jpg")
