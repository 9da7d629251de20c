"""The comparison: its tables, its resuming, the published figures. Its runs are tested with the systems' documentation."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unias.data.layouts import scan
from unias.errors import DataError, Interrupted, TrainingError, UsageError
from unias.progress import Progress
from unias.studies import compare, compare_page, compare_tables, published, runs
from unias.studies.compare_tables import PROTOCOL, Entry, latex, markdown, md_mark, ranked, set_row, to_csv
from unias.studies.runs import Job, claim, identity, length, length_told, length_words, perform
from unias.systems.registry import names

QUIET = Progress("silent")


def entry(system: str, seed: int, pap: float, dsc: float) -> Entry:
    figures = {"pap": pap, "dsc": dsc, "dsc_empty": 0.25, "ar": 0.03, "image_auroc": 0.9, "miss_rate": 1 - pap}
    part = {"classes": {"nut_a": figures, "bolt": figures}, "mean": figures}
    cost: dict[str, float | None] = {
        "minutes": 20.1,
        "steps": 1000,
        "seconds_an_image": 0.0123,
        "model_mib": 12.5,
        "peak_mib": None,
    }
    return Entry(system, seed, {None: part, "final": part}, cost, "lite2", {"commit": "abc", "machine": "two cores"})


ENTRIES = [entry("uniad", 0, 0.31234, 0.2), entry("unias", 0, 0.4, 0.3), entry("patchcore", 0, 0.312341, 0.3)]


def test_best_and_second_as_printed() -> None:
    """Equal as printed is equal; None has no rank; where less is better the order turns."""
    assert ranked([0.31234, 0.4, 0.312341, 0.1, None]) == [1, 0, 1, None, None]
    assert ranked([0.1, 0.2, 0.3], less=True) == [0, 1, None]
    assert set_row([0.1, None, 0.3], md_mark) == ["<u>10.00</u>", "–", "**30.00**"]
    assert set_row([0.1], md_mark) == ["10.00"]


def test_markdown_has_the_papers_form() -> None:
    text = markdown(ENTRIES, ["final", None], "20 minutes", "visa")
    lines = text.splitlines()
    assert lines.index("## Test photos of `final`") < lines.index("## All test photos")
    head = next(line for line in lines if line.startswith("| pAP / DSC (oracle)"))
    assert head == "| pAP / DSC (oracle) | AR | PatchCore | UniAD | UniAS |"  # the tables' order, not the runs'
    row = next(line for line in lines if line.startswith("| bolt"))
    assert row == "| bolt | 3.00 | <u>31.23</u> / **30.00** | <u>31.23</u> / <u>20.00</u> | **40.00** / **30.00** |"
    assert "| *empty mask* |  | – / 25.00 | – / 25.00 | – / 25.00 |" in lines
    missed = next(line for line in lines if line.startswith("| missed"))
    assert "**60.00**" in missed
    assert "| milliseconds an image, file to map | 12 | 12 | 12 |" in lines
    assert "34.49; its column's is 19.94" in text
    assert "three times its definition" in text


def test_seeds_stand_in_a_table_of_their_own() -> None:
    text = markdown([*ENTRIES, entry("unias", 1, 0.5, 0.4)], [None], "20 minutes", None)
    head = "| system | seed | pAP | pAP nut_a | pAP bolt | DSC, oracle | image AUROC | steps | minutes | commit | machine |"
    assert head in text
    assert "| UniAS | 1 | 50.00 | 50.00 | 50.00 | 40.00 | 90.00 | 1000 | 20.1 | abc | two cores |" in text
    assert "| UniAS | *median* | 45.00 | 45.00 | 45.00 | 35.00 | 90.00 |  |  |  |  |" in text
    assert "| UniAD | 0 | 31" not in text
    assert "**40.00** / **30.00**" in text  # the first seed's is the main table's


def test_emphasis_is_no_asterisk_on_the_page() -> None:
    text = compare_page._emphasised("a < b; *oracle*: x; *best*: y")
    assert text == "a &lt; b; <em>oracle</em>: x; <em>best</em>: y"
    assert "*" not in compare_page._emphasised(PROTOCOL)


def test_what_fitted_a_model_anew_stands_beside_what_trained_it() -> None:
    one = dataclasses.replace(
        entry("unias", 0, 0.4, 0.3), record={"commit": "abc", "refitted": {"data": "d", "commit": "def"}}
    )
    assert "| commit | abc, fitted anew at def |" in markdown([one], [None], "5 minutes", None)
    assert one.commit in to_csv([one], [None])
    assert dataclasses.replace(one, record={"commit": "abc"}).commit == "abc"


def test_what_a_run_took_is_told_where_it_is_not_what_was_asked() -> None:
    """Minutes off by more than 5%, a run in several sittings, the GPU's memory: in the table, not behind it."""

    def run(system: str, minutes: float, **record: Any) -> Entry:
        one = entry(system, 0, 0.4, 0.3)
        gpu = record.pop("gpu", None)
        cost = {**one.cost, "minutes": minutes, "peak_gpu_mib": gpu}
        return dataclasses.replace(one, cost=cost, record={**one.record, "minutes_asked": 20.0, **record})

    ends = [run("patchcore", 10.0), run("uniad", 20.9, resumed_at=0), run("unias", 22.4, resumed_at=70, gpu=512.0)]
    lines = markdown(ends, [None], "20 minutes", None).splitlines()
    assert "Asked of each: 20 minutes; seed 0." in lines[2]
    assert "| training, minutes | 10.0 (-50%) | 20.9 | 22.4 (+12%) |" in lines
    assert "| resumed at step | – | – | 70 |" in lines
    assert "| of the GPU's, MiB | – | – | 512 |" in lines
    plain = markdown(ends[:1], [None], "20 minutes", None)
    assert "resumed at step" not in plain
    assert "GPU" not in plain


def test_aurocs_stand_product_by_product() -> None:
    lines = markdown(ENTRIES, [None], "20 minutes", None).splitlines()
    assert "| AUROC of pixels / of photos | PatchCore | UniAD | UniAS |" in lines
    assert "| bolt | – / **90.00** | – / **90.00** | – / **90.00** |" in lines


def test_csv_and_latex() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(ENTRIES, [None, "final"]))))
    assert len(rows) == 3 * 2 * 3
    assert rows[0]["system"] == "uniad"
    assert float(rows[0]["pap"]) == 0.31234
    assert rows[0]["peak_mib"] == ""
    both = latex(ENTRIES, [None, "final"])
    assert both.startswith("% All test photos\n")
    assert "% Test photos of `final`" in both
    assert both.count("tabular") == 4
    text = latex(ENTRIES, [None])
    assert r"nut\_a & 3.00 & \underline{31.23} / \textbf{30.00}" in text
    assert text.count(r"\\") == 1 + 2 + 2
    assert r"\begin{tabular}{l r c c c }" in text


def test_published_tables_are_whole_and_flagged() -> None:
    mvtec, visa = published.table("mvtec"), published.table("visa")
    assert (len(mvtec.rows), len(visa.rows)) == (15, 12)
    assert all(set(row) == set(names()) for row in (*mvtec.rows.values(), *visa.rows.values()))
    assert mvtec.mean["unias"] == (65.12, 59.33)
    assert visa.mean["unias"] == (40.06, 32.50)
    assert mvtec.rows["Tile"]["patchcore"] == (59.78, 70.21)
    assert visa.rows["Macaroni2"]["draem"] == (10.42, 50.56)
    assert any("draem" in flag and "34.49" in flag for flag in visa.flags)
    assert not any("hvq" in flag for flag in mvtec.flags)
    assert ("draem", 0) in visa.apart
    assert ("unias", 0) not in visa.apart
    assert {name for name, place in mvtec.apart if place == 0} == {"patchcore", "unias"}
    flagged = {name for name in names() if any(f"{visa.title}, {name}:" in flag for flag in visa.flags)}
    assert flagged == {name for name, _ in visa.apart}
    assert (mvtec.mean_ar, visa.mean_ar) == (13.17, 3.0)
    _, rows = compare_tables.published_rows(visa)
    assert rows[-1][:2] == ["Mean", "3.00"]
    assert rows[-1][2 + names().index("draem")] == "34.49† / 17.35"
    flags = published.ablation_flags("structure")
    assert [flag.split(":")[0] for flag in flags] == [f"Table 3, {row}" for row in ("+ SAR query", "+ Conv3", "MG-CNN")]
    assert "pAP 61.14 with a printed gap of 1.73; to 65.12 it is 3.98." in flags[1]
    assert published.ablation_flags("levels") == []
    assert published.ablation("structure")["default"] == {"pap": 65.12, "dsc": 59.33, "auroc": 98.22}
    assert list(published.ablation("levels")) == ["4", "3", "2", "1", "4,3", "4,1", "4,3,2", "4,3,2,1"]


def test_systems_by_name() -> None:
    assert compare.wanted("all") == list(names())
    assert compare.wanted("unias, uniad,patchcore") == ["patchcore", "uniad", "unias"]
    with pytest.raises(UsageError, match=r"padim.*patchcore"):
        compare.wanted("padim")
    with pytest.raises(UsageError, match="names none"):
        compare.wanted(",")


def test_order_of_runs() -> None:
    """Every system once before any gets a second seed; textures only where they are used."""
    found = compare.jobs(
        ["destseg", "uniad", "unias"], {"destseg": [0], "uniad": [0, 1], "unias": [0, 1, 2]}, 20, "dtd"
    )
    assert [job.name for job in found] == [
        "destseg-seed0",
        "uniad-seed0",
        "unias-seed0",
        "uniad-seed1",
        "unias-seed1",
        "unias-seed2",
    ]
    assert found[0].train == ("--system", "destseg", "--minutes", "20", "--seed", "0", "--textures", "dtd")
    assert "--textures" not in found[1].train + found[2].train


def test_as_published() -> None:
    """UniAS with the preset asked for, the others with their one published preset, for the epochs of each or as many as asked."""
    both = {"uniad": [0], "unias": [0]}
    uniad, unias = compare.jobs(["uniad", "unias"], both, None, None, "visa")
    assert uniad.train == ("--system", "uniad", "--seed", "0", "--preset", "paper")
    assert unias.train == ("--system", "unias", "--seed", "0", "--preset", "visa")
    uniad, _ = compare.jobs(["uniad", "unias"], both, None, None, "paper", 3)
    assert uniad.train == ("--system", "uniad", "--epochs", "3", "--seed", "0", "--preset", "paper")


def test_how_long() -> None:
    assert length("small", None, None, 20.0) == (20.0, None)
    assert length("paper", None, None, 20.0) == (None, None)
    assert length("small", None, 3, 20.0) == (None, 3)
    with pytest.raises(UsageError, match="one of the two"):
        length("small", 1.0, 3, 20.0)
    assert length_words(None, None) == []
    assert [length_told(20.0, None), length_told(None, 3), length_told(None, None)] == [
        "20 minutes, photos to model on disk",
        "3 epochs",
        "the epochs of its preset",
    ]


def test_how_much_is_said_is_no_part_of_a_study(tiny_data: Path) -> None:
    dataset = scan(tiny_data)
    assert identity(dataset, {}, ["--device", "cpu"]) == identity(dataset, {}, ["--device", "cpu", "-q"])


def test_another_request_is_refused(tmp_path: Path) -> None:
    claim(tmp_path / "study", {"minutes": 20})
    claim(tmp_path / "study", {"minutes": 20})
    with pytest.raises(UsageError, match="minutes 20, not 30"):
        claim(tmp_path / "study", {"minutes": 30})
    claim(tmp_path / "published", {"minutes": None, "preset": "paper"})
    with pytest.raises(UsageError, match="preset 'paper', not None"):
        claim(tmp_path / "published", {"minutes": None})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="no study"):
        claim(tmp_path / "full", {"minutes": 20})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands are noted, and leave what the real ones leave."""
    asked: list[list[str]] = []

    def child(name: str, home: Path, arguments: list[str]) -> None:
        asked.append(list(arguments))
        folder = Path(arguments[arguments.index("-o") + 1])
        folder.mkdir(parents=True)
        if arguments[0] == "train":
            (folder / "manifest.json").write_text("{}", encoding="utf-8")
            (folder / "products.json").write_text(json.dumps({"record": {"seed": 0}}), encoding="utf-8")
        else:
            (folder / "metrics.json").write_text(json.dumps({"mean": {}, "classes": {}}), encoding="utf-8")

    monkeypatch.setattr(runs, "_child", child)
    return asked


def test_goes_on_where_it_was(fake: list[list[str]], tmp_path: Path) -> None:
    work = [Job("a", ("--system", "uniad")), Job("b", ("--steps", "3"))]
    perform(work[:1], Path("photos"), tmp_path, ["--no-page"], QUIET, ["--device", "cpu"])
    home = tmp_path / "runs" / "a"
    assert fake == [
        ["train", "photos", "-o", str(home / "model"), "--system", "uniad", "--device", "cpu"],
        ["evaluate", str(home / "model"), "photos", "-o", str(home / "evaluation"), "--no-page", "--device", "cpu"],
    ]
    fake.clear()
    (home / "result.json").unlink()
    (home / "evaluation" / "metrics.json").unlink()  # killed while it was evaluating
    (tmp_path / "runs" / "b" / "model" / "train_state").mkdir(parents=True)  # and one killed while it was training
    with pytest.raises(FileExistsError):
        perform(work, Path("photos"), tmp_path, [], QUIET)  # the stand-in makes its folder anew
    assert [words[0] for words in fake] == ["evaluate", "train"]
    assert fake[1][-1] == "--resume"


def test_a_result_is_all_that_a_run_leaves_behind(fake: list[list[str]], tmp_path: Path) -> None:
    """Models may be removed, or stay on another machine: what is done is not done again."""
    work = [Job("a", ())]
    first = perform(work, Path("photos"), tmp_path, [], QUIET)
    fake.clear()
    for part in ("model", "evaluation"):
        shutil.rmtree(tmp_path / "runs" / "a" / part)
    assert perform(work, Path("photos"), tmp_path, [], QUIET) == first
    assert fake == []
    (tmp_path / "runs" / "a" / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"runs.a: cannot be read"):
        perform(work, Path("photos"), tmp_path, [], QUIET)


@pytest.mark.slow
def test_a_run_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        TrainingError, match=r"a: unias train ended with exit code 3: (?!error).*nowhere.*[^.]\. Mend it"
    ):
        perform([Job("a", ())], tmp_path / "nowhere", tmp_path, [], QUIET)

    class Ctrl:
        stderr: Any = ()

        def __enter__(self) -> Ctrl:
            return self

        def __exit__(self, *rest: object) -> None: ...

        def wait(self) -> int:
            return 130

    monkeypatch.setattr(runs.subprocess, "Popen", lambda *args, **rest: Ctrl())
    with pytest.raises(Interrupted, match="same command"):
        perform([Job("a", ())], tmp_path, tmp_path, [], QUIET)


def test_command_checks_its_words_first(cli: Any, tiny_data: Path, tmp_path: Path) -> None:
    for words, told in (
        (["--published", "coco"], "mvtec"),
        (["--more-seeds", "unias=one"], "SYSTEM=1,2"),
        (["--more-seeds", "padim=1"], "padim"),
        (["--subset", "final=nowhere.txt"], "nowhere.txt"),
        (["--systems", "padim"], "padim"),
        (["--preset", "large"], "large"),
        (["--minutes", "1", "--epochs", "1"], "one of the two"),
    ):
        answer = cli("compare", tiny_data, "-o", tmp_path / "study", *words)
        assert answer.code == 2, words
        assert told in answer.err
    assert not (tmp_path / "study").exists()
