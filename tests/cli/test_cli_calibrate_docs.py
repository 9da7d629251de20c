"""docs/calibrate.md: its commands run, its table is what ``ranks`` computes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unias.calibration.ranks import promise

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "calibrate.md").read_text(encoding="utf-8")


def test_the_table_is_what_ranks_compute() -> None:
    rows = re.findall(r"\| (\d+) \| (\d+)% \| (\d+) \| ([\d.]+)%(?:, (\d+) photos are missing)? \| ([\d.]+)% \|", TEXT)
    assert len(rows) == 4
    for held, wished, rank, rate, missing, bound in rows:
        found = promise(int(held), int(wished) / 100)
        assert (found.rank, found.missing) == (int(rank), int(missing or 0))
        assert f"{100 * found.rate:.1f}" == rate
        assert f"{100 * found.bound:.1f}" == bound


@pytest.mark.slow
def test_commands_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("bolt", 90), ("washer", 160)):
        for place in ("train/good/monday", "train/good/tuesday", "test/good"):
            folder = tmp_path / "photos" / name / place
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = rng.normal(level, 12, (64, 64)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    for name in ("new-good", "missed"):
        shutil.copytree(tmp_path / "photos" / "bolt" / "test" / "good", tmp_path / name)
    zone = np.zeros((64, 64), dtype=np.uint8)
    zone[:8] = 255
    Image.fromarray(zone).save(tmp_path / "zone.png")
    environment = os.environ | {"UNIAS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    lines = [
        line.split("  #")[0] for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) == 10
    pixels = rng.normal(0, 12, (8, 64, 64)) + np.linspace(30, 220, 64)
    for place, name in (("new-product/nut/train/good", "n"), ("heap", "n")):
        (tmp_path / place).mkdir(parents=True)
        for number, one in enumerate(pixels):
            Image.fromarray(one.clip(0, 255).astype(np.uint8)).save(tmp_path / place / f"{name}{number}.png")
    for number, photo in enumerate(sorted((tmp_path / "photos" / "bolt" / "train" / "good").rglob("*.png"))):
        shutil.copy(photo, tmp_path / "heap" / f"b{number}.png")
    for line in ["unias train photos -o model --steps 2 --size 128 -q", *lines]:
        line = re.sub(r"--minutes \d+", "--steps 2", line).replace("unias train heap", "unias train heap --size 128")
        words = [sys.executable, "-m", *shlex.split(line)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        print(done.stdout)
