"""What photos are called in pre-annotations: whichever folder the command runs in, and whatever a name begins with."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unias.errors import DataError, UsageError
from unias.report.labels.export import export_labels
from unias.report.labels.marked import MarkedPhotos


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """folder(path, ..., **fields) -> a folder as predict leaves it, a row for each path, nothing marked."""
    home = tmp_path / "work" / "out"
    (home / "masks").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 9), dtype=np.uint8)).save(home / "masks" / "0.png")

    def make(*paths: str, **fields: object) -> Path:
        row = {"verdict": "ok", "ok": True, "product": "part", "pred_score": 0.2, "size": [8, 9], "regions": []}
        rows = [row | {"path": path, "mask": "masks/0.png", "frame": ""} | fields for path in paths]
        (home / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        return home

    return make


@pytest.mark.parametrize("path", ["clip.mp4#000003", "/videos/clip.mp4#1000003", "camera0#000003"])
def test_frames_that_were_not_kept(folder: Any, path: str) -> None:
    home = folder("a.png", path)
    with pytest.raises(
        DataError, match=rf"{path} is a frame that was not kept\. Run `unias predict` again with --frames"
    ):
        export_labels(home, "coco")
    assert not (home / "labels-coco").exists()


def test_a_photo_that_is_called_like_a_frame(folder: Any, tmp_path: Path) -> None:
    (tmp_path / "part#000003").touch()
    assert list(MarkedPhotos(folder(str(tmp_path / "part#000003"))).starts) == ["part#000003"]


@pytest.mark.parametrize("place", ["work", "work/out", "."])
def test_relative_paths_from_any_folder(
    folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    home = folder("photos/a.png", "photos/below/b.png", working_folder=str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path / place)
    done = export_labels(home, "coco")
    assert (done.root, done.lost) == (tmp_path / "work" / "photos", 0)
    images = json.loads((home / "labels-coco" / "annotations.json").read_text("utf-8"))["images"]
    assert [image["file_name"] for image in images] == ["a.png", "below/b.png"]


def test_paths_relative_to_a_folder_that_nobody_told(
    folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    """Tables of earlier versions, and of watch."""
    home = folder("photos/a.png", "photos/b.png", str(tmp_path / "work" / "photos" / "gone.png"))
    (tmp_path / "work" / "photos").mkdir()
    (tmp_path / "work" / "photos" / "a.png").touch()
    for place, lost in (("work", 1), (".", 2)):
        monkeypatch.chdir(tmp_path / place)
        answer = cli("export-labels", home, "--to", "coco", "-o", tmp_path / f"labels {lost}")
        assert answer.code == 0, answer.err
        first, told = answer.out.splitlines()
        assert first.startswith("3 photos, named by their path below ")
        assert told.startswith(f"{lost} of them are not found: their paths are relative")


def test_names_that_a_spreadsheet_would_run(folder: Any) -> None:
    names = ["+1.png", "-2.png", "=cmd|x!A1.png", "@3.png", "a=b.png"]
    done = export_labels(folder(*(f"/photos/{name}" for name in names)), "masks")
    rows = csv.DictReader((done.folder / "labels.csv").read_text("utf-8").splitlines())
    assert [row["photo"] for row in rows] == [*(f"./{name}" for name in names[:4]), "a=b.png"]


@pytest.mark.parametrize(
    ("paths", "images"),
    [
        (["/line/Neue ñ/a.png", "/line/Neue ñ/b.png"], ["Neue%20%C3%B1/a.png", "Neue%20%C3%B1/b.png"]),
        (["/a.png", "/line/b.png"], ["a.png", "line/b.png"]),
    ],
)
def test_label_studio_serves_below_the_folder_above(folder: Any, paths: list[str], images: list[str]) -> None:
    """It serves nothing that lies in its document root itself, so the folder common to all is within it."""
    done = export_labels(folder(*paths), "labelstudio")
    tasks = json.loads((done.folder / "tasks.json").read_text("utf-8"))
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={image}" for image in images]


def test_options_of_another_format(folder: Any, cli: Any) -> None:
    home = folder("/photos/a.png")
    for kind in ("labelstudio", "cvat", "masks"):
        with pytest.raises(UsageError, match=f"--polygons: is for --to coco, not {kind}"):
            export_labels(home, kind, polygons=True)
    for kind in ("coco", "cvat", "masks"):
        with pytest.raises(UsageError, match=f"--prefix: is for --to labelstudio, not {kind}"):
            export_labels(home, kind, prefix="")
    assert cli("export-labels", home, "--to", "masks", "--polygons").code == 2
    assert cli("export-labels", home, "--to", "coco", "--prefix", "http://x/").code == 2
    assert not list(home.glob("labels-*"))
    assert cli("export-labels", home, "--to", "coco", "--polygons").code == 0
