"""docs/reproduce.md, its UniAS runs end to end, shrunk: MVTec-AD's and VisA's layout, random weights for B4, two steps."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from unias.config import load_config
from unias.errors import Interrupted
from unias.presets import PRESETS
from unias.studies import compare, published
from unias.studies.runs import Job
from unias.systems.registry import BUILT_IN, find, names

ROOT = Path(__file__).resolve().parents[2]
LINE5 = Path(os.environ.get("UNIAS_SHARED", ROOT.parent / "shared")) / "data" / "line5"
needs_anomalib = pytest.mark.skipif(importlib.util.find_spec("anomalib") is None, reason="needs unias[bench]")
TEXT = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    return [line.split() for block in blocks for line in block.splitlines()]


def as_visa(source: Path, target: Path) -> None:
    """The same photos the way VisA lays them out."""
    rows = []
    for photo in sorted(source.glob("*/*/*/*.png")):
        product, split, kind = photo.relative_to(source).parts[:3]
        if split not in ("train", "test"):
            continue
        label = "normal" if kind == "good" else "anomaly"
        name = f"{split}-{kind}-{photo.name}"
        place = f"{product}/Data/Images/{label.capitalize()}/{name}"
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, target / place)
        mask = ""
        if kind != "good":
            mask = f"{product}/Data/Masks/Anomaly/{Path(name).stem}.png"
            (target / mask).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / product / "ground_truth" / kind / f"{photo.stem}_mask.png", target / mask)
        rows.append([product, split, label, place, mask])
    (target / "split_csv").mkdir()
    with (target / "split_csv" / "1cls.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])


def test_commands_name_what_there_is() -> None:
    lines = commands()
    assert {line[line.index("--config") + 1] for line in lines if "--config" in line} == {
        "configs/mvtec.yaml",
        "configs/visa.yaml",
    }
    assert {line[line.index("--system") + 1] for line in lines if "--system" in line} == set(BUILT_IN)
    assert load_config(ROOT / "configs" / "mvtec.yaml") == PRESETS["paper"]
    assert all("paper" in find(name).presets() for name in BUILT_IN)


def test_expected_figures_are_the_published_ones() -> None:
    for key, heading in (("mvtec", "MVTec-AD"), ("visa", "VisA")):
        mean = published.table(key).mean
        assert f"| {heading} | " + " | ".join(f"{mean[n][0]:.2f} / {mean[n][1]:.2f}" for n in BUILT_IN) + " |" in TEXT
        assert f"| {heading} | {mean['unias'][0]:.2f} | {mean['unias'][1]:.2f} |" in TEXT


@pytest.mark.parametrize("key", ["mvtec", "visa"])
def test_tables_as_one_command(
    key: str, cli: Any, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would run: each system as its authors trained it."""
    asked: list[Job] = []

    def perform(jobs: list[Job], *_rest: Any) -> list[Any]:
        asked.extend(jobs)
        raise Interrupted("enough")

    monkeypatch.setattr(compare, "perform", perform)
    monkeypatch.setattr(compare, "Textures", lambda *_words: None)
    monkeypatch.setattr(find("draem"), "require", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / key).symlink_to(tiny_data)
    (line,) = [line for line in commands() if line[1] == "compare" and line[2] == key]
    answer = cli(*["cpu" if word == "cuda" else word for word in line[1:]])
    assert (answer.code, "enough" in answer.err) == (130, True)
    assert [job.train[1] for job in asked] == list(names())
    presets = [job.train[job.train.index("--preset") + 1] for job in asked]
    assert presets == ["paper"] * len(BUILT_IN) + ["paper" if key == "mvtec" else "visa"]
    assert not any("--minutes" in job.train or "--epochs" in job.train for job in asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "system", [pytest.param(n, marks=needs_anomalib) if n in ("draem", "rd4ad") else n for n in BUILT_IN]
)
def test_the_six_as_published_shrunk(system: str, cli: Any, tiny_data: Path, tmp_path: Path) -> None:
    """Their own backbones and widths, with weights by chance, at 128 pixels, for a step or two."""
    small = ["--set", "side=64"]  # or draem alone takes a minute and a half
    words = {"patchcore": ["--set", "most=50"], "destseg": ["--steps", "21", *small], "draem": ["--steps", "2", *small]}
    steps = words.get(system, ["--steps", "2"])
    answer = cli(
        *("train", tiny_data, "-o", tmp_path / "model", "--system", system, "--preset", "paper", *steps),
        *("--weights", "random", "--size", "128", "--threads", "1", "-q"),
    )
    assert answer.code == 0, answer.err
    assert cli("evaluate", tmp_path / "model", tiny_data, "-o", tmp_path / "report", "--no-page", "-q").code == 0
    document = json.loads((tmp_path / "report" / "metrics.json").read_text(encoding="utf-8"))
    wanted = find(system).presets()["paper"]
    assert document["info"]["config"]["backbone"]["name"] == wanted.backbone.name
    assert document["mean"]["pap"] > 0


def few_of_line5(target: Path) -> Path:
    """Two of its products: four photos to train on, a good one and a defect to test."""
    for product in ("bottle", "screw"):
        kind = next(d.name for d in sorted((LINE5 / product / "test").iterdir()) if d.name != "good")
        for part, count in (("train/good", 4), ("test/good", 1), (f"test/{kind}", 1)):
            for photo in sorted((LINE5 / product / part).iterdir())[:count]:
                place = target / product / part / photo.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(photo.resolve())
                mask = LINE5 / product / "ground_truth" / kind / f"{photo.stem}_mask.png"
                if part == f"test/{kind}":
                    (target / product / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                    (target / product / "ground_truth" / kind / mask.name).symlink_to(mask.resolve())
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    "photos", ["drawn", pytest.param("line5", marks=pytest.mark.skipif(not LINE5.is_dir(), reason="no line5"))]
)
def test_tables_one_and_two_shrunk(
    photos: str, cli: Any, make_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    products = ("bottle", "candle") if photos == "drawn" else ("bottle", "screw")
    if photos == "drawn":
        mvtec = make_data(tmp_path / "mvtec", products=products, train=4, good=1, defects=("hole",))
    else:
        mvtec = few_of_line5(tmp_path / "mvtec")
    as_visa(mvtec, tmp_path / "visa")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = []
    for line in commands():
        if "--config" not in line and line[1] != "evaluate":
            continue
        shrunk = ["cpu" if word == "cuda" else word for word in line[1:]]
        if shrunk[0] == "train":
            shrunk += ["--steps", "2", "--weights", "random", "--size", "128"]
        answer = cli(*shrunk)
        assert answer.code == 0, (line, answer.err)
        done.append(line[1])
    assert done == ["train", "evaluate"] * 2
    figures = {}
    for name in ("mvtec", "visa"):
        document = json.loads((tmp_path / f"report-{name}" / "metrics.json").read_text(encoding="utf-8"))
        assert set(document["classes"]) == set(products)
        assert document["info"]["config"]["train"]["loss_weight"] == (10.0 if name == "mvtec" else 1.0)
        figures[name] = {product: values["n_defective"] for product, values in document["classes"].items()}
    assert figures["mvtec"] == figures["visa"] == dict.fromkeys(products, 1)
