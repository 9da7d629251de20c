"""docs/systems.md: its commands run (shrunk), its eighth system is trained, used and stored as written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unias.systems.registry import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
SHORT = {"--minutes 20": "", "unias train ": "unias train --steps 2 --size 128 "}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def run(words: list[str], home: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "UNIAS_CACHE": str(home / "cache")}
    done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_system_is_described() -> None:
    assert all(f"| `{name}` |" in TEXT for name in (*BUILT_IN, "unias"))


@pytest.mark.slow
def test_commands_run(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(tiny_data)
    for line in (line for block in blocks("sh") for line in block.splitlines()):
        if line.startswith("unias ablate"):  # eight trainings; tests/studies runs the line with stand-ins for them
            continue
        if line.startswith("unias compare"):
            line = line.replace("--minutes 20", "--minutes 0.05").replace(",unias", "")
        else:
            for long, short in SHORT.items():
                line = line.replace(long, short)
            if "patchcore" in line:  # it makes no steps
                line = line.replace("--steps 2 ", "")
        if "compare" in line:
            compared = line
        run([sys.executable, "-m", *shlex.split(line)], tmp_path)
    assert (tmp_path / "uniad-report" / "index.html").is_file()
    study = tmp_path / "study"
    tables = (study / "compare.md").read_text(encoding="utf-8")
    shown = (study / "index.html").read_text(encoding="utf-8")
    models = sorted(study.glob("runs/*/model"))
    pictures = shown.count("<img")
    assert pictures
    for left in range(len(models) - 1, -1, -1):  # models are removed: the tables stay, their maps go
        shutil.rmtree(models[left])
        run([sys.executable, "-m", *shlex.split(compared)], tmp_path)
        assert (study / "compare.md").read_text(encoding="utf-8") == tables
        fewer = (study / "index.html").read_text(encoding="utf-8").count("<img")
        assert fewer < pictures
        pictures = fewer
    assert pictures == 0
    assert "models are gone" in (study / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_eighth_system_as_written(tiny_data: Path, tmp_path: Path) -> None:
    """Trained from the page's own text; read back by a process that registers it, refused by name by one that does not."""
    (text,) = blocks("python")
    (tmp_path / "photos").symlink_to(tiny_data)
    photo = sorted(tiny_data.glob("*/test/scratch/*.png"))[0]
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    (tmp_path / "eighth.py").write_text(text, encoding="utf-8")
    assert run([sys.executable, "eighth.py"], tmp_path).strip() in ("True", "False")
    start = text[: text.index("model = unias.train")]
    again = "print(unias.load('mean-model').predict('photo.png').product)"
    (tmp_path / "again.py").write_text(f"{start}\n{again}", encoding="utf-8")
    assert run([sys.executable, "again.py"], tmp_path).strip() == photo.parts[-4]
    command = [sys.executable, "-m", "unias", "predict", "mean-model", "photo.png", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "'mean' is not one of" in done.stderr
