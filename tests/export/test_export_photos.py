"""Which photos an export is compared on and calibrated with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unias
from unias.config import Config
from unias.data.decode import load_input
from unias.data.layouts import Sample, scan
from unias.errors import DataError
from unias.export.photos import drawn_pictures, good_photos, read_inputs, spread, training_photos, with_defects
from unias.inference.products import ProductInfo


def test_training_and_held_out_photos(small_model: Path, tiny_data: Path) -> None:
    products = unias.load(small_model, "cpu").products
    trained = training_photos(tiny_data, products)
    held = training_photos(tiny_data, products, held_out=True)
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


def test_spread_is_even_and_moves() -> None:
    groups = [[sample(number) for number in range(40)], [sample(number) for number in range(100, 104)]]
    chosen = spread(groups, 8)
    assert [item.key for item in chosen] == [f"{n}.png" for n in (0, 10, 20, 30, 100, 101, 102, 103)]
    moved = spread(groups, 8, start=1)
    assert not {item.key for item in moved[:4]} & {item.key for item in chosen}
    assert len(spread(groups, 100)) == 44
    many = [[sample(number)] for number in range(50)]
    assert len(spread(many, 12)) == 12
    assert len({item.key for item in spread(many, 12)}) == 12


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
