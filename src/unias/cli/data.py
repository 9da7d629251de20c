"""``unias data``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def data(
    data: Path = typer.Argument(..., help="Folder of photos."),
    bits: int | None = options.Bits,
    size: int | None = typer.Option(
        None, help="Input size in pixels that the smallest defect is told for. Default: small's."
    ),
    tile: int = typer.Option(1, help="Views along a photo's side (unias train --tile) that it is told for."),
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """What is understood of a folder before anything is trained: products, counts, sizes, bit depths, masks, faults, and how
    small a defect may be.

    Exit code 3 where photos cannot be used.
    """
    import dataclasses

    from rich.console import Console

    from unias.data.check import inspect
    from unias.data.layouts import scan
    from unias.errors import EXIT_DATA
    from unias.maps.resolution import describe, smallest_defect
    from unias.presets import preset

    config = preset("small")
    config = dataclasses.replace(config, size=config.size if size is None else size, tile=tile)
    dataset = scan(data)
    show = options.progress(quiet)
    done = 0
    with show.stage("reading photos", len(dataset.samples)) as advance:

        def on(count: int, _total: int) -> None:
            nonlocal done
            advance(count - done)
            done = count

        report = inspect(dataset, bits=bits, progress=on)
    smallest = {
        one.product: (
            one.largest,
            smallest_defect(one.largest, config),
            smallest_defect(one.largest, config, blurred=1.0),
        )
        for one in report.products
        if one.largest
    }
    if as_json:
        outcome = report.as_dict()
        for name, (_, defect, blurred) in smallest.items():
            outcome["products"][name]["smallest_defect"] = [round(side, 1) for side in defect]
            outcome["products"][name]["smallest_defect_blurred"] = [round(side, 1) for side in blurred]
        options.answer(True, outcome, "")
    else:
        report.render(Console())
        for name, (photo, defect, blurred) in smallest.items():
            tiled = f" --tile {tile}" if tile > 1 else ""
            typer.echo(
                f"{name}: {describe(photo, defect)}, at --size {config.size}{tiled}; {blurred[1]:.0f} x {blurred[0]:.0f} where "
                "training finds that maps blurred once more suit the product"
            )
    if report.errors:
        raise typer.Exit(EXIT_DATA)
