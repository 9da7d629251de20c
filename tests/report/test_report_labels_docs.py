"""docs/labels.md: its commands and its Python run as written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "labels.md").read_text(encoding="utf-8")


def test_as_written(
    cli: Any, model_folder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "photos").symlink_to(tiny_data / "plaque gravée" / "test")
    (tmp_path / "model").symlink_to(model_folder)
    monkeypatch.chdir(tmp_path)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        command, _, written = line.partition("#")
        answer = cli(*shlex.split(command)[1:])
        assert answer.code == 0, f"{line}\n{answer.err}"
        folder = ""
        for name in (name.strip() for name in written.split(",") if name.strip()):
            folder = folder or name.rpartition("/")[0]
            assert (tmp_path / (name if name.startswith(folder) else f"{folder}/{name}")).exists(), name
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "6 labels\n"
    tasks = json.loads((tmp_path / "out" / "labels-labelstudio" / "tasks.json").read_text("utf-8"))
    (address,) = re.findall(r"`(/data/local-files/\S*)`", TEXT)
    for task in tasks:
        assert task["data"]["image"].startswith(address)
        assert (tmp_path / task["data"]["image"].partition("?d=")[2]).is_file()  # with tmp_path as document root
