"""``--folds``: every photo judged once, by a model that did not see it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import unias
from unias.data.layouts import scan
from unias.errors import UsageError
from unias.run import folds as module
from unias.run.folds import fold_splits, shared

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_photo_is_held_out_once(tiny_data: Path) -> None:
    samples = scan(tiny_data).train()
    splits = fold_splits(samples, 3, seed=0)
    for name in scan(tiny_data).products:
        held = [sample.key for split in splits for sample in split[name][1]]
        assert sorted(held) == sorted(s.key for s in samples if s.product == name)
        for split in splits:
            own, out = ({s.key for s in part} for part in split[name])
            assert own.isdisjoint(out)
            assert len(own | out) == 8
            assert len(out) in (2, 3)
    assert fold_splits(samples[::-1], 3, seed=0) == splits
    assert fold_splits(samples, 3, seed=1) != splits
    for folds, told in ((1, "at least 2"), (9, "fewer folds")):
        with pytest.raises(UsageError, match=told):
            fold_splits(samples, folds, seed=0)


def test_minutes_are_shared(tiny_config: Any) -> None:
    minutes = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, minutes=12.0, steps=None))
    assert shared(minutes, 3).train.minutes == 3.0
    assert shared(tiny_config, 3) == tiny_config


def test_scores_are_those_of_models_that_did_not_see_the_photo(
    tiny_data: Path, tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    whole = module.out_of_fold

    def noted(build: Any, *rest: Any) -> Any:
        def counted(*words: Any) -> Any:
            runs.append(build(*words))
            return runs[-1]

        return whole(counted, *rest)

    monkeypatch.setattr("unias.api.out_of_fold", noted)
    model = unias.train(tiny_data, tmp_path / "model", config=tiny_config, steps=2, folds=2, device="cpu", threads=1)
    assert len(runs) == 2
    again = unias.load(tmp_path / "model", device="cpu")
    for product in again.products:
        assert len(product.train) == len(product.held_out) == 8
        assert product.folded
        assert "twice that rate" in product.promised()
        assert product.cut.value == max(product.held_out_scores)
        assert product.cut.held_out == 8
        for run in runs:
            own = {s.key for s in run.split[product.name][0]}
            out = {s.key for s in run.split[product.name][1]}
            assert own.isdisjoint(out)
    assert "twice that rate" in (tmp_path / "model" / "card.md").read_text(encoding="utf-8")
    assert not (tmp_path / "model" / "train_state").exists()
    photo = next(tiny_data.glob("*/test/good/*.png"))
    assert again.predict(photo).raw_score == model.predict(photo).raw_score


def test_a_least_area_cannot_be_ranked_afterwards(tiny_data: Path, tiny_config: Any, tmp_path: Path, cli: Any) -> None:
    unias.train(tiny_data, tmp_path / "model", config=tiny_config, steps=1, folds=2, device="cpu", threads=1)
    answer = cli("calibrate", tmp_path / "model", "--min-area", 9, "--data", tiny_data, "-q")
    assert answer.code == 2
    assert "rests on folds" in answer.err
    assert cli("calibrate", tmp_path / "model", "--false-alarms", 0.3, "-q").code == 0
    with pytest.raises(UsageError, match="--folds"):
        unias.train(tiny_data, tmp_path / "other", config=tiny_config, folds=2, resume=True)
