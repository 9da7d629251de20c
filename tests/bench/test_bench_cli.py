"""``unias bench`` as a person meets it: help without torch, options, exit codes, the documentation's own lines."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from unias.cli import app

COMMANDS = ("speed", "scale", "serve", "agree", "extend")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "bench.md"
MODEL, DATA, OUT = "<model>", "<data>", "<out>"
FAULTS: list[tuple[int, tuple[str, ...], str]] = [
    (2, ("bench", "nonsense"), ""),
    (2, ("bench", "scale"), ""),
    (2, ("bench", "speed", "--threads", "0"), ""),
    (2, ("bench", "speed", "--only", "fast", "-o", OUT), "--only: 'fast' is not one of paper-plain"),
    (2, ("bench", "speed", "--subset", "x.txt", "-o", OUT), "--subset: names test photos of --data"),
    (2, ("bench", "speed", "--data", DATA, "--subset", "none.txt", "-o", OUT), "--subset: none.txt cannot be read"),
    (3, ("bench", "speed", "--model", "none", "-o", OUT), "none: there is no such model folder"),
    (3, ("bench", "speed", "--data", "none", "-o", OUT), "none: no such folder"),
    (2, ("bench", "scale", "--data", DATA, "--few", "9", "--many", "3", "-o", OUT), "--few and --many"),
    (2, ("bench", "scale", "--data", DATA, "--watch", "screw", "-o", OUT), "--watch: 'screw'"),
    (3, ("bench", "scale", "--data", "none", "-o", OUT), "none: no such folder"),
    (3, ("bench", "serve", "none", "--data", "none", "-o", OUT), "none: no photos here"),
    (3, ("bench", "serve", "none", "--data", DATA, "-o", OUT), "none: there is no such model folder"),
    (3, ("bench", "agree", "none", "none", "-o", OUT), "none: no such folder"),
    (3, ("bench", "agree", "none", DATA, "-o", OUT), "none: there is no such model folder"),
    (2, ("bench", "agree", "none", DATA, "--photos", "0"), "--photos"),
    (2, ("bench", "extend", DATA, "-o", OUT), "--newcomer"),
    (2, ("bench", "extend", DATA, "--newcomer", "screw", "-o", OUT), "--newcomer: 'screw'"),
    (3, ("bench", "extend", "none", "--newcomer", "screw", "-o", OUT), "none: no such folder"),
]


def group() -> Any:
    return typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    answer = cli("bench", command, "--help")
    assert answer.code == 0
    for parameter in group().commands[command].params:
        if parameter.name == "help":
            continue
        assert parameter.help, f"{command} {parameter.name} is not explained"
        for name in [*parameter.opts, *parameter.secondary_opts]:
            assert name.casefold() in answer.out.casefold(), name
    assert "130 interrupted" in answer.out


def test_group_lists_them(cli: Any) -> None:
    answer = cli("bench", "--help")
    assert answer.code == 0
    assert set(group().commands) == {*COMMANDS, "fusion", "unknown"}
    assert all(command in answer.out for command in COMMANDS)


def test_help_answers_without_torch(clean_environment: dict[str, str]) -> None:
    code = f"""
import sys
from unias.cli import main
for arguments in [["bench", "--help"], ["bench"], *(["bench", name, "--help"] for name in {COMMANDS!r})]:
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


@pytest.mark.parametrize(("code", "words", "said"), FAULTS, ids=[" ".join(words[1:5]) for _, words, _ in FAULTS])
def test_faults(
    code: int,
    words: tuple[str, ...],
    said: str,
    cli: Any,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {DATA: tiny_data, OUT: tmp_path / "out"}
    answer = cli(*[places.get(word, word) for word in words])
    assert answer.code == code, answer.err
    assert said in answer.err
    assert answer.out == ""
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "words", "given"),
    [
        (
            "speed",
            ("--only", "paper-fused", "--only", "small-eager", "--quick"),
            {"only": ["paper-fused", "small-eager"], "quick": True, "threads": 2, "rounds": 9},
        ),
        (
            "scale",
            ("--data", "x", "--minutes", "2"),
            {"products": (5, 300), "images": [100, 500, 1000, 10_000], "growth": [1, 2, 5, 10], "minutes": 2.0},
        ),
        (
            "serve",
            ("m", "--data", "x", "--clients", "3", "--threads", "1"),
            {"clients": 3, "minutes": 10.0, "batch": 8, "threads": 1, "quick": False},
        ),
        ("agree", ("m", "x", "--photos", "7", "--int8"), {"photos": 7, "int8": True, "threads": 2}),
        (
            "extend",
            ("x", "--newcomer", "a", "--newcomer", "b", "--threads", "1"),
            {"minutes": 20.0, "steps": None, "subset": None, "common": ["--device", "auto", "--threads", "1", "-q"]},
        ),
    ],
)
def test_options_arrive(
    command: str,
    words: tuple[str, ...],
    given: dict[str, Any],
    cli: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: dict[str, Any] = {}

    def run(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        asked.update(keywords)
        return {"bars": [{"what": "a", "measured": "2x", "bar": "3x", "met": False, "bench": command}]}

    monkeypatch.setattr(f"unias.bench.{command}.run_{command}", run)
    answer = cli("bench", command, *words, "-o", tmp_path / "out", "--quiet")
    assert answer.code == 0, answer.err
    assert given.items() <= asked.items()
    assert answer.out == f"NOT met: a: 2x\nReport: {tmp_path / 'out' / command}.md\n"
    answer = cli("bench", command, *words, "--json", "--quiet")
    assert json.loads(answer.out)["bars"][0]["met"] is False


def lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_documented_commands_parse() -> None:
    """Run by people, not here: they take minutes."""
    commands = [shlex.split(line) for line in lines() if not line.startswith("pip ")]
    assert len(commands) >= 5
    for words in commands:
        assert words[:2] == ["unias", "bench"]
        command = group().commands[words[2]]
        with command.make_context(words[2], words[3:]) as context:
            assert context.params
