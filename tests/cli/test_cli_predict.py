"""``unias predict``: rows, pictures, JSON, photos that cannot be read."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_answers import strict
from PIL import Image

import unias

pytestmark = pytest.mark.usefixtures("one_thread")
Values = dict[str, Any]


def rows_of(out: Path) -> list[Values]:
    """The rows of both tables, once they were seen to agree."""
    rows = list(csv.DictReader((out / "results.csv").read_text("utf-8").splitlines()))
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert set(row) <= set(line)  # regions, sizes and timings are in results.jsonl alone
        for key, value in row.items():
            assert value == ("" if line[key] is None else str(line[key])), key
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
        assert row["defect_area"] == pytest.approx(result.model_mask.mean(), abs=1e-3)
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
    assert summary["smallest_defect"]["photo"] == [96, 96]
    expected = unias.load(model_folder, device="cpu").smallest_defect((96, 96), "plaque gravée")
    assert expected is not None
    assert summary["smallest_defect"]["defect"] == [round(side, 1) for side in expected]
    assert summary["smallest_defect"]["product"] == "plaque gravée"
    assert "plaque gravée: smallest defect that keeps half its contrast: about" in answer.err
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


def test_parts_that_drift_are_told(model: Any, tiny_data: Path, tmp_path: Path) -> None:
    """Forty parts that pass, all of them higher than any held-out photo: the summary says so, and only then."""
    from types import SimpleNamespace

    from unias import Progress
    from unias.report import predictions

    photo = next(tiny_data.glob("*/test/good/*.png"))
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number:02}.png")
        shutil.copy(photo, paths[-1])
    info = model.products[0]
    result = model.predict(photo, product=info.name)

    def summary(held: tuple[float, ...]) -> Any:
        cut = dataclasses.replace(info.cut, value=result.raw_score + 1)
        product = dataclasses.replace(info, cut=cut, held_out_scores=held)
        results = [dataclasses.replace(result, path=path, name=str(path), ok=True) for path in paths]
        stand_in = SimpleNamespace(
            products=(product,),
            config=model.config,
            smallest_defect=model.smallest_defect,
            predict=lambda *args, **rest: (one for one in results),
        )
        words: Any = (stand_in, [str(path) for path in paths], tmp_path / f"out-{held[0]}", info.name, False)
        return predictions.write_predictions(*words, Progress("silent"))

    assert summary((result.raw_score,) * 30).drift == {}
    told = summary((result.raw_score - 0.5,) * 30).drift
    assert list(told) == [info.name]
    assert "score higher" in told[info.name]


def test_help_says_what_becomes_of_unknown_products(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    assert 'Default: it is recognised, or "unknown product".' in " ".join(cli("predict", "--help").out.split())
