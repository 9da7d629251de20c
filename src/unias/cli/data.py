"""``unias data``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def data(
    data: Path = typer.Argument(..., help="Folder of photos."),
    bits: int | None = options.Bits,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """What is understood of a folder before anything is trained: products, counts, sizes, bit depths, masks, faults.

    Exit code 3 where photos cannot be used.
    """
    from rich.console import Console

    from unias.data.check import inspect
    from unias.data.layouts import scan
    from unias.errors import EXIT_DATA

    dataset = scan(data)
    show = options.progress(quiet)
    done = 0
    with show.stage("reading photos", len(dataset.samples)) as advance:

        def on(count: int, _total: int) -> None:
            nonlocal done
            advance(count - done)
            done = count

        report = inspect(dataset, bits=bits, progress=on)
    if as_json:
        options.answer(True, report.as_dict(), "")
    else:
        report.render(Console())
    if report.errors:
        raise typer.Exit(EXIT_DATA)
