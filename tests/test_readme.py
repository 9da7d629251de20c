"""Every command and every line of Python in README.md is run (training shrunk), or checked where it installs something."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STEPS = "--steps 2"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a folder ``photos`` of two products in MVTec-AD's layout, and ``new-photo.png``."""
    home = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for product, level in (("bolt", 90), ("washer", 160)):
        for part, count in (("train/good", 6), ("test/good", 2), ("test/scratch", 2)):
            target = home / "photos" / product / part
            target.mkdir(parents=True)
            for index in range(count):
                pixels = rng.normal(level, 12, (96, 96)).clip(0, 255).astype(np.uint8)
                if "scratch" in part:
                    pixels[40:44, 20:70] = 255
                    truth = np.zeros_like(pixels)
                    truth[40:44, 20:70] = 255
                    mask = home / "photos" / product / "ground_truth" / "scratch" / f"{index}_mask.png"
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(truth).save(mask)
                Image.fromarray(pixels).save(target / f"{index}.png")
    Image.open(home / "photos/bolt/test/good/0.png").save(home / "new-photo.png")
    return home


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"UNIAS_CACHE": str(home / "cache"), "PYTHONWARNINGS": "error"}


def run(line: str, home: Path) -> str:
    shrunk = re.sub(r"--minutes \S+", STEPS, line)
    if shrunk == "unias demo":
        shrunk += " " + STEPS
    arguments = [sys.executable, "-m", *shlex.split(shrunk)]
    done = subprocess.run(arguments, cwd=home, env=environment(home), capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_unias_commands_run_in_order(folder: Path) -> None:
    lines = [line for line in commands() if line.startswith("unias ")]
    assert len(lines) >= 5
    for line in lines:
        run(line, folder)
    assert (folder / "out" / "results.csv").is_file()
    assert (folder / "report" / "index.html").is_file()
    assert (folder / "demo-report" / "index.html").is_file()


@pytest.mark.slow
def test_python_lines_run(folder: Path) -> None:
    (code,) = blocks("python")
    shrunk = re.sub(r"minutes=\d+", "steps=2", code).replace('"model"', '"python-model"')
    done = subprocess.run(
        [sys.executable, "-c", shrunk], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("bolt", "washer")


def test_make_targets_exist() -> None:
    lines = [line for line in commands() if line.startswith("make ")]
    assert {"make demo", "make test", "make check"} <= set(lines)
    for line in lines:
        done = subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_installed_extras_exist() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = {
        extra for line in commands() if line.startswith("pip ") for extra in re.findall(r"(?:unias|\.)\[(\w+)\]", line)
    }
    assert named >= {"offline", "demo"}
    for extra in named:
        assert re.search(rf"^{extra} = \[", pyproject, flags=re.MULTILINE)


def test_every_command_is_of_a_known_kind() -> None:
    assert all(line.startswith(("unias ", "make ", "pip install ")) for line in commands())


def test_pictures_and_files_named_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"`((?:src|docs|configs)/[\w./]*)`", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
