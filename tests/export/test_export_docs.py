"""Every command in docs/export.md is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_is_of_a_known_kind() -> None:
    assert all(line.startswith(("unias ", "pip install ", "python -m zipfile ")) for line in commands())
    assert {"--to onnx", "--to openvino", "--to torch", "--int8", "--bundle"} <= {
        word for line in commands() for word in re.findall(r"--to \w+|--int8|--bundle", line)
    }


@pytest.mark.slow
@pytest.mark.timeout(2400)  # int8 measures its layers: ten minutes on a slow machine
def test_commands_run_in_order(model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(package)
    (tmp_path / "model").symlink_to(model_folder)
    (tmp_path / "photos").symlink_to(tiny_data)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for line in commands():
        if line.startswith("pip "):
            continue
        words = shlex.split(line)
        start = [sys.executable, "-m"] if words[0] == "unias" else [sys.executable]
        done = subprocess.run(
            [*start, *words[words[0] == "python" :]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=550,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    for name in ("model-onnx", "model-openvino", "model-torch", "model-openvino-int8"):
        assert (tmp_path / name / "export.json").is_file()
    assert (tmp_path / "out-line" / "results.csv").is_file()
