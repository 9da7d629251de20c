"""``unias data``: what was understood of a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_answers import strict

from unias.config import Config
from unias.maps.resolution import smallest_defect
from unias.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


def test_data_on_a_good_folder(cli: Any, tiny_data: Path) -> None:
    answer = cli("data", tiny_data, "--json")
    assert answer.code == 0, answer.err
    report = strict(answer.out)
    assert report["layout"] == "mvtec"
    assert report["errors"] == []
    product = report["products"]["Dichtung groß"]
    assert (product["train_good"], product["test_good"], product["masks"]) == (8, 3, 3)
    assert product["test_defective"] == {"hole": 2, "scratch": 1}
    assert product["bits"] == {"8": 14}
    told = cli("data", tiny_data)
    assert told.code == 0
    for word in ("Dichtung groß", "plaque gravée", "mvtec", "scratch 1", "96 x 96"):
        assert word in told.out


def test_data_on_a_bad_folder(cli: Any, tiny_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    bad = [data / "plaque gravée" / "train" / "good" / "001.png", data / "Dichtung groß" / "test" / "hole" / "002.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:100])
    answer = cli("data", data)
    assert answer.code == 3
    assert answer.out.count("error: ") == 2
    assert all(str(path) in answer.out for path in bad)
    report = strict(cli("data", data, "--json", "-q").out)
    assert len(report["errors"]) == 2


def test_data_says_it_before_training(cli: Any, tiny_data: Path) -> None:
    answer = cli("data", tiny_data, "--size", "448", "-q")
    assert answer.code == 0
    assert (
        "plaque gravée: smallest defect that keeps half its contrast: about 2 x 2 pixels of a photo of 96 x 96"
        in answer.out
    )
    assert answer.out.count("at --size 448") == 2
    product = strict(cli("data", tiny_data, "--json").out)["products"]["plaque gravée"]
    assert product["smallest_defect"] == [round(side, 1) for side in smallest_defect((96, 96), Config())]
    blurred = smallest_defect((96, 96), preset("small"), blurred=1.0)
    assert product["smallest_defect_blurred"] == [round(side, 1) for side in blurred]
    assert blurred[0] > product["smallest_defect"][0]
    assert f"{blurred[1]:.0f} x {blurred[0]:.0f} where training finds" in cli("data", tiny_data, "-q").out
    assert cli("data", tiny_data, "--size", "100").code == 2
