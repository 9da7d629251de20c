"""Everything that can be wrong with data, disks and models: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unias.data.cache import write_entry
from unias.errors import DataError
from unias.inference.store import FILES
from unias.report.predictions import COLUMNS, _rows

pytestmark = pytest.mark.usefixtures("one_thread")
OUT = "out"


def png(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and holds none of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


@pytest.fixture
def refused(cli: Any, tree: Any, tmp_path: Path) -> Callable[..., str]:
    """refused(code, "train", ...): the command ends so, with one message, and the folder is as it was; the message."""

    def run(code: int, *arguments: object, at: Path | None = None) -> str:
        before = tree(at or tmp_path)
        answer = cli(*arguments)
        assert answer.code == code, (answer.out, answer.err)
        errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, answer.err
        assert answer.err.splitlines()[-1] == errors[0]
        assert errors[0].rstrip().endswith((".", ")", "`")), errors[0]
        assert tree(at or tmp_path) == before
        return errors[0]

    return run


def train(data: Path, home: Path, settings: Path) -> list[object]:
    return ["train", data, "-o", home / OUT, "--config", settings, "--steps", 2, "-q"]


# --- folders ------------------------------------------------------------------------------------------------


def test_empty_folder(refused: Any, tmp_path: Path, tiny_yaml: Path, model_folder: Path) -> None:
    empty = tmp_path / "nothing here"
    empty.mkdir()
    commands: list[list[object]] = [
        train(empty, tmp_path, tiny_yaml),
        ["data", empty],
        ["evaluate", model_folder, empty, "-o", tmp_path / OUT, "-q"],
        ["predict", model_folder, empty, "-o", tmp_path / OUT, "-q"],
    ]
    for command in commands:
        message = refused(3, *command)
        assert str(empty) in message
        assert "no photos" in message


def test_missing_folder_and_file_for_a_folder(
    refused: Any, tmp_path: Path, tiny_yaml: Path, model_folder: Path
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("hello", encoding="utf-8")
    for path in (tmp_path / "none", file):
        for command in (train(path, tmp_path, tiny_yaml), ["data", path], ["evaluate", model_folder, path, "-o", OUT]):
            assert str(path) in refused(3, *command)


def test_no_good_photos(refused: Any, data: Path, tmp_path: Path, tiny_yaml: Path) -> None:
    for product in data.iterdir():
        shutil.rmtree(product / "train")
    message = refused(3, *train(data, tmp_path, tiny_yaml))
    assert "no good training photos of Dichtung groß, plaque gravée" in message


def test_no_test_photos(refused: Any, data: Path, tmp_path: Path, model_folder: Path) -> None:
    for product in data.iterdir():
        shutil.rmtree(product / "test")
        shutil.rmtree(product / "ground_truth")
    assert "no test photos" in refused(3, "evaluate", model_folder, data, "-o", tmp_path / OUT, "-q")


# --- photos -------------------------------------------------------------------------------------------------

BAD_PHOTOS = {
    "zero bytes": (b"", "zero bytes"),
    "no image": (b"hello, world" * 20, "not an image"),
    "1 x 1": (None, "1 x 1 pixels is too small"),
    "bomb": (png(20_000, 20_000), r"20000 x 20000 is 400,000,000 pixels, over the limit"),
    "header alone": (png(64, 64), "truncated or damaged"),
}


@pytest.fixture(params=list(BAD_PHOTOS))
def bad_photo(request: pytest.FixtureRequest, data: Path) -> tuple[Path, str]:
    content, message = BAD_PHOTOS[request.param]
    path = data / "plaque gravée" / "train" / "good" / "003.png"
    if content is None:
        Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(path)
    else:
        path.write_bytes(content)
    return path, message


def test_bad_photo_in_training(
    refused: Any, cli: Any, bad_photo: tuple[Path, str], data: Path, tmp_path: Path, tiny_yaml: Path
) -> None:
    path, fault = bad_photo
    message = refused(3, *train(data, tmp_path, tiny_yaml))
    assert str(path) in message
    assert fault in message
    assert "--skip-bad" in message


def test_bad_photo_in_the_other_commands(
    refused: Any, cli: Any, bad_photo: tuple[Path, str], data: Path, tmp_path: Path, model_folder: Path
) -> None:
    path, fault = bad_photo
    report = cli("data", data, "--json", "-q")
    assert report.code == 3
    (error,) = json.loads(report.out)["errors"]
    assert str(path) in error
    assert fault in error
    answer = cli("predict", model_folder, path, path.with_name("002.png"), "-o", tmp_path / OUT, "--json")
    assert answer.code == 3
    summary = json.loads(answer.out)
    assert summary["photos"] == 1
    assert str(path) in summary["unreadable"][0]
    assert f"unreadable: {summary['unreadable'][0]}" in answer.err
    shutil.rmtree(tmp_path / OUT)
    test = data / "plaque gravée" / "test" / "good" / "001.png"
    shutil.move(path, test)
    message = refused(3, "evaluate", model_folder, data, "-o", tmp_path / OUT, "-q")
    assert str(test) in message
    assert fault in message


# --- masks --------------------------------------------------------------------------------------------------


def test_mask_without_an_image_is_a_warning(cli: Any, data: Path, tmp_path: Path, model_folder: Path) -> None:
    masks = data / "plaque gravée" / "ground_truth" / "hole"
    shutil.copy(next(masks.iterdir()), masks / "077_mask.png")
    looked = cli("data", data)
    assert looked.code == 0
    assert "mask without a photo: 077_mask.png" in looked.out
    answer = cli("evaluate", model_folder, data, "-o", tmp_path / OUT, "--no-page")
    assert answer.code == 0, answer.err
    assert "warning: " in answer.err
    assert "mask without a photo: 077_mask.png" in answer.err


def test_empty_mask_of_a_defect_is_a_warning(cli: Any, data: Path, tmp_path: Path, model_folder: Path) -> None:
    mask = next((data / "plaque gravée" / "ground_truth" / "hole").iterdir())
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(mask)
    looked = cli("data", data, "--json")
    assert looked.code == 0
    assert any(str(mask) in line and "empty mask" in line for line in json.loads(looked.out)["warnings"])
    answer = cli("evaluate", model_folder, data, "-o", tmp_path / OUT, "--no-page")
    assert answer.code == 0, answer.err
    assert any(line.startswith("warning: ") and str(mask) in line for line in answer.err.splitlines())


def test_mask_of_the_wrong_class(refused: Any, data: Path, tmp_path: Path, model_folder: Path) -> None:
    truth = data / "Dichtung groß" / "ground_truth"
    shutil.move(truth / "scratch" / "000_mask.png", truth / "hole" / "000_mask.png")
    for command in (["data", data], ["evaluate", model_folder, data, "-o", tmp_path / OUT, "-q"]):
        message = refused(3, *command)
        assert str(truth / "hole" / "000_mask.png") in message
        assert "a mask of the wrong class" in message


def test_mask_of_another_picture(refused: Any, cli: Any, data: Path, tmp_path: Path, model_folder: Path) -> None:
    mask = data / "Dichtung groß" / "ground_truth" / "scratch" / "000_mask.png"
    Image.fromarray(np.full((30, 96), 255, np.uint8)).save(mask)
    message = refused(3, "evaluate", model_folder, data, "-o", tmp_path / OUT, "-q")
    assert str(mask) in message
    assert "not the same picture" in message


def test_defect_without_a_mask_while_others_have_one(
    refused: Any, data: Path, tmp_path: Path, model_folder: Path
) -> None:
    (data / "Dichtung groß" / "ground_truth" / "scratch" / "000_mask.png").unlink()
    message = refused(3, "evaluate", model_folder, data, "-o", tmp_path / OUT, "-q")
    assert str(data / "Dichtung groß" / "test" / "scratch" / "000.png") in message
    assert "without a mask" in message


# --- outputs that cannot be written -------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own, where this user may mount one; skips the test, saying why, elsewhere."""
    folder.mkdir()
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("mounting a disk takes root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written to: by its permissions, or for root, whom they do not stop, by its disk."""
    if os.name != "nt" and os.geteuid() == 0:
        with mounted(tmp_path / "read-only", "size=200k,ro") as folder:
            yield folder
        return
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("permissions do not stop this user")
    yield folder
    folder.chmod(0o700)


def test_read_only_output(
    refused: Any, read_only: Path, tiny_data: Path, tmp_path: Path, tiny_yaml: Path, model_folder: Path
) -> None:
    inner = read_only / "model"
    commands: list[list[object]] = [
        ["train", tiny_data, "-o", inner, "--config", tiny_yaml, "--steps", 2, "-q"],
        ["predict", model_folder, tiny_data, "-o", read_only, "-q"],
        ["predict", model_folder, tiny_data, "-o", inner, "-q"],
        ["evaluate", model_folder, tiny_data, "-o", inner, "-q"],
    ]
    for command in commands:
        message = refused(3, *command)
        assert str(read_only) in message
        assert "read-only" in message


def test_full_disk_in_training(refused: Any, tiny_data: Path, tmp_path: Path, tiny_yaml: Path) -> None:
    with mounted(tmp_path / "small", "size=200k") as small:
        message = refused(3, *train(tiny_data, small, tiny_yaml), at=small)
        assert "the disk is full" in message
        assert str(small) in message


def test_full_disk_in_evaluate(cli: Any, tiny_data: Path, tmp_path: Path, model_folder: Path) -> None:
    with mounted(tmp_path / "small", "size=100k") as small:
        answer = cli("evaluate", model_folder, tiny_data, "-o", small / OUT, "-q")
        assert answer.code == 3
        (line,) = answer.err.splitlines()
        assert "the disk is full" in line
        check_whole(small)
        left = {path.name for path in (small / OUT).iterdir()} if (small / OUT).exists() else set()
        assert left <= {"metrics.json", "table.md", "table.csv"}  # no page, and no pictures without their page


def test_full_disk_in_predict_keeps_finished_rows(
    cli: Any, tiny_data: Path, tmp_path: Path, model_folder: Path
) -> None:
    with mounted(tmp_path / "small", "size=100k") as small:
        out = small / OUT
        answer = cli("predict", model_folder, tiny_data, "-o", out, "-q")
        assert answer.code == 3
        (line,) = answer.err.splitlines()
        assert "the disk is full" in line
        check_whole(small)
        rows = list(csv.DictReader((out / "results.csv").read_text("utf-8").splitlines()))
        lines = [json.loads(text) for text in (out / "results.jsonl").read_text("utf-8").splitlines()]
        assert 0 < len(rows) < 28
        assert [row["path"] for row in rows] == [line["path"] for line in lines]
        assert all((out / row[name]).is_file() for row in rows for name in ("mask", "heatmap"))


def test_last_row_is_whole_or_not_there(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "x" * 20)
    with mounted(tmp_path / "small", "size=24k") as small:

        def fill() -> None:
            with _rows(small) as write:
                for number in range(1000):
                    write(row | {"path": number})

        with pytest.raises(DataError, match="the disk is full"):
            fill()
        check_whole(small)
        rows = list(csv.DictReader((small / "results.csv").read_text("utf-8").splitlines()))
        lines = [json.loads(text) for text in (small / "results.jsonl").read_text("utf-8").splitlines()]
        assert 10 < len(rows) < 1000
        assert rows[-1] == {name: str(value) for name, value in lines[-1].items()}
        assert [int(row["path"]) for row in rows] == [line["path"] for line in lines] == list(range(len(rows)))


def check_whole(folder: Path) -> None:
    """No temporary name is left, and every picture and document can be read."""
    for path in folder.rglob("*"):
        assert ".part" not in path.name
        assert not path.name.startswith(".")
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))


def test_full_disk_of_the_cache_is_no_obstacle(
    cli: Any, tiny_data: Path, tmp_path: Path, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path / "small", "size=200k") as small:
        monkeypatch.setenv("UNIAS_CACHE", str(small / "cache"))
        answer = cli("train", tiny_data, "-o", tmp_path / OUT, "--config", tiny_yaml, "--steps", 2)
        assert answer.code == 0, answer.err
        assert str(small) in answer.err


def test_cache_whose_disk_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory map would end the process by a signal here."""
    shapes: dict[int, tuple[int, ...]] = dict.fromkeys((4, 3, 2, 1), (64, 16, 16))
    batches = ({level: np.zeros((4, *shape), np.float32) for level, shape in shapes.items()} for _ in range(25))
    with mounted(tmp_path / "small", "size=1m") as small:
        monkeypatch.setenv("UNIAS_CACHE", str(small))
        with pytest.raises(DataError, match="the disk is full"):
            write_entry("aa", 100, shapes, batches, 1 << 30)
        assert list(small.iterdir()) == []


def test_photo_that_may_not_be_read(
    cli: Any, tiny_data: Path, tmp_path: Path, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("unias.data.cache.sha256", refuse)
    answer = cli(*train(tiny_data, tmp_path, tiny_yaml))
    assert answer.code == 3
    assert ".png: cannot be read: Permission denied" in answer.err
    assert not (tmp_path / OUT).exists()


def test_output_exists_already(
    refused: Any, tiny_data: Path, tmp_path: Path, tiny_yaml: Path, model_folder: Path
) -> None:
    out = tmp_path / OUT
    shutil.copytree(model_folder, out)
    assert "holds a finished model already" in refused(3, *train(tiny_data, tmp_path, tiny_yaml))
    assert "holds a finished model already" in refused(3, *train(tiny_data, tmp_path, tiny_yaml), "--resume")
    (out / "manifest.json").unlink()
    assert "not empty" in refused(3, *train(tiny_data, tmp_path, tiny_yaml))
    shutil.rmtree(out)
    out.write_text("a file", encoding="utf-8")
    assert str(out) in refused(3, *train(tiny_data, tmp_path, tiny_yaml))
    for command in ("predict", "evaluate"):
        assert "a file is in the way" in refused(3, command, model_folder, tiny_data, "-o", out, "-q")


def test_an_empty_folder_is_taken(cli: Any, tiny_data: Path, tmp_path: Path, tiny_yaml: Path) -> None:
    (tmp_path / OUT).mkdir()
    answer = cli(*train(tiny_data, tmp_path, tiny_yaml))
    assert answer.code == 0, answer.err
    assert (tmp_path / OUT / "manifest.json").is_file()


# --- models that are not whole ------------------------------------------------------------------------------


def other_version(home: Path) -> str:
    manifest = json.loads((home / "manifest.json").read_text(encoding="utf-8"))
    (home / "manifest.json").write_text(json.dumps(manifest | {"format": 99}), encoding="utf-8")
    return "format version 99"


def manifest_broken(home: Path) -> str:
    (home / "manifest.json").write_text("{", encoding="utf-8")
    return "manifest.json: cannot be read"


def manifest_missing(home: Path) -> str:
    (home / "manifest.json").unlink()
    return "manifest.json: is missing"


def unfinished(home: Path) -> str:
    shutil.rmtree(home)
    (home / "train_state").mkdir(parents=True)
    return "training is unfinished"


def not_there(home: Path) -> str:
    shutil.rmtree(home)
    return "there is no such model folder"


def empty(home: Path) -> str:
    shutil.rmtree(home)
    home.mkdir()
    return "this is no model folder"


def a_file(home: Path) -> str:
    shutil.rmtree(home)
    home.write_text("model", encoding="utf-8")
    return "there is no such model folder"


def byte_changed(name: str) -> Callable[[Path], str]:
    def spoil(home: Path) -> str:
        content = bytearray((home / name).read_bytes())
        content[len(content) // 2] ^= 1
        (home / name).write_bytes(content)
        return f"{home / name}: was changed"

    return spoil


def file_missing(name: str) -> Callable[[Path], str]:
    def spoil(home: Path) -> str:
        (home / name).unlink()
        return f"{home / name}: is missing"

    return spoil


FAULTS = {
    **{f.__name__: f for f in (other_version, manifest_broken, manifest_missing, unfinished, not_there, empty, a_file)},
    **{f"changed {name}": byte_changed(name) for name in FILES},
    **{f"missing {name}": file_missing(name) for name in FILES},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_model_that_is_not_whole(fault: str, refused: Any, model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(model_folder, tmp_path / "model"))
    expected = FAULTS[fault](home)
    for command in ("predict", "evaluate"):
        message = refused(3, command, home, tiny_data, "-o", tmp_path / OUT, "-q")
        assert expected in message
        assert str(home) in message
