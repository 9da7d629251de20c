"""``unias evaluate``: metrics.json, tables, the page, subsets, photos of any size."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_answers import reject, strict
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from unias.data.layouts import scan
from unias.data.masks import read_mask, resize_mask
from unias.evaluation.metrics import dice_per_sample
from unias.evaluation.protocol import KEYS

pytestmark = pytest.mark.usefixtures("one_thread")
Values = dict[str, Any]


@pytest.fixture(scope="module")
def evaluated(
    cli: Any, model_folder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("evaluated") / "report"
    return cli("evaluate", model_folder, tiny_data, "-o", out, "--threads", 1), out


def metrics(out: Path) -> Values:
    read = json.loads((out / "metrics.json").read_text("utf-8"), parse_constant=reject)
    assert isinstance(read, dict)
    return read


def test_metrics_have_the_documented_shape(evaluated: Any) -> None:
    answer, out = evaluated
    assert answer.code == 0, answer.err
    document = metrics(out)
    assert list(document) == ["protocol", "size", "classes", "mean", "info", "failures", "calibration"]
    assert document["size"] == "128 x 128"
    assert list(document["classes"]) == ["Dichtung groß", "plaque gravée"]
    for name, values in document["classes"].items():
        assert set(values) == set(KEYS), name
        assert (values["n_good"], values["n_defective"], values["dsc_empty"]) == (3, 3, 0.5)
        assert all(0 <= values[key] <= 1 for key in ("pap", "dsc", "ar", "image_auroc", "false_alarm_rate"))
    for key in ("pap", "dsc", "dsc_cut", "image_auroc"):
        assert document["mean"][key] == pytest.approx(np.mean([v[key] for v in document["classes"].values()]))
        assert document["mean"]["n_classes"][key] == 2
    info = document["info"]
    assert info["config"]["size"] == 128
    assert {"seed", "steps", "minutes", "machine", "commit"} <= set(info["model"])
    assert {"machine", "commit", "versions"} <= set(info["evaluated_by"])
    assert info["product_recognised"] == {"Dichtung groß": 1.0, "plaque gravée": 1.0}


def test_figures_are_those_of_the_maps(evaluated: Any, model: Any, tiny_data: Path) -> None:
    """Against scikit-learn, from the maps that predict gives."""
    document = metrics(evaluated[1])
    for name in ("Dichtung groß", "plaque gravée"):
        samples = scan(tiny_data).test(name)
        results = [model.predict(sample.path) for sample in samples]
        maps = np.stack([result.model_map for result in results])
        masks = np.stack(
            [resize_mask(read_mask(s.mask), 128) if s.mask else np.zeros((128, 128), bool) for s in samples]
        )
        defect = [not sample.is_good for sample in samples]
        scores = [result.raw_score for result in results]
        values = document["classes"][name]
        assert values["pap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-4)
        assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-4)
        assert values["image_auroc"] == pytest.approx(roc_auc_score(defect, scores), abs=1e-6)
        failed = np.array([not result.ok for result in results])
        assert values["miss_rate"] == pytest.approx(1 - failed[np.array(defect)].mean())
        assert values["false_alarm_rate"] == pytest.approx(failed[~np.array(defect)].mean())
        dice = dice_per_sample(masks, np.stack([result.model_mask for result in results]))
        assert values["dsc_cut"] == pytest.approx(dice.mean())
        assert values["dsc_defective_cut"] == pytest.approx(dice[np.array(defect)].mean())
        told = document["calibration"]["products"][name]
        assert told["false_alarms"] == failed[~np.array(defect)].sum()
        assert told["missed"] == (~failed[np.array(defect)]).sum()
        assert told["held_out"] == next(p for p in model.products if p.name == name).cut.held_out


def test_tables_have_every_class_the_mean_and_the_empty_mask(evaluated: Any) -> None:
    _, out = evaluated
    lines = (out / "table.md").read_text("utf-8").splitlines()
    first = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    both = ["Dichtung groß", "plaque gravée"]
    assert first == ["product", "---", *both, "**Mean**", "**empty mask**", "product", "---", *both, "all mixed"]
    assert any("AR (%)" in line and "pAP" in line and "DSC" in line for line in lines)
    rows = list(csv.DictReader((out / "table.csv").read_text("utf-8").splitlines()))
    assert [row["product"] for row in rows] == ["Dichtung groß", "plaque gravée", "Mean", "empty mask"]
    document = metrics(out)
    assert float(rows[0]["pAP"]) == pytest.approx(100 * document["classes"]["Dichtung groß"]["pap"], abs=1e-3)
    assert float(rows[3]["DSC, oracle"]) == 50.0
    assert rows[0]["seed"] == "0"


def test_page_shows_the_products_and_needs_nothing_from_outside(evaluated: Any) -> None:
    answer, out = evaluated
    page = (out / "index.html").read_text("utf-8")
    for word in ("Dichtung groß", "plaque gravée", "empty mask"):
        assert word in page
    sources = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert len(sources) >= 2 * (2 + 6)
    assert all((out / source).is_file() for source in sources)
    assert "<script" not in page
    assert {path.name for path in out.iterdir()} == {"metrics.json", "table.md", "table.csv", "index.html", "assets"}
    assert str(out / "index.html") in answer.out


def test_evaluate_prints_one_json_object(cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli("evaluate", model_folder, tiny_data, "-o", tmp_path / "report", "--json", "--no-page")
    assert answer.code == 0, answer.err
    assert strict(answer.out) == metrics(tmp_path / "report")
    assert not (tmp_path / "report" / "index.html").exists()
    assert "evaluating" in answer.err


def test_evaluate_at_the_photos_own_size(
    cli: Any, evaluated: Any, model_folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    command = ("evaluate", model_folder, tiny_data, "--size", "original", "-q")
    assert cli(*command, "-o", tmp_path / "one").code == 0
    document, small = metrics(tmp_path / "one"), metrics(evaluated[1])
    assert document["size"] == "original"
    for name, values in document["classes"].items():
        assert values["image_auroc"] == small["classes"][name]["image_auroc"]
        assert values["pap"] == pytest.approx(small["classes"][name]["pap"], abs=0.1)
    # the truth is untouched at its own size: exactly its share of pixels
    shares = [read_mask(s.mask).mean() for s in scan(tiny_data).test("plaque gravée") if s.mask is not None]
    assert document["classes"]["plaque gravée"]["ar"] == pytest.approx(np.mean(shares))


def test_evaluate_photos_of_several_sizes(cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    path = data / "plaque gravée" / "test" / "good" / "000.png"
    with Image.open(path) as picture:
        wide = picture.resize((140, 60))
    wide.save(path)
    answer = cli("evaluate", model_folder, data, "-o", tmp_path / "report", "--size", "original", "-q")
    assert answer.code == 0, answer.err
    values = metrics(tmp_path / "report")["classes"]["plaque gravée"]
    shares = [read_mask(s.mask).mean() for s in scan(data).test("plaque gravée") if s.mask is not None]
    assert values["ar"] == pytest.approx(np.mean(shares))
    assert 0 <= values["pap"] <= 1
    assert (tmp_path / "report" / "index.html").is_file()


def test_subsets(cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    tests = scan(tiny_data).test()
    chosen = [sample.key for place, sample in enumerate(tests) if place % 2]
    (tmp_path / "dev.txt").write_text("\n".join(chosen) + "\n\n", encoding="utf-8")
    answer = cli(
        "evaluate", model_folder, tiny_data, "-o", tmp_path / "out", "--subset", f"dev={tmp_path / 'dev.txt'}", "-q"
    )
    assert answer.code == 0, answer.err
    document = metrics(tmp_path / "out")
    assert list(document["subsets"]) == ["dev", "rest"]
    for name, values in document["classes"].items():
        for key in ("n_good", "n_defective"):
            assert sum(part["classes"][name][key] for part in document["subsets"].values()) == values[key]
    dev = document["subsets"]["dev"]["classes"].values()
    assert sum(v["n_good"] + v["n_defective"] for v in dev) == len(chosen)
    table = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert [line for line in table.splitlines() if line.startswith("## ")] == [
        "## All test photos",
        "## Subset: dev",
        "## Subset: rest",
        "## False alarms and misses",
    ]
    assert "mean of dev" in answer.out


def test_product_without_masks(cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    shutil.rmtree(data / "plaque gravée" / "ground_truth")
    answer = cli("evaluate", model_folder, data, "-o", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    document = strict(answer.out)
    values = document["classes"]["plaque gravée"]
    pixel = ("pap", "pixel_auroc", "aupro", "dsc", "dsc_cut", "dsc_empty", "ar", "iou")
    assert all(values[key] is None for key in pixel)
    assert values["image_auroc"] is not None
    assert document["mean"]["n_classes"]["pap"] == 1
    assert document["mean"]["n_classes"]["image_auroc"] == 2
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "plaque gravée" in page
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", page.casefold())


def test_class_that_the_model_never_met(cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "plaque gravée", tmp_path / "data" / "neu & anders")
    answer = cli("evaluate", model_folder, tmp_path / "data", "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    values = metrics(tmp_path / "out")["classes"]["neu & anders"]
    assert all(values[key] is None for key in ("dsc_cut", "false_alarm_rate", "miss_rate"))
    assert all(values[key] is not None for key in ("pap", "dsc", "image_auroc", "dsc_empty"))
    assert metrics(tmp_path / "out")["info"]["product_recognised"] == {"neu & anders": 0.0}
    assert "neu &amp; anders" in (tmp_path / "out" / "index.html").read_text("utf-8")
