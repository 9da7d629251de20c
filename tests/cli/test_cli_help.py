"""Help, version, and that both answer without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

import unias
from unias.cli import app

pytestmark = pytest.mark.usefixtures("one_thread")
COMMANDS = (
    "train",
    "predict",
    "serve",
    "evaluate",
    "calibrate",
    "extend",
    "rename",
    "compare",
    "ablate",
    "data",
    "export",
    "export-labels",
    "push",
    "convert",
    "demo",
    "watch",
    "studio",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    answer = cli(command, "--help")
    assert answer.code == 0
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    assert len(parameters) >= 4
    for parameter in parameters:
        if parameter.name == "help":
            continue
        assert parameter.help, f"{command} {parameter.name} is not explained"
        for name in [*parameter.opts, *parameter.secondary_opts]:
            assert name.casefold() in answer.out.casefold(), name
    for code in ("0 done", "2 usage", "3 bad data", "4 missing weights or extra", "130 interrupted"):
        assert code in answer.out


def test_every_command_is_listed(cli: Any) -> None:
    answer = cli("--help")
    assert answer.code == 0
    assert set(typer.main.get_command(app).commands) == {*COMMANDS, "bench"}  # type: ignore[attr-defined]
    assert all(command in answer.out for command in COMMANDS)


def test_help_and_version_answer_without_torch(clean_environment: dict[str, str]) -> None:
    code = f"""
import sys
from unias.cli import main
for arguments in [["--help"], ["--version"], [], *([name, "--help"] for name in {COMMANDS!r}), ["train", "--steps", "0"]]:
    try:
        main(arguments)
    except SystemExit:
        pass
print([name for name in ("torch", "torchvision", "timm", "numpy", "PIL") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


def test_version(cli: Any) -> None:
    assert cli("--version") == (0, f"unias {unias.__version__}\n", "")


def test_module_is_the_command(clean_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unias", "--version"], env=clean_environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"unias {unias.__version__}\n", "")
