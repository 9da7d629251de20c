"""``--folds``: every photo judged once, by a model that did not see it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

import unias
from unias.data.layouts import scan
from unias.errors import Interrupted, UsageError
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
    assert shared(minutes, 3, spent=4.0).train.minutes == 2.0
    assert shared(minutes, 3, spent=40.0).train.minutes > 0
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


@pytest.mark.parametrize("when", ["in a fold", "in the last training", "while it is written"])
def test_interrupted_folds_say_what_can_be_done(
    when: str, tiny_data: Path, tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not --resume, which they do not know."""
    wanted = {"in a fold": 1, "in the last training": 3}.get(when)

    class Impatient(unias.Progress):
        met = 0

        def stage(self, name: str, *rest: Any) -> Any:
            if name == "training":
                Impatient.met += 1
                if Impatient.met == wanted:
                    raise KeyboardInterrupt
            return super().stage(name, *rest)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    if wanted is None:
        monkeypatch.setattr("unias.api.save_model", stopped)
    with pytest.raises(Interrupted, match=r"--folds was interrupted.*Remove .*model and run") as caught:
        unias.train(
            tiny_data, tmp_path / "model", config=tiny_config, steps=2, folds=2, threads=1, progress=Impatient("silent")
        )
    assert "--resume" not in str(caught.value)


def test_minutes_of_folds_are_those_of_all_of_them(tiny_data: Path, tiny_config: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, minutes=0.3, steps=None))
    began = time.monotonic()
    model = unias.train(tiny_data, tmp_path / "model", config=config, folds=2, device="cpu", threads=1)
    assert model.record["minutes_asked"] == 0.3
    assert model.record["folds"] == 2
    assert model.record["minutes"] == pytest.approx((time.monotonic() - began) / 60, abs=0.05)
