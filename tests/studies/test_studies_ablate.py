"""The ablations: which settings each row changes, which rows are one run, what the tables say."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from unias.config import load_config, to_dict
from unias.errors import UsageError
from unias.model.build import build_unias
from unias.presets import preset
from unias.progress import Progress
from unias.studies import ablate, published
from unias.studies.runs import Done, Job


def test_rows_are_the_published_ones() -> None:
    assert list(ablate.STRUCTURE) == list(published.ablation("structure"))
    assert list(ablate.LEVELS) == list(published.ablation("levels"))


@pytest.mark.parametrize("table", [3, 4])
def test_each_row_is_another_model_that_can_be_built(table: int) -> None:
    rows = ablate.configs(table, preset("small"))
    seen = set()
    for row, config in rows.items():
        model = build_unias(config.model, {1: 16, 2: 24, 3: 48, 4: 120}, 14)
        shapes = sorted((name, tuple(value.shape)) for name, value in model.state_dict().items())
        seen.add((str(shapes), config.model.filter, config.model.cnn))
        assert {k: v for k, v in to_dict(config).items() if k != "model"} == {
            k: v for k, v in to_dict(preset("small")).items() if k != "model"
        }, row
    assert len(seen) == len(rows)
    assert rows[ablate.TABLES[table][3]] == preset("small")


def test_other_tables_are_refused() -> None:
    with pytest.raises(UsageError, match="neither 3 nor 4"):
        ablate.configs(2, preset("small"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The runs that would be made; figures fall with the run's number, so that the default has a gap to show."""
    asked: list[Job] = []

    def perform(jobs: list[Job], data: Path, home: Path, *rest: Any) -> list[Done]:
        asked.extend(jobs)
        record = {"steps": 7, "minutes": 8.0, "seed": 0, "commit": "abc", "machine": "two cores"}
        done = []
        for place, job in enumerate(jobs):
            mean = {"pap": 0.5 - place / 100, "dsc": 0.4, "pixel_auroc": 0.9}
            done.append(Done(job.name, home, record, {"mean": mean, "classes": {}}, 1.0))
        return done

    monkeypatch.setattr(ablate, "perform", perform)
    return asked


def test_runs_are_shared_and_tables_written(asked: list[Job], tiny_data: Path, tmp_path: Path) -> None:
    """16 runs for 17 rows."""
    document = ablate.ablate(tiny_data, tmp_path / "study", progress=Progress("silent"))
    assert len({job.name for job in asked}) == len(asked) == 16
    both = document["tables"]
    assert both["3"]["default"]["run"] == both["4"]["4,3,2,1"]["run"]
    assert both["3"]["one level"]["run"] != both["4"]["4"]["run"]
    config = load_config(Path(asked[3].train[1]))
    assert config.model.cnn == "conv3"
    assert asked[3].train[2:] == ("--minutes", "8", "--seed", "0")
    text = (tmp_path / "study" / "ablate.md").read_text(encoding="utf-8")
    assert "| one level | 50.00 (+8.00) | 40.00 (+0.00) | 90.00 (+0.00) | 7 | 40.14 | 25.24 | 96.35 |" in text
    assert "| default | 42.00 | 40.00 | 90.00 | 7 | 65.12 | 59.33 | 98.22 |" in text
    assert "33 of 36: " in text  # ours fall from row to row; the paper's rise, but for three after MG-CNN
    assert "no filter / MGG-CNN, average" in text
    assert "; MG-CNN / MGG-CNN, average" not in text
    assert "asked of each run: 8 minutes" in text
    assert "| Table 3, default; Table 4, 4,3,2,1 | 7 | 8.0 | abc | two cores |" in text
    assert text.count("| abc | two cores |") == 16
    assert "- Table 3, + Conv3: pAP 61.14 with a printed gap of 1.73; to 65.12 it is 3.98." in text


def test_as_published(asked: list[Job], tiny_data: Path, tmp_path: Path) -> None:
    """The paper's own epochs, whose schedule has no minutes."""
    ablate.ablate(tiny_data, tmp_path / "study", preset="paper", tables=(4,), progress=Progress("silent"))
    assert {job.train[2:] for job in asked} == {("--seed", "0")}
    assert load_config(Path(asked[0].train[1])).train.epochs == 1000
    assert "asked of each run: the epochs of its preset" in (tmp_path / "study" / "ablate.md").read_text(
        encoding="utf-8"
    )
    with pytest.raises(UsageError, match="was begun with minutes None, not 5"):
        ablate.ablate(
            tiny_data, tmp_path / "study", preset="paper", tables=(4,), minutes=5.0, progress=Progress("silent")
        )


def test_command_checks_its_words_first(cli: Any, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli("ablate", tiny_data, "-o", tmp_path / "study", "--table", "5")
    assert answer.code == 2
    assert "5 is neither 3 nor 4" in answer.err
    assert not (tmp_path / "study").exists()


def test_documented_command(
    cli: Any, asked: list[Job], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "systems.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("unias ablate")]
    (tmp_path / "photos").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    answer = cli(*shlex.split(line)[1:])
    assert answer.code == 0, answer.err
    assert "Table 4, 4,3,2: pAP 44.00" in answer.out
    assert len(asked) == 8
    assert (tmp_path / "ablations" / "ablate.md").is_file()
