"""``unias calibrate``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def calibrate(
    model: Path = typer.Argument(..., help="Folder of a trained or exported model."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write the model there. Default: the folder itself."
    ),
    false_alarms: float | None = typer.Option(None, help="Share of good photos that may fail, such as 0.01."),
    good: Path | None = typer.Option(None, help="Folder of further photos of good parts; they join the held-out ones."),
    missed: Path | None = typer.Option(None, help="Folder of photos of defects that passed; cuts move below them."),
    most_false_alarms: float = typer.Option(
        0.2, min=0.0, max=1.0, help="With --missed: no cut that promises more false alarms than this."
    ),
    min_area: int | None = typer.Option(None, min=1, help="Smallest region that counts, in pixels of the model's map."),
    ignore: list[str] = typer.Option(
        [], help="PRODUCT=MASK.png: what is white there is ignored; PRODUCT=none lifts it. May be repeated."
    ),
    product: str | None = typer.Option(
        None, help="Only this product; what the photos given show. Default: recognised."
    ),
    data: Path | None = typer.Option(
        None, help="Folder the model was trained on, for --min-area, --ignore and --by-session."
    ),
    by_session: bool = typer.Option(
        False, "--by-session", help="How far the promise holds from one recording session to another; moves nothing."
    ),
    refit: bool = typer.Option(
        False,
        "--refit",
        help="Fit statistics, fusions and cuts anew on --data, by this version's settings; the weights stay.",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the price, change nothing."),
    device: str = options.Device,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Move the cuts of a model at once, without training, and show the price: false alarms against misses."""
    import dataclasses

    from unias.api import load
    from unias.errors import UsageError
    from unias.inference.hub import own_folder
    from unias.inference.recalibrate import recalibrate
    from unias.inference.store import rewrite_products
    from unias.runtime import set_threads

    set_threads(threads)
    progress = options.progress(quiet)
    model = own_folder(model, output or (model if by_session or dry_run else None))
    if by_session:
        from unias.inference.sessions import describe, sessions

        found = sessions(load(model, device), data)
        options.answer(as_json, {"sessions": [dataclasses.asdict(one) for one in found]}, "\n".join(describe(found)))
        return
    wishes = [wish is not None for wish in (false_alarms, good, missed, min_area, product)]
    if refit:
        from unias.refit import refit as fit_anew

        if data is None or any(wishes) or ignore or dry_run:
            raise UsageError("--refit: needs --data, and goes with -o alone. Give the other wishes to a second call.")
        fitted = fit_anew(model, data, output or model, device=device, threads=threads, progress=progress)
        lines = [f"{info.name}: {info.cut.describe()}" for info in fitted.products]
        text = "\n".join([*lines, f"Model: {output or model}"])
        options.answer(as_json, {"model": output or model, "products": [info.name for info in fitted.products]}, text)
        return
    if all(wish is None for wish in (false_alarms, good, missed, min_area)) and not ignore:
        raise UsageError(
            "nothing to do: give --false-alarms, --good, --missed, --min-area, --ignore or --by-session (unias calibrate --help)."
        )
    products, prices, unknown = recalibrate(
        load(model, device),
        false_alarms=false_alarms,
        min_area=min_area,
        ignore=_zones(ignore),
        data=data,
        good=good,
        missed=missed,
        product=product,
        most_false_alarms=most_false_alarms,
        progress=progress,
    )
    if not dry_run:
        rewrite_products(model, products, output)
    lines = [price.line() for price in prices] or ["no cut moved"]
    lines += [f"of no known product, left out: {path}" for path in unknown]
    lines.append("nothing was written" if dry_run else f"Model: {output or model}")
    outcome = {
        "model": None if dry_run else output or model,
        "products": [dataclasses.asdict(price) for price in prices],
        "unknown": unknown,
    }
    options.answer(as_json, outcome, "\n".join(lines))


def _zones(wishes: list[str]) -> dict[str, Path | None]:
    from unias.errors import UsageError

    found: dict[str, Path | None] = {}
    for wish in wishes:
        name, given, file = wish.partition("=")
        if not given or not name:
            raise UsageError(f"--ignore {wish}: give PRODUCT=MASK.png, or PRODUCT=none.")
        found[name] = None if file == "none" else Path(file)
    return found
