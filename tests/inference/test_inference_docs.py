"""docs/predict.md: its commands and its Python run as written, on a clip, a made-up camera and a stand-in for the Hub."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_stand_in import running

import unias
from unias.config import Config
from unias.maps.resolution import smallest_defect, smallest_square

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
TRAIN = "unias train photos -o model-tiled --tile 2 --minutes 60"  # shrunk in a test of its own
PICTURE = np.full((60, 80, 3), 120, dtype=np.uint8)


class Camera:
    """Always the same picture."""

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, *_: object) -> bool:
        return True

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, Any]:
        return True, PICTURE

    def release(self) -> None:
        """Nothing to let go."""


def test_as_written(
    cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    cv2 = pytest.importorskip("cv2")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", "none-that-counts")
    shutil.copytree(tiny_data / "plaque gravée", tmp_path / "photos" / "bolt")
    shutil.copy(tmp_path / "photos" / "bolt" / "test" / "good" / "000.png", tmp_path / "photo.png")
    (tmp_path / "model").symlink_to(model_folder)
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (80, 60))
    for _ in range(12):
        writer.write(PICTURE)
    writer.release()
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Camera() if source == 0 else real(source))
    monkeypatch.chdir(tmp_path)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 9
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for line in lines:
            if line.startswith("pip ") or line == TRAIN:
                continue
            answer = cli(*shlex.split(line)[1:])
            assert answer.code == 0, f"{line}\n{answer.err}"
    assert len(list((tmp_path / "from-clip" / "frames").iterdir())) == 3
    assert len(list((tmp_path / "from-camera" / "masks").iterdir())) == 100
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    exec(code, {})
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[-3:]] == [f"clip.mp4#{number:06}" for number in (0, 5, 10)]
    assert (tmp_path / "picture.png").is_file()
    assert len(list((tmp_path / "photo 1").iterdir())) == 3


def test_the_smallest_defect_as_written() -> None:
    side = smallest_square((3, 5, 7, 9))
    assert f"smaller than about {side:.0f} of those pixels" in TEXT
    assert f"about {side * 1920 / 224:.0f} x {side * 1080 / 224:.0f} pixels" in TEXT.replace("\n", " ")
    tiled = Config(size=224, tile=2)
    assert f"brought to {tiled.input_size} x {tiled.input_size} pixels" in TEXT
    height, width = smallest_defect((1080, 1920), tiled)
    assert f"({width:.0f} x {height:.0f} pixels above)" in TEXT.replace("\n", " ")


@pytest.mark.slow
def test_tiles_as_written(cli: Any, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that trains, shrunk."""
    assert TRAIN in TEXT
    (tmp_path / "photos").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    answer = cli(*shlex.split(TRAIN.replace("--minutes 60", "--steps 2 --size 128 -q"))[1:])
    assert answer.code == 0, answer.err
    assert unias.load("model-tiled", "cpu").config.tile == 2
