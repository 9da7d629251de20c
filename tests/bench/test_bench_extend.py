"""``unias bench extend``: which runs are made of what, what is lost and reached, and the whole way on a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unias.bench import extend
from unias.data.layouts import scan
from unias.errors import UsageError
from unias.studies.runs import Done, Job

PAP = {
    "from-nothing": {"old": 0.6, "new": 0.5},
    "without": {"old": 0.7},
    "photos": {"old": 0.695, "new": 0.48},
    "kept": {"old": 0.6, "new": 0.2},
}
Asked = list[tuple[Job, list[str]]]


@pytest.fixture
def products(tiny_data: Path) -> tuple[str, str]:
    """(old, new) of the tiny data, which has two."""
    old, new = scan(tiny_data).products
    return old, new


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, products: tuple[str, str]) -> Asked:
    """The runs that would be made, with the arguments of their evaluation."""
    found: Asked = []
    names = dict(zip(("old", "new"), products, strict=True))

    def perform(jobs: list[Job], data: Path, home: Path, evaluate: list[str], *rest: Any) -> list[Done]:
        (job,) = jobs
        found.append((job, evaluate))
        word = next(word for word in PAP if word in job.name)
        part = {
            "classes": {names[key]: {"pap": value} for key, value in PAP[word].items()},
            "mean": {"false_alarm_rate": 0.05},
        }
        record = {"minutes": 4.0, "steps": 9, "seed": 0, "commit": "abc", "machine": "two cores"}
        return [Done(job.name, home, record, {**part, "subsets": {extend.COUNTED: part}}, 1.0)]

    monkeypatch.setattr(extend, "perform", perform)
    return found


def test_runs_losses_and_bars(asked: Asked, products: tuple[str, str], tiny_data: Path, tmp_path: Path) -> None:
    old, new = products
    home = tmp_path / "study"
    document = extend.run_extend(tiny_data, home, [new], minutes=20)
    jobs = {job.name: job for job, _ in asked}
    assert list(jobs) == ["from-nothing", f"without-{new}", f"{new}-photos", f"{new}-kept"]
    assert jobs["from-nothing"].command is None
    base = jobs[f"without-{new}"]
    assert base.train == jobs["from-nothing"].train == ("--minutes", "20", "--seed", "0")
    assert base.command is not None
    assert [path.name for path in Path(base.command[1]).iterdir()] == [old]
    assert base.tests == Path(base.command[1])
    kept = jobs[f"{new}-kept"]
    assert kept.train == ("--minutes", "4", "--seed", "0")
    assert kept.command is not None
    assert [path.name for path in Path(kept.command[2]).iterdir()] == [new]
    assert jobs[f"{new}-photos"].train == (*kept.train, "--data", base.command[1])
    found = document["newcomers"][new]
    assert found["photos"]["lost"] == {old: pytest.approx(0.5)}
    assert found["kept"]["lost"] == {old: pytest.approx(10)}
    assert found["photos"]["share"] == pytest.approx(0.96)
    assert [bar["met"] for bar in document["bars"]] == [True, True]
    page = (home / "extend.md").read_text(encoding="utf-8")
    assert f"| {old} | 70.0 | 69.5 (-0.5) | 60.0 (-10.0) | 60.0 |" in page
    assert f"| {new} | – | 48.0 | 20.0 | 50.0 |" in page
    assert "own cuts, mean over products: without it 5.0%; extended, old photos at hand 5.0%; " in page
    assert json.loads((home / "extend.json").read_text(encoding="utf-8"))["bars"] == document["bars"]


def test_a_folder_that_a_kill_left_half_made_is_made_anew(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / ".both.part" / "a").mkdir(parents=True)
    target = extend._linked({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "both")
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"]
    assert not (tmp_path / ".both.part").exists()


@pytest.mark.parametrize(
    ("after", "bars"), [({"old": 0.68, "new": 0.48}, [False, True]), ({"old": 0.7, "new": 0.47}, [True, False])]
)
def test_bars_not_met(
    after: dict[str, float],
    bars: list[bool],
    asked: Asked,
    products: tuple[str, str],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PAP, "photos", after)
    document = extend.run_extend(tiny_data, tmp_path / "study", [products[1]])
    assert [bar["met"] for bar in document["bars"]] == bars


def test_each_run_is_judged_by_the_lines_of_its_products(
    asked: Asked, products: tuple[str, str], tiny_data: Path, tmp_path: Path
) -> None:
    lines = [sample.key for sample in scan(tiny_data).test()]
    subset = tmp_path / "half.txt"
    subset.write_text("\n".join(lines) + "\n", encoding="utf-8")
    extend.run_extend(tiny_data, tmp_path / "study", [products[1]], subset=subset)
    read = {job.name: Path(words[-1].partition("=")[2]).read_text("utf-8").splitlines() for job, words in asked}
    assert read["from-nothing"] == lines
    assert read[f"without-{products[1]}"] == [line for line in lines if not line.startswith(f"{products[1]}/")]


def test_a_product_that_is_not_there(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--newcomer: 'unheard'"):
        extend.run_extend(tiny_data, tmp_path / "study", ["unheard"])
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_whole_way(products: tuple[str, str], tiny_data: Path, tiny_yaml: Path, tmp_path: Path, cli: Any) -> None:
    """Real commands, a few steps; the second call finds everything done."""
    command = (
        "bench",
        "extend",
        tiny_data,
        "--newcomer",
        products[1],
        "--steps",
        "5",
        "--threads",
        "1",
        "-o",
        tmp_path / "study",
    )
    answer = cli(*command)
    assert answer.code == 0, answer.err
    document = json.loads((tmp_path / "study" / "extend.json").read_text(encoding="utf-8"))
    steps = {name: record["steps"] for name, record in document["records"].items()}
    assert steps == {
        "from-nothing": 5,
        f"without-{products[1]}": 5,
        f"{products[1]}-photos": 1,
        f"{products[1]}-kept": 1,
    }
    again = cli(*command)
    assert again.code == 0
    assert "training" not in again.err
