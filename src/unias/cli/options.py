"""Options that several commands share, worded once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import typer

Device = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:1 or mps. auto takes a GPU where there is one.")
Threads = typer.Option(None, "--threads", min=1, help="Threads of tensor operations. Default: all cores.")
Precision = typer.Option(
    "float32", "--precision", help="float32, bfloat16, or auto: half precision where processor or GPU computes in it."
)
AsJson = typer.Option(False, "--json", help="Print the outcome as one JSON object on standard output.")
Quiet = typer.Option(False, "--quiet", "-q", help="No progress bars and no information, only errors.")
Bits = typer.Option(None, "--bits", min=9, max=16, help="Real depth of data kept in 16-bit files, such as 12.")


def progress(quiet: bool) -> Any:
    """Bars on a terminal, lines in a log, nothing when quiet; and JSON lines in the file that UNIAS_PROGRESS names, if any."""
    from unias.progress import RECORD, Progress

    return Progress("silent" if quiet else "auto", record=os.environ.get(RECORD))


def common(device: str, threads: int | None, quiet: bool) -> list[str]:
    """The arguments that a study hands on to every command it runs."""
    return ["--device", device, *(["--threads", str(threads)] if threads else []), *(["-q"] if quiet else [])]


def answer(as_json: bool, outcome: dict[str, Any], text: str) -> None:
    """The last word of a command, on standard output."""
    if as_json:
        from unias.files import json_ready

        json.dump(json_ready(outcome), sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        typer.echo(text)


def files(wishes: list[str]) -> dict[str, Path]:
    """{name: file} of several --subset NAME=FILE. Raises UsageError for one whose file cannot be read."""
    from unias.errors import DataError, UsageError
    from unias.files import read_lines

    found = {}
    for wish in wishes:
        name, _, file = wish.partition("=")
        if name in ("rest", "all"):
            raise UsageError(f"--subset {wish}: {name!r} is taken. Give the list another name.")
        try:
            read_lines(file)
        except DataError as error:
            raise UsageError(
                f"--subset {wish}: {file!r} cannot be read. Give NAME=FILE with one path a line."
            ) from error
        found[name] = Path(file)
    return found
