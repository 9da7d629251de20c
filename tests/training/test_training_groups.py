"""Photos in one heap: grouped, trained on, named later."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unias
from unias.errors import UsageError
from unias.training.groups import cluster

pytestmark = pytest.mark.usefixtures("one_thread")


def heap(centres: list[float], photos: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.normal(centre, 1, (photos, 30)) for centre in centres])
    truth = np.repeat(np.arange(len(centres)), photos)
    order = rng.permutation(len(rows))
    return rows[order], truth[order]


@pytest.mark.parametrize("centres", [[0.0], [0.0, 6.0], [0.0, 6.0, -6.0, 14.0]])
def test_as_many_groups_as_there_are(centres: list[float]) -> None:
    rows, truth = heap(centres, 25)
    labels = cluster(rows, None)
    assert labels.max() + 1 == len(centres)
    for product in range(len(centres)):
        assert len(set(labels[truth == product])) == 1


def test_the_number_may_be_told_and_the_largest_is_first() -> None:
    rows = np.concatenate([heap([0.0], 30)[0], heap([8.0], 10)[0], heap([-9.0], 20)[0]])
    labels = cluster(rows, 3)
    assert np.bincount(labels).tolist() == [30, 20, 10]
    assert (cluster(rows, 1) == 0).all()


def test_many_photos_go_to_the_nearest_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unias.training.groups.LOOKED_AT", 40)
    rows, truth = heap([0.0, 7.0], 200)
    labels = cluster(rows, None)
    assert len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == 2


@pytest.fixture
def mixed(tiny_data: Path, tmp_path: Path) -> Path:
    """Both products' good photos in one folder, named so that their order mixes them."""
    (tmp_path / "heap").mkdir()
    for place, photo in enumerate(sorted(tiny_data.glob("*/train/good/*.png"))):
        shutil.copy(photo, tmp_path / "heap" / f"{place % 8}-{place}.png")
    return tmp_path / "heap"


def test_trained_on_groups_and_named_later(
    mixed: Path, tiny_config: Any, tiny_data: Path, tmp_path: Path, cli: Any
) -> None:
    model = unias.train(mixed, tmp_path / "model", config=tiny_config, steps=2, group="auto", device="cpu")
    assert [product.name for product in model.products] == ["group 1", "group 2"]
    keys = [{*product.train, *product.held_out} for product in model.products]
    assert {len(own) for own in keys} == {8}
    assert all(len({int(key.split("-")[1].split(".")[0]) // 8 for key in own}) == 1 for own in keys)
    answer = cli("rename", tmp_path / "model", "group 1=first", "group 2=second")
    assert answer.code == 0, answer.err
    again = unias.load(tmp_path / "model", device="cpu")
    assert [product.name for product in again.products] == ["first", "second"]
    photo = next(tiny_data.glob("*/test/good/*.png"))
    assert again.predict(photo).nearest in ("first", "second")
    for words, told in ((["nobody=x"], "nobody"), (["first=second"], "two products"), (["first"], "OLD=NEW")):
        answer = cli("rename", tmp_path / "model", *words)
        assert answer.code == 2
        assert told in answer.err


def test_only_for_photos_without_names(tiny_data: Path, mixed: Path, tiny_config: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="named products"):
        unias.train(tiny_data, tmp_path / "model", config=tiny_config, steps=2, group="auto", device="cpu")
    with pytest.raises(UsageError, match="auto, or how many"):
        unias.train(mixed, tmp_path / "model", config=tiny_config, steps=2, group="some", device="cpu")
