"""Drawn textures beside the photos: which, how many, and in whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unias.data.decode import read_photo
from unias.errors import DataError, UsageError
from unias.files import sha256
from unias.presets import PRESETS
from unias.training.batches import Joined
from unias.training.practice import PRODUCT, practice_pictures

WEIGHTS = "model.safetensors"


def test_the_same_pictures_every_time_and_no_two_alike() -> None:
    contents = []
    for _ in range(2):
        with practice_pictures(14, 100, 1, 48) as pictures:
            assert len(pictures) == len({picture.key for picture in pictures}) == 14
            assert all(picture.product == PRODUCT and picture.is_good for picture in pictures)
            assert {read_photo(picture.path).pixels.shape for picture in pictures} == {(48, 48, 3)}
            contents.append([sha256(picture.path) for picture in pictures])
            folder = pictures[0].path.parent
        assert not folder.exists()
    assert contents[0] == contents[1]
    assert len(set(contents[0])) == 14


@pytest.mark.parametrize(
    ("wished", "photos", "products", "count"),
    [(0, 100, 1, 0), (160, 320, 1, 160), (160, 320, 2, 80), (160, 9999, 3, 0), (160, 21, 1, 10), (5, 1, 1, 0)],
)
def test_how_many(wished: int, photos: int, products: int, count: int) -> None:
    """Fewer beside two products, none beside more, and never more than half as many as photos."""
    with practice_pictures(wished, photos, products, 16) as pictures:
        assert len(pictures) == count


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_joined_rows_are_those_of_one_array(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(length, 2, 3)) for length in lengths]
    whole = np.concatenate(parts)
    rows = np.sort(rng.integers(0, len(whole), 5)) if len(whole) else np.zeros(0, dtype=np.int64)
    assert np.array_equal(Joined(*parts)[rows], whole[rows])


def test_only_the_small_preset_practises() -> None:
    assert {name for name, config in PRESETS.items() if config.train.practice} == {"small"}


def test_negative_is_refused() -> None:
    from unias.config import TrainConfig

    with pytest.raises(UsageError, match="practice"):
        TrainConfig(practice=-1)


def test_steps_see_them_and_nothing_else_does(retrain: Callable[..., Any]) -> None:
    """Other weights, the same products with the same photos; out of the cache or not the same pictures; the same again."""
    plain, practised = retrain("plain"), retrain("practised", practice=8)
    direct = retrain("direct", practice=8, cache=False)
    assert sha256(plain.folder / WEIGHTS) != sha256(practised.folder / WEIGHTS)
    assert [t.model.record["practice"] for t in (plain, practised, direct)] == [0, 4, 4]
    assert [(p.name, p.train, p.held_out) for p in practised.model.products] == [
        (p.name, p.train, p.held_out) for p in plain.model.products
    ]
    losses = [t.model.record["first_loss"] for t in (practised, direct, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # the order within a batch, and so the noise, differs
    assert abs(losses[0] - losses[1]) < abs(losses[0] - losses[2])
    assert sha256(retrain("again", practice=8).folder / WEIGHTS) == sha256(practised.folder / WEIGHTS)


def test_beside_turned_photos(retrain: Callable[..., Any], tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows stand behind those of the photos, whose turns are found where they were."""
    from unias.data.layouts import scan
    from unias.run import base

    product = scan(tiny_data).products[0]
    monkeypatch.setattr(base, "allowed_turns", lambda *args: {product: (0, 2)})
    cached, direct = (retrain(name, recipe="auto", practice=8, cache=name == "cached") for name in ("cached", "direct"))
    assert cached.model.record["first_loss"] == pytest.approx(direct.model.record["first_loss"], rel=1e-2)
    assert cached.model.record["last_loss"] == pytest.approx(direct.model.record["last_loss"], rel=2e-2)


def test_a_full_disk_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with (
        pytest.raises(DataError, match=r"0000\.png: a drawn texture cannot be written: No space left"),
        practice_pictures(4, 9, 1, 16),
    ):
        pass
