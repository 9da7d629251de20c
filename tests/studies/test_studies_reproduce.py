"""docs/reproduce.md, its UniAS runs end to end, shrunk: MVTec-AD's and VisA's layout, random weights for B4, two steps."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from unias.config import load_config
from unias.presets import PRESETS
from unias.systems.registry import BUILT_IN, find

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.slow
def test_tables_one_and_two_shrunk(cli: Any, make_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mvtec = make_data(tmp_path / "mvtec", products=("bottle", "candle"), train=4, good=1, defects=("hole",))
    as_visa(mvtec, tmp_path / "visa")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = []
    for line in commands():
        if "--config" not in line and "evaluate" not in line:
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
        assert set(document["classes"]) == {"bottle", "candle"}
        assert document["info"]["config"]["train"]["loss_weight"] == (10.0 if name == "mvtec" else 1.0)
        figures[name] = {product: values["n_defective"] for product, values in document["classes"].items()}
    assert figures["mvtec"] == figures["visa"] == {"bottle": 1, "candle": 1}
