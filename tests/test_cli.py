"""The commands as a person or a script meets them: help, exit codes, JSON, and what they leave on disk."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

import unias
from unias.backbones.timm_backbone import FrozenBackbone, create_network, use_authors_padding
from unias.cli import app
from unias.config import BackboneConfig
from unias.data.decode import load_input
from unias.data.layouts import scan
from unias.data.masks import read_mask, resize_mask
from unias.errors import MissingError, TrainingError
from unias.evaluation.protocol import KEYS
from unias.inference.store import build_detector
from unias.model.convert import our_name
from unias.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")
COMMANDS = ("train", "predict", "evaluate", "data", "export", "convert", "demo")
Values = dict[str, Any]


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def strict(text: str) -> Any:
    """JSON without NaN, one object on one line."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return json.loads(text, parse_constant=reject)


# --- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    answer = cli(command, "--help")
    assert answer.code == 0
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    assert len(parameters) >= 4
    for parameter in parameters:
        if parameter.name == "help":
            continue
        assert parameter.help, f"{command} {parameter.name} is not explained"
        for name in [*parameter.opts, *parameter.secondary_opts]:
            assert name.casefold() in answer.out.casefold(), name
    for code in ("0 done", "2 usage", "3 bad data", "4 missing weights or extra", "130 interrupted"):
        assert code in answer.out


def test_every_command_is_listed(cli: Any) -> None:
    answer = cli("--help")
    assert answer.code == 0
    assert set(typer.main.get_command(app).commands) == {*COMMANDS, "bench"}  # type: ignore[attr-defined]
    assert all(command in answer.out for command in COMMANDS)


def test_help_and_version_answer_without_torch(clean_environment: dict[str, str]) -> None:
    code = f"""
import sys
from unias.cli import main
for arguments in [["--help"], ["--version"], [], *([name, "--help"] for name in {COMMANDS!r}), ["train", "--steps", "0"]]:
    try:
        main(arguments)
    except SystemExit:
        pass
print([name for name in ("torch", "torchvision", "timm", "numpy", "PIL") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


def test_version(cli: Any) -> None:
    assert cli("--version") == (0, f"unias {unias.__version__}\n", "")


def test_module_is_the_command(clean_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unias", "--version"], env=clean_environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"unias {unias.__version__}\n", "")


# --- exit codes ---------------------------------------------------------------------------------------------

MODEL, DATA, OUT, SETTINGS = "<model>", "<data>", "<out>", "<settings>"  # places that are filled in
TRAIN = ("train", DATA, "-o", OUT, "--config", SETTINGS)
FAULTS: list[tuple[int, tuple[str, ...], str]] = [
    (2, ("nonsense",), ""),
    (2, ("train",), ""),
    (2, ("train", DATA), ""),
    (2, (*TRAIN, "--steps", "0"), ""),
    (2, (*TRAIN, "--steps", "many"), ""),
    (2, (*TRAIN, "--nonsense"), ""),
    (2, (*TRAIN, "--bits", "8"), ""),
    (2, (*TRAIN, "--threads", "0"), ""),
    (2, (*TRAIN, "--workers", "-1"), ""),
    (2, ("train", DATA, "-o", OUT, "--preset", "large"), "preset: 'large'"),
    (2, ("train", DATA, "-o", OUT, "--config", "none.yaml"), "none.yaml"),
    (2, (*TRAIN, "--minutes", "1", "--steps", "2"), "--minutes, --steps and --epochs"),
    (2, (*TRAIN, "--minutes", "-1"), "minutes: -1"),
    (2, (*TRAIN, "--minutes", "nan"), "minutes: nan"),
    (2, (*TRAIN, "--size", "130"), "size: 130"),
    (2, (*TRAIN, "--size", "96"), "size: 96"),
    (2, (*TRAIN, "--seed", "-1"), "seed: -1"),
    (2, (*TRAIN, "--device", "abacus"), "--device: 'abacus'"),
    (2, (*TRAIN, "--device", "mps:7"), "--device: 'mps:7'"),
    (2, (*TRAIN, "--backbone", "nonsense"), "backbone: timm cannot make 'nonsense'"),
    (2, (*TRAIN, "--logger", "paper"), "--logger: 'paper'"),
    (3, ("train", "none", "-o", OUT, "--config", SETTINGS), "none: no such folder"),
    (3, ("train", DATA, "-o", MODEL, "--config", SETTINGS), "holds a finished model already"),
    (3, (*TRAIN, "--weights", SETTINGS), ""),
    (4, (*TRAIN, "--weights", "none.pth"), "none.pth: there is no such weights file"),
    (2, ("predict", MODEL), ""),
    (2, ("predict", MODEL, DATA), ""),
    (2, ("predict", MODEL, DATA, "-o", OUT, "--product", "screw"), "'screw' is not one of this model's"),
    (2, ("predict", MODEL, DATA, "-o", OUT, "--device", "abacus"), "--device: 'abacus'"),
    (3, ("predict", "none", DATA, "-o", OUT), "none: there is no such model folder"),
    (3, ("predict", MODEL, "none*.png", "-o", OUT), "none*.png: no photos here"),
    (2, ("evaluate", MODEL, DATA), ""),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--size", "huge"), "--size: 'huge'"),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", "dev"), "--subset dev"),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", "dev=none.txt"), "none.txt"),
    (2, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", f"dev={MODEL}/model.safetensors"), "cannot be read"),
    (3, ("evaluate", MODEL, DATA, "-o", OUT, "--subset", f"dev={SETTINGS}"), "is no test photo"),
    (3, ("evaluate", "none", DATA, "-o", OUT), "none: there is no such model folder"),
    (3, ("evaluate", MODEL, "none", "-o", OUT), "none: no such folder"),
    (2, ("data",), ""),
    (2, ("data", DATA, "--bits", "17"), ""),
    (3, ("data", "none"), "none: no such folder"),
    (2, ("convert", SETTINGS), ""),
    (3, ("convert", "none.pth", "-o", OUT), "none.pth: there is no such file"),
    (3, ("convert", SETTINGS, "-o", OUT), "cannot be read as a checkpoint"),
    (2, ("demo", "--steps", "0"), ""),
]


@pytest.mark.parametrize(("code", "arguments", "message"), FAULTS, ids=lambda value: str(value)[:60])
def test_faults(
    code: int,
    arguments: tuple[str, ...],
    message: str,
    cli: Any,
    tree: Any,
    model_folder: Path,
    tiny_data: Path,
    tiny_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One message on standard error, nothing on standard output, nothing on disk."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    places = {MODEL: model_folder, DATA: tiny_data, OUT: work / "out", SETTINGS: tiny_yaml}
    filled = []
    for argument in arguments:
        for mark, place in places.items():
            argument = argument.replace(mark, str(place))
        filled.append(argument)
    answer = cli(*filled)
    assert answer.code == code, (answer.out, answer.err)
    assert answer.out == ""
    assert "Traceback" not in answer.err
    if message:
        error = answer.err.splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
    else:
        assert answer.err.strip()
    assert tree(work) == {}


def test_ctrl_c_is_said(cli: Any, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unias.data.layouts.scan", interrupt)
    assert cli("data", tiny_data) == (130, "", "interrupted.\n")


def test_missing_extra_of_the_demo(cli: Any, tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def absent(name: str, *_: Any) -> None:
        assert name == "elpv_dataset"

    monkeypatch.setattr("importlib.util.find_spec", absent)
    answer = cli("demo", "-q")
    assert answer.code == MissingError.exit_code == 4
    assert 'pip install "unias[demo]"' in answer.err
    assert tree(tmp_path) == {}


def test_missing_package_of_a_logger(
    cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lightning", "lightning.pytorch", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    answer = cli("train", tiny_data, "-o", tmp_path / "model", "--config", tiny_yaml, "--logger", "wandb", "-q")
    assert answer.code == 4
    assert "pip install" in answer.err
    assert not (tmp_path / "model").exists()


def test_training_that_fails_ends_with_one(
    cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_reconstruction: Any) -> None:
        raise TrainingError("the loss of step 0 is nan")

    monkeypatch.setattr("unias.training.loop.level_losses", broken)
    answer = cli("train", tiny_data, "-o", tmp_path / "model", "--config", tiny_yaml, "-q")
    assert (answer.code, answer.out, answer.err) == (1, "", "error: the loss of step 0 is nan\n")
    assert not (tmp_path / "model" / "manifest.json").exists()


# --- train --------------------------------------------------------------------------------------------------


def test_train_says_where_and_what(cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    command = ("train", tiny_data, "--config", tiny_yaml, "--steps", 2, "--seed", 3, "--threads", 1, "--device", "cpu")
    answer = cli(*command, "-o", tmp_path / "a", "--json")
    assert answer.code == 0, answer.err
    outcome = strict(answer.out)
    assert outcome["model"] == (tmp_path / "a").as_posix()
    assert (outcome["steps"], outcome["seed"]) == (2, 3)
    assert set(outcome["products"]) == {"Dichtung groß", "plaque gravée"}
    assert all(cut["held_out"] == 4 and cut["cut"] > 0 for cut in outcome["products"].values())
    assert "4 photos to learn from, 4 held out" in answer.err
    assert "training: 2/2" in answer.err

    quiet = cli(*command, "-o", tmp_path / "b", "-q", "--logger", "csv")
    assert quiet.code == 0
    assert quiet.err == ""
    assert f"2 steps, {unias.load(tmp_path / 'b').record['minutes']} minutes. Model: {tmp_path / 'b'}" in quiet.out
    assert re.search(r"^Dichtung groß: cut [\d.e-]+ from 4 held-out photos, 20\.0% false alarms", quiet.out)
    logs = list((tmp_path / "b-logs").rglob("metrics.csv"))
    assert len(logs) == 1
    assert "loss" in logs[0].read_text(encoding="utf-8")


# --- predict ------------------------------------------------------------------------------------------------


def rows_of(out: Path) -> list[Values]:
    """The rows of both tables, once they were seen to agree."""
    rows = list(csv.DictReader((out / "results.csv").read_text("utf-8").splitlines()))
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert list(row) == list(line)
        for key, value in line.items():
            assert row[key] == str(value), key
    return lines


@pytest.fixture(scope="module")
def various(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of several sizes and kinds, two of the same name, one in a folder below."""
    folder = tmp_path_factory.mktemp("new") / "Neue Fotos ñ"
    (folder / "below").mkdir(parents=True)
    sources = sorted(tiny_data.glob("*/test/*/*.png"))
    for number, size in enumerate([(96, 96), (70, 130), (300, 41)]):
        with Image.open(sources[4 * number]) as picture:
            picture.resize(size).save(folder / f"bild {number}.png")
    with Image.open(sources[0]) as picture:
        picture.save(folder / "bild 0.jpg", quality=95)
        picture.save(folder / "below" / "bild 0.png")
        picture.convert("L").save(folder / "below" / "grey.bmp")
    return folder


@pytest.fixture(scope="module")
def predicted(
    cli: Any, model_folder: Path, various: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("predicted") / "out"
    return cli("predict", model_folder, various, "-o", out, "--levels", "--threads", 1, "--device", "cpu"), out


def test_predict_writes_a_row_and_pictures_for_each_photo(predicted: Any, various: Path, model: Any) -> None:
    answer, out = predicted
    assert answer.code == 0, answer.err
    assert answer.out == f"6 photos: {answer.out.split(': ')[1].split('.')[0]}. Results: {out / 'results.csv'}\n"
    assert "predicting: 6/6" in answer.err
    rows = rows_of(out)
    assert [Path(row["path"]) for row in rows] == list(
        sorted(p for p in various.iterdir() if p.is_file()) + sorted((various / "below").iterdir())
    )
    for row in rows:
        result = model.predict(row["path"])
        assert (row["product"], row["ok"]) == (result.product, result.ok)
        for key in ("raw_score", "pred_score", "cut"):
            assert row[key] == pytest.approx(getattr(result, key), rel=1e-5)
        assert row["defect_area"] == pytest.approx(result.pred_mask.mean(), abs=1e-3)
        with Image.open(out / row["mask"]) as picture:
            mask = np.array(picture)
        assert mask.shape == result.size
        assert set(np.unique(mask)) <= {0, 255}
        assert mask.any() == (not row["ok"])
        with Image.open(out / row["heatmap"]) as picture:
            assert picture.mode == "RGB"
            width, height = picture.size
        assert width / height == pytest.approx(result.size[1] / result.size[0], rel=0.05)
        with Image.open(out / row["levels"]) as picture:
            assert picture.width > 4 * 100


def test_pictures_of_photos_with_one_name_are_kept_apart(predicted: Any) -> None:
    _, out = predicted
    rows = rows_of(out)
    for column in ("heatmap", "mask", "levels"):
        assert len({row[column].casefold() for row in rows}) == len(rows) == 6
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert written == {row[column] for row in rows for column in ("heatmap", "mask", "levels")}
    assert {path.name for path in out.iterdir()} == {"results.csv", "results.jsonl", "heatmaps", "masks", "levels"}


def test_predict_to_json(cli: Any, model_folder: Path, various: Path, tmp_path: Path) -> None:
    pattern = f"{various}/*.png"
    answer = cli("predict", model_folder, pattern, "-o", tmp_path / "out", "--json", "--product", "plaque gravée")
    assert answer.code == 0, answer.err
    summary = strict(answer.out)
    assert summary["photos"] == summary["ok"] + summary["failed"] == 3
    assert summary["unreadable"] == []
    rows = rows_of(tmp_path / "out")
    assert {row["product"] for row in rows} == {"plaque gravée"}
    assert {row["levels"] for row in rows} == {""}
    assert not (tmp_path / "out" / "levels").exists()


def test_unreadable_photo_among_good_ones(cli: Any, model_folder: Path, various: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(various, tmp_path / "photos"))
    (photos / "bild 1.png").write_bytes((photos / "bild 1.png").read_bytes()[:500])
    answer = cli("predict", model_folder, photos, photos / "none.png", "-o", tmp_path / "out")
    assert answer.code == 3
    assert "5 photos" in answer.out
    assert "2 unreadable" in answer.out
    named = [line for line in answer.err.splitlines() if line.startswith("unreadable: ")]
    assert [path in line for path, line in zip(("bild 1.png", "none.png"), named, strict=True)] == [True, True]
    assert len(rows_of(tmp_path / "out")) == 5


def test_predicting_again_replaces(cli: Any, model_folder: Path, various: Path, tmp_path: Path) -> None:
    for pattern, count in ((f"{various}/*.png", 3), (f"{various}/*.jpg", 1)):
        answer = cli("predict", model_folder, pattern, "-o", tmp_path / "out", "-q")
        assert answer.code == 0
        assert answer.err == ""
        assert len(rows_of(tmp_path / "out")) == count


def test_a_wrong_product_leaves_earlier_results_alone(
    cli: Any, tree: Any, model_folder: Path, various: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert cli("predict", model_folder, f"{various}/*.jpg", "-o", out, "-q").code == 0
    before = tree(out)
    assert cli("predict", model_folder, various, "-o", out, "--product", "screw").code == 2
    assert cli("predict", model_folder, f"{various}/*.none", "-o", out).code == 3
    assert tree(out) == before


# --- evaluate -----------------------------------------------------------------------------------------------


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
    assert list(document) == ["protocol", "size", "classes", "mean", "info"]
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
        maps = np.stack([result.anomaly_map for result in results])
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


def test_tables_have_every_class_the_mean_and_the_empty_mask(evaluated: Any) -> None:
    _, out = evaluated
    lines = (out / "table.md").read_text("utf-8").splitlines()
    first = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert first == ["product", "---", "Dichtung groß", "plaque gravée", "**Mean**", "**empty mask**"]
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


# --- data ---------------------------------------------------------------------------------------------------


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


# --- convert ------------------------------------------------------------------------------------------------

INVERSE: list[tuple[str, str]] = [
    (r"pixel_decoder\.lateral\.(\d)\.conv\.(\w+)", r"pixel_decoder.adapter_\1.\2"),
    (r"pixel_decoder\.lateral\.(\d)\.norm\.(\w+)", r"pixel_decoder.adapter_\1.norm.\2"),
    (r"pixel_decoder\.top_output\.(\w+)", r"pixel_decoder.layer_4.\1"),
    (r"pixel_decoder\.output\.(\d)\.conv\.(\w+)", r"pixel_decoder.layer_\1.\2"),
    (r"pixel_decoder\.output\.(\d)\.norm\.(\w+)", r"pixel_decoder.layer_\1.norm.\2"),
    (r"pixel_decoder\.input_projection\.(\w+)", r"pixel_decoder.input_proj.\1"),
    (
        r"pixel_decoder\.encoder\.(\d)\.attention\.attention\.(.+)",
        r"pixel_decoder.transformer.encoder.layers.\1.self_attn.\2",
    ),
    (
        r"pixel_decoder\.encoder\.(\d)\.attention\.norm\.(\w+)",
        r"pixel_decoder.transformer.encoder.layers.\1.norm1.\2",
    ),
    (
        r"pixel_decoder\.encoder\.(\d)\.feed_forward\.norm\.(\w+)",
        r"pixel_decoder.transformer.encoder.layers.\1.norm2.\2",
    ),
    (r"pixel_decoder\.encoder\.(\d)\.feed_forward\.(.+)", r"pixel_decoder.transformer.encoder.layers.\1.\2"),
    (r"tokens\.patch\.<(\d)>\.(\w+)", r"predictor.patch_embed.\1.proj.\2"),
    (r"tokens\.project\.<(\d)>\.(\w+)", r"predictor.input_proj.\1.\2"),
    (r"tokens\.level_embedding", r"predictor.level_embed_src.weight"),
    (r"query_source\.(\w+)", r"predictor.feature_projector.\1"),
    (r"query\.query", r"predictor.spatial_query_feat.weight"),
    (r"decoder\.query_position", r"predictor.spatial_query_embed.weight"),
    (r"query\.channel_weight\.(.+)", r"predictor.query_processor.channel_weight.agg.\1"),
    (r"query\.spatial_weight\.(.+)", r"predictor.query_processor.spatial_weight.\1"),
    (r"query\.adaptor\.branches\.(\d)\.(\d)\.(\w+)", r"predictor.query_processor.adaptor.conv\1.\2.\3"),
    (r"decoder\.layers\.<(\d)>\.cnn\.branches\.(\d)\.(\d)\.(\w+)", r"predictor.layer_adaptors.\1.conv\2.\3.\4"),
    (
        r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.cross\.attention\.(.+)",
        r"predictor.transformer_block.\1.\2CrossAttnLayer.multihead_attn.\3",
    ),
    (
        r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.self\.attention\.(.+)",
        r"predictor.transformer_block.\1.\2SelfAttnLayer.self_attn.\3",
    ),
    (r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.cross\.(.+)", r"predictor.transformer_block.\1.\2CrossAttnLayer.\3"),
    (r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.self\.(.+)", r"predictor.transformer_block.\1.\2SelfAttnLayer.\3"),
    (r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.feed_forward\.(.+)", r"predictor.transformer_block.\1.\2FFNLayer.\3"),
    (r"heads\.norm\.(\w+)", r"predictor.decoder_norm.\1"),
]


def released_name(ours: str) -> str:
    """The authors' name of one of our tensors: ours is the only table that goes this way, so a slip shows."""
    heads = re.fullmatch(r"heads\.heads\.(\d)\.layers\.(\d)\.(\w+)", ours)
    if heads:
        return f"predictor.out_agg.{4 - int(heads[1])}.{int(heads[2]) + 1}.{heads[3]}"
    marked = re.sub(
        r"^(tokens\.patch|tokens\.project|decoder\.layers)\.(\d)",
        lambda found: f"{found[1]}.<{4 - int(found[2])}>",
        ours,
    )
    marked = marked.replace(".hybrid.spatial.", ".hybrid.Spatial.").replace(".hybrid.channel.", ".hybrid.Channel.")
    for pattern, template in INVERSE:
        if re.fullmatch(pattern, marked):
            return re.sub(pattern, template, marked)
    raise AssertionError(f"no released name for {ours}")


class Released(NamedTuple):
    """A checkpoint as the authors' code leaves it, at small widths with random weights, and the same built directly."""

    folder: Path
    predict: Callable[[Path], np.ndarray]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    name = PRESETS["released"].backbone.name
    network, channels = create_network(name)
    backbone = {key: value.clone() for key, value in network.state_dict().items()}
    settings = dataclasses.replace(
        PRESETS["released"],
        size=128,
        backbone=BackboneConfig(name, authors_padding=True),
        model=dataclasses.replace(
            PRESETS["released"].model, width=32, ffn=64, fpn_widths=(32, 32, 32, 32), patch_widths=(32, 48, 64)
        ),
    )
    use_authors_padding(network, name)
    detector = build_detector(settings, ("any",), FrozenBackbone(network, channels)).eval()
    head: OrderedDict[str, torch.Tensor] = OrderedDict()
    for ours, value in detector.unias.state_dict().items():
        theirs = released_name(ours)
        assert our_name(theirs) == ours
        if ours == "query.query":
            value = value.permute(0, 2, 3, 1).flatten(0, 2)
        head[f"module.sem_seg_head.{theirs}"] = value
    whole = OrderedDict(head)
    for place, value in enumerate(backbone.values()):
        whole[f"module.backbone._{place}.weight"] = value
    whole["module.backbone._conv_head.weight"] = torch.zeros(3, 3)
    whole["module.backbone._fc.bias"] = torch.zeros(1000)
    torch.save({"epoch": 1000, "state_dict": whole, "best_metric": np.float64(0.98)}, folder / "whole.pth")
    torch.save({"state_dict": head}, folder / "head.pth")
    torch.save(backbone, folder / "b4.pth")

    def predict(photo: Path) -> np.ndarray:
        with torch.inference_mode():
            images = torch.from_numpy(load_input(photo, 128)[0])[None]
            return detector(images).anomaly_map[0].numpy()

    return Released(folder, predict)


@pytest.mark.slow
def test_released_checkpoint_becomes_a_model(cli: Any, released: Released, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli("convert", released.folder / "whole.pth", "-o", tmp_path / "model", "--json")
    assert answer.code == 0, answer.err
    assert strict(answer.out)["products"] == "any"
    photo = sorted(tiny_data.glob("*/test/hole/*.png"))[0]
    expected = released.predict(photo)
    converted = unias.load(tmp_path / "model", device="cpu")
    assert converted.config.backbone.authors_padding
    assert converted.config.size == 128
    result = converted.predict(photo)
    assert expected.max() > 0
    assert np.allclose(result.anomaly_map, expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert (result.product, result.ok) == ("any", True)

    bare = cli(
        "convert", released.folder / "head.pth", "-o", tmp_path / "bare", "--weights", released.folder / "b4.pth", "-q"
    )
    assert bare.code == 0, bare.err
    again = unias.load(tmp_path / "bare", device="cpu").predict(photo)
    assert np.array_equal(again.anomaly_map, result.anomaly_map)

    second = cli("convert", released.folder / "whole.pth", "-o", tmp_path / "model")
    assert second.code == 3
    assert "holds a finished model already" in second.err


@pytest.mark.slow
def test_converted_with_good_photos_has_provisional_cuts(
    cli: Any, released: Released, tiny_data: Path, tmp_path: Path
) -> None:
    command = ("convert", released.folder / "whole.pth", "-o", tmp_path / "model", "--data", tiny_data)
    answer = cli(*command)
    assert answer.code == 0, answer.err
    converted = unias.load(tmp_path / "model", device="cpu")
    assert [product.name for product in converted.products] == ["Dichtung groß", "plaque gravée"]
    for product in converted.products:
        assert product.cut.provisional
        assert len(product.held_out) == 4
        scores = [converted.predict(tiny_data / key, product=product.name).raw_score for key in product.held_out]
        assert product.cut.value == pytest.approx(max(scores), rel=1e-4)
    card = (tmp_path / "model" / "card.md").read_text("utf-8")
    assert "provisional" in card
    assert cli("predict", tmp_path / "model", tiny_data, "-o", tmp_path / "out", "-q").code == 0


@pytest.mark.slow
def test_checkpoints_that_do_not_fit_leave_nothing(cli: Any, tree: Any, released: Released, tmp_path: Path) -> None:
    content = torch.load(released.folder / "whole.pth", weights_only=False)["state_dict"]
    without = {key: value for key, value in content.items() if not key.endswith("decoder_norm.bias")}
    torch.save({"state_dict": without}, tmp_path / "without.pth")
    other = {key: torch.zeros(5) if key.endswith("backbone._3.weight") else value for key, value in content.items()}
    torch.save({"state_dict": other}, tmp_path / "other.pth")
    before = tree(tmp_path)
    for name, message in (("without.pth", "heads.norm.bias is missing"), ("other.pth", "backbone tensor _3.weight")):
        answer = cli("convert", tmp_path / name, "-o", tmp_path / "model", "-q")
        assert answer.code == 3
        assert message in answer.err
        assert name in answer.err
    bare = cli("convert", released.folder / "head.pth", "-o", tmp_path / "model", "--weights", "none.pth", "-q")
    assert bare.code == 4
    assert tree(tmp_path) == before


def test_no_figure_is_nan_in_json() -> None:
    with pytest.raises(AssertionError):
        strict(json.dumps({"a": math.nan}) + "\n")
