"""What predict leaves on disk: pictures of any proportions, names that cannot collide, tables that are never lost in silence."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unias.data.decode import read_photo
from unias.errors import DataError, Interrupted
from unias.inference.result import Result, pred_score
from unias.progress import Progress
from unias.report.predictions import COLUMNS, Summary, _names, _rows, write_pictures, write_predictions


def result(path: Path, height: int, width: int, cut: float = 0.5) -> Result:
    anomaly_map = np.zeros((224, 224), dtype=np.float32)
    anomaly_map[100:110, 50:60] = 1.0
    score, mask = pred_score(1.0, cut), anomaly_map > cut
    return Result(path, "part", "part", False, 1.0, score, 0.1, cut, (height, width), anomaly_map, mask)


@pytest.mark.parametrize("shape", [(332, 1000), (270, 355), (683, 1024), (40, 1900), (224, 224), (9, 11)])
def test_any_proportions(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full(shape, 90, dtype=np.uint8)).save(path)
    row = write_pictures(tmp_path, "photo", result(path, *shape), read_photo(path))
    with Image.open(tmp_path / row["mask"]) as mask:
        assert mask.size == shape[::-1]
        assert np.asarray(mask).any()
    with Image.open(tmp_path / row["heatmap"]) as heatmap:
        assert max(heatmap.size) == min(1600, max(shape))


def test_names_do_not_collide(tmp_path: Path) -> None:
    photos = [tmp_path / "a" / "x.png", tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png", tmp_path / "a" / "X.bmp"]
    names = _names(photos)
    assert len({name.casefold() for name in names.values()}) == 4
    assert names[photos[2]] == "b/x"


def test_rows_written_so_far_are_kept(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "x")

    def interrupted() -> None:
        with _rows(tmp_path) as write:
            write(row)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()) == 2
    assert len((tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert not list(tmp_path.glob(".*.part"))


class Judge:
    """Stands in for a model: every photo is a defect of one product. ``then`` is called with each photo once it was judged."""

    products = (SimpleNamespace(name="part", held_out_scores=(), cut=SimpleNamespace(value=0.5)),)

    def __init__(self, then: Callable[[Path], object] = lambda photo: None) -> None:
        self.then = then
        self.judged: list[Path] = []
        self.asked: list[Any] = []

    def smallest_defect(self, size: tuple[int, int], product: str | None = None) -> tuple[float, float]:
        self.asked.append((size, product))
        return (3.0, 4.0)

    def predict(self, photos: Iterator[Path], **_: object) -> Iterator[Result]:
        for photo in photos:
            self.judged.append(photo)
            self.then(photo)
            yield result(photo, 30, 40)


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__("lines")
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text.encode("utf-8").decode("utf-8"))


def predict(judge: Judge, sources: list[Any], out: Path | str) -> tuple[Summary, list[str]]:
    heard = Heard()
    words: Any = (judge, sources, out, None, False, heard)
    return write_predictions(*words), heard.said


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of both tables, once they were seen to agree."""
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    table = list(csv.DictReader((out / "results.csv").read_text("utf-8").splitlines()))
    assert [row["path"] for row in table] == [line["path"] for line in lines]
    return lines


def interrupt(photo: Path) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, one of them in a folder below."""
    for name in ("a.png", "b.png", "below/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40), 90, dtype=np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def held_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """No results.csv can be replaced, as on Windows where a spreadsheet shows it."""
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).name == "results.csv":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("name", ["results.csv", "results.jsonl"])
def test_a_folder_in_the_way_of_a_table_is_said_first(photos: Path, tmp_path: Path, name: str) -> None:
    judge, out = Judge(), tmp_path / "out"
    (out / name).mkdir(parents=True)
    with pytest.raises(DataError, match=rf"{name}: a folder is in the way of this table\. Remove it or choose"):
        predict(judge, [photos], out)
    assert judge.judged == []
    assert [path.name for path in out.iterdir()] == [name]


def test_a_table_that_cannot_be_replaced_is_never_lost_in_silence(
    photos: Path, tmp_path: Path, held_open: None
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("old\n")
    with pytest.raises(
        DataError, match=r"results\.csv: cannot be written.* Its rows are in .*\.results\.csv\.part: close"
    ):
        predict(Judge(), [photos], out)
    assert (out / "results.csv").read_text() == "old\n"
    assert len((out / ".results.csv.part").read_text("utf-8").splitlines()) == 4
    assert len((out / "results.jsonl").read_text("utf-8").splitlines()) == 3
    judge = Judge(lambda photo: interrupt(photo) if len(judge.judged) == 3 else None)
    with pytest.raises(
        Interrupted, match=r"the 2 finished rows are in .* Its rows are in .*\.results\.csv\.part: close"
    ):
        predict(judge, [photos], out)
    assert len((out / ".results.csv.part").read_text("utf-8").splitlines()) == 3


@pytest.mark.parametrize(("source", "out"), [(".", "out"), ("photos", "photos/out"), ("photos/", "photos")])
def test_its_own_pictures_are_no_photos(photos: Path, monkeypatch: pytest.MonkeyPatch, source: str, out: str) -> None:
    monkeypatch.chdir(photos.parent)
    assert not any("left out" in line for line in predict(Judge(), [source], out)[1])
    (Path(out) / "labels-masks" / "masks").mkdir(parents=True)
    (Path(out) / "labels-masks" / "masks" / "a.png").write_bytes((photos / "a.png").read_bytes())
    judge = Judge()
    summary, said = predict(judge, [source], out)
    assert summary.photos == len(rows(Path(out))) == 3
    assert f"{out}: 7 pictures there are left out, since predict writes them." in said
    judge = Judge()
    predict(judge, [f"{source}/**/*.png"], out)
    assert sorted(path.resolve() for path in judge.judged) == sorted(
        path.resolve() for path in (photos / "a.png", photos / "b.png", photos / "below" / "c.png")
    )


def test_what_is_left_out_and_what_is_not(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(Judge(), [photos], out)
    with pytest.raises(DataError, match=r"out: holds no photos but pictures that predict wrote into"):
        predict(Judge(), [out], out)
    (photos / "masks").mkdir()
    (photos / "masks" / "own.png").write_bytes((photos / "a.png").read_bytes())
    judge = Judge()
    predict(judge, [photos, out / "masks" / "a.png"], out)  # a folder of that name elsewhere, a picture named itself
    assert [path.name for path in judge.judged] == ["a.png", "b.png", "c.png", "own.png", "a.png"]


def test_a_photo_that_goes_before_its_pictures_are_drawn(photos: Path, tmp_path: Path) -> None:
    judge = Judge(lambda photo: photo.unlink() if photo.name == "b.png" else None)
    summary, said = predict(judge, [photos], tmp_path / "out")
    assert [Path(row["path"]).name for row in rows(tmp_path / "out")] == ["a.png", "c.png"]
    assert (summary.photos, summary.failed, len(summary.unreadable)) == (2, 2, 1)
    assert f"unreadable: {photos / 'b.png'}: no such file. Check the path." in said
    assert any(line.startswith("predicting: 3/3") for line in said)


def test_the_smallest_defect_is_that_of_the_photos_product(photos: Path, tmp_path: Path) -> None:
    judge = Judge()
    summary, said = predict(judge, [photos], tmp_path / "out")
    assert judge.asked == [((30, 40), "part")]
    assert any(line.startswith("part: smallest defect that keeps half its contrast: about 4 x 3") for line in said)
    assert summary.as_dict()["smallest_defect"] == {"product": "part", "photo": (30, 40), "defect": (3.0, 4.0)}


def test_names_that_are_not_utf8(photos: Path, tmp_path: Path) -> None:
    try:
        for name in (b"caf\xe9.png", b"caf\xe8.png", b"none\xe9.png"):
            (photos / os.fsdecode(name)).write_bytes((photos / "a.png").read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 alone")
    judge = Judge(lambda photo: photo.unlink() if photo.name.startswith("none") else None)
    summary, said = predict(judge, [photos], tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [Path(row["path"]).name for row in found] == ["a.png", "b.png", "caf\\udce8.png", "caf\\udce9.png", "c.png"]
    assert len({row["mask"] for row in found}) == 5
    assert all((tmp_path / "out" / row[column]).is_file() for row in found for column in ("mask", "heatmap"))
    assert "none\\udce9.png: no such file" in summary.unreadable[0]
    assert f"unreadable: {summary.unreadable[0]}" in said


def test_ctrl_c_before_the_first_row_leaves_the_tables(photos: Path, tmp_path: Path, tree: Any) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="no row was finished, so no table was written"):
        predict(Judge(interrupt), [photos], out)
    assert not out.exists()
    _, said = predict(Judge(), [photos], out)
    assert not any("held results" in line for line in said)
    before = tree(out)
    with pytest.raises(Interrupted, match="no row was finished, so no table was written"):
        predict(Judge(interrupt), [photos], out)
    assert tree(out) == before
    _, said = predict(Judge(), [photos / "a.png"], out)
    assert sum("out: held results already. Its tables are replaced" in line for line in said) == 1
    assert len(rows(out)) == 1


def test_the_folder_that_relative_paths_begin_in(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    predict(Judge(), ["photos/a.png"], "out")
    (row,) = rows(Path("out"))
    assert (row["path"], row["working_folder"]) == (str(Path("photos/a.png")), str(photos.parent))
