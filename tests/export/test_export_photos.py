"""Which photos an export is compared on and calibrated with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import unias
from unias.calibration.cuts import rank_cut
from unias.config import Config
from unias.data.decode import load_input
from unias.data.layouts import Sample, scan
from unias.errors import DataError
from unias.export.photos import (
    drawn_pictures,
    good_photos,
    held_out_photos,
    read_inputs,
    set_aside,
    spread,
    training_photos,
    with_defects,
)
from unias.inference.products import ProductInfo


def test_training_and_held_out_photos(small_model: Path, tiny_data: Path) -> None:
    products = unias.load(small_model, "cpu").products
    trained = training_photos(tiny_data, products)
    held = held_out_photos(tiny_data, products)
    for info, own, kept in zip(products, trained, held, strict=True):
        assert tuple(sample.key for sample in own) == info.train
        assert tuple(sample.key for sample in kept) == info.held_out
        assert {sample.product for sample in own + kept} == {info.name}
    assert all("/test/" not in sample.key for own in trained + held for sample in own)


def test_another_folder_is_refused(small_model: Path, make_data: object, tmp_path: Path) -> None:
    other = make_data(tmp_path / "other", products=("nut",), train=2, good=1, defects=())  # type: ignore[operator]
    with pytest.raises(
        DataError, match=r"holds none of the 4 good photos of Dichtung groß .*--data the folder that it was trained on"
    ):
        training_photos(other, unias.load(small_model, "cpu").products)


def test_good_photos_of_any_folder(small_model: Path, tiny_data: Path, make_data: object, tmp_path: Path) -> None:
    """By the products' names, training photos alone where there are any; else whatever is good there."""
    products = unias.load(small_model, "cpu").products
    found = good_photos(tiny_data, products)
    assert [{sample.product for sample in own} for own in found] == [{info.name} for info in products]
    assert all(sample.split == "train" for own in found for sample in own)
    other = make_data(tmp_path / "other", products=("nut",), train=2, good=1, defects=())  # type: ignore[operator]
    assert [len(own) for own in good_photos(other, products)] == [2]


def sample(number: int) -> Sample:
    return Sample(Path(f"{number}.png"), "part", "train", "good", None, f"{number}.png")


def test_a_name_is_not_another_products_photo(make_data: object, tmp_path: Path) -> None:
    """Keys of flat folders are bare names."""
    home = make_data(tmp_path / "line", products=("nuts",), train=4, good=1, defects=())  # type: ignore[operator]
    nuts = home / "nuts" / "train" / "good"
    nuts.rename(tmp_path / "nuts")
    cut = rank_cut([1.0], 0.05)
    bolts = ProductInfo("bolts", cut, ("000.png",), ("001.png", "added/x"), (1.0, 1.0))
    info = ProductInfo("nuts", cut, ("000.png", "gone.png"), ("001.png", "added/y"), (1.0, 1.0))
    found = held_out_photos(tmp_path / "nuts", [bolts, info])
    assert [[item.key for item in own] for own in found] == [[], ["001.png"]]
    with pytest.raises(DataError, match="holds none of the 1 good photos of bolts"):
        training_photos(tmp_path / "nuts", [bolts, info])
    renamed = dataclasses.replace(info, name="Muttern")
    assert [item.key for item in training_photos(tmp_path / "nuts", [renamed])[0]] == ["000.png"]


def test_photos_that_were_learned_from_are_not_held_out(tiny_data: Path, small_model: Path) -> None:
    info = unias.load(small_model, "cpu").products[0]
    folded = dataclasses.replace(info, train=(*info.train, *info.held_out))
    assert held_out_photos(tiny_data, [folded]) == [[]]


def test_test_photos_are_not_found_again(tiny_data: Path, bare_product: ProductInfo) -> None:
    """Neither good nor defective ones, though their keys are remembered."""
    keys = tuple(sample.key for sample in scan(tiny_data).test())
    assert keys
    info = dataclasses.replace(bare_product, train=keys)
    with pytest.raises(DataError, match="holds none"):
        training_photos(tiny_data, [info])


def test_spread_is_even() -> None:
    groups = [[sample(number) for number in range(40)], [sample(number) for number in range(100, 104)]]
    chosen = spread(groups, 8)
    assert [item.key for item in chosen] == [f"{n}.png" for n in (0, 13, 26, 39, 100, 101, 102, 103)]
    long = [sample(number) for number in range(59)]
    places = [int(item.path.stem) for item in spread([long], 30)]  # not the first 30
    assert (len(places), places[0], places[-1]) == (30, 0, 58)
    assert len(spread(groups, 100)) == 44
    assert spread([[]], 8) == []
    many = [[sample(number)] for number in range(50)]
    assert len(spread(many, 12)) == 12
    assert len({item.key for item in spread(many, 12)}) == 12


def test_photos_set_aside() -> None:
    groups = [
        [sample(number) for number in range(start, start + size)] for start, size in ((0, 40), (100, 7), (200, 2))
    ]
    rest, aside = set_aside(groups, 12)
    assert [len(group) for group in aside] == [4, 2, 0]
    for group, kept, taken in zip(groups, rest, aside, strict=True):
        assert {item.key for item in kept} | {item.key for item in taken} == {item.key for item in group}
        assert not {item.key for item in kept} & {item.key for item in taken}


def test_each_photo_and_the_same_with_a_defect(
    tiny_data: Path, small_config: Config, bare_product: ProductInfo
) -> None:
    samples = scan(tiny_data).train()[:3]
    photos = with_defects(
        samples, [bare_product, ProductInfo(samples[0].product, bare_product.cut)], small_config, "photos"
    )
    assert len(photos) == 6
    assert photos.images.shape == (6, 3, 128, 128)
    assert photos.product.tolist() == [1] * 6
    assert not photos.deep
    for number, item in enumerate(samples):
        good, spoiled = photos.images[2 * number : 2 * number + 2]
        assert np.array_equal(good, load_input(item.path, 128)[0])
        changed = np.abs(spoiled - good).max(axis=0) > 0
        assert np.array_equal(changed, photos.masks[2 * number + 1])
        assert changed.any()
        assert not photos.masks[2 * number].any()
    again = with_defects(samples, [bare_product], small_config, "photos")
    assert np.array_equal(again.images, photos.images)
    assert again.product.tolist() == [-1] * 6
    assert np.array_equal(read_inputs(samples, small_config), photos.images[::2])


def test_drawn_pictures(small_config: Config) -> None:
    photos = drawn_pictures(4, small_config)
    assert len(photos) == 8
    assert photos.masks[1::2].any(axis=(1, 2)).all()
    assert (photos.product == -1).all()
    assert np.array_equal(drawn_pictures(4, small_config).images, photos.images)
