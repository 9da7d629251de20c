"""``unias bench speed``, ``scale``, ``fusion``, ``unknown``, ``serve``, ``agree`` and ``extend``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options

OUTPUT = Path("bench")
Output = typer.Option(OUTPUT, "-o", "--output", help="Folder of the report; files of the same name are replaced.")
Model = typer.Option(None, help="Trained model's folder, measured as `small`. Default: `small` with random weights.")
Subset = typer.Option(None, help="Text file with one test photo a line (path below DATA): pAP is read on these.")
BenchThreads = typer.Option(2, "--threads", min=1, help="Threads of every row.")
Rounds = typer.Option(9, min=1, help="Interleaved rounds; figures are medians over them.")
Quick = typer.Option(False, "--quick", help="Everything once: shows that it runs; the figures are noise.")


def commands(epilog: str) -> typer.Typer:
    """The group ``bench``."""
    group = typer.Typer(
        help="Measure this machine: how fast each form of the model is, what more photos, products and clients cost.",
        epilog=epilog,
        no_args_is_help=True,
    )
    group.command(epilog=epilog)(speed)
    group.command(epilog=epilog)(scale)
    group.command(epilog=epilog)(fusion)
    group.command(epilog=epilog)(unknown)
    group.command(epilog=epilog)(serve)
    group.command(epilog=epilog)(agree)
    group.command(epilog=epilog)(extend)
    return group


def speed(
    output: Path = Output,
    model: Path | None = Model,
    data: Path | None = typer.Option(
        None, help="Folder of photos to measure on; for a trained model also to calibrate 8 bits on and to read pAP on."
    ),
    subset: Path | None = Subset,
    only: list[str] = typer.Option([], help="Only these rows, such as paper-fused; again for more. Default: all."),
    threads: int = BenchThreads,
    rounds: int = Rounds,
    quick: bool = Quick,
    probes: int | None = typer.Option(
        None, min=1, help="Fresh processes a row: first photo, memory. Default: as many as rounds, at most 3."
    ),
    rows_only: bool = typer.Option(
        False, "--rows-only", help="Leave out training steps and the start of the command line."
    ),
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Every form of `paper` and `small` side by side, in one run: speed.md and speed.json.

    Rows that need another runtime say so where it is missing: pip install "unias[bench]" brings all of them.
    """
    from unias.bench.speed import run_speed

    document = run_speed(
        output,
        model=model,
        data=data,
        subset=subset,
        threads=threads,
        rounds=rounds,
        only=only,
        quick=quick,
        probes=probes,
        rows_only=rows_only,
        progress=options.progress(quiet),
    )
    options.answer(as_json, document, _closing(document["bars"], output / "speed.md"))


def scale(
    output: Path = Output,
    data: Path = typer.Option(..., help="Folder of photos in MVTec-AD layout."),
    model: Path | None = Model,
    subset: Path | None = Subset,
    images: list[int] = typer.Option([100, 500, 1000, 10_000], help="So many photos; again for more."),
    few: int = typer.Option(5, min=1, help="Products of the smaller model."),
    many: int = typer.Option(300, min=2, help="Products of the larger model."),
    growth: list[int] = typer.Option([1, 2, 5, 10], help="Train on so many products; again for more."),
    watch: list[str] = typer.Option([], help="Products whose pAP is read as others are added. Default: bottle, screw."),
    minutes: float | None = typer.Option(
        None, help="Train each of the growing models for so long; without it that part is left out."
    ),
    steps: int | None = typer.Option(None, min=1, help="Number of steps instead of minutes."),
    seed: int = typer.Option(0, help="Seed of these trainings."),
    evaluation: bool = typer.Option(False, "--evaluation", help="Also unias evaluate on so many photos."),
    threads: int = BenchThreads,
    rounds: int = Rounds,
    quick: bool = Quick,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Time and memory of more photos and more products, accuracy as products are added: scale.md and scale.json.

    Solar cells and textures come from pip install "unias[demo]".
    """
    from unias.bench.scale import run_scale

    document = run_scale(
        output,
        data,
        model=model,
        subset=subset,
        images=images,
        products=(few, many),
        growth=growth,
        watch=watch,
        minutes=minutes,
        steps=steps,
        seed=seed,
        threads=threads,
        rounds=rounds,
        evaluation=evaluation,
        quick=quick,
        progress=options.progress(quiet),
    )
    options.answer(as_json, document, _closing(document["bars"], output / "scale.md"))


def fusion(
    model: Path = typer.Argument(..., help="Trained model's folder."),
    data: Path = typer.Argument(..., help="Folder with test photos and masks."),
    output: Path = Output,
    subset: Path | None = typer.Option(None, help="Text file with one test photo a line (path below DATA)."),
    device: str = options.Device,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Do the fusions that were chosen without labels hold on real defects? fusion.md and fusion.json."""
    from unias.api import load
    from unias.bench.fusion import run_fusion

    document = run_fusion(load(model, device), data, output, subset, options.progress(quiet))
    text = f"{document['share_of_gain']:.0%} of the best rules' gain over the product, {document['points_gained']:+.1f} points"
    options.answer(as_json, document, f"{text}. Table: {output / 'fusion.md'}")


def unknown(
    data: Path = typer.Argument(..., help="Folder with training and test photos of three products or more."),
    output: Path = Output,
    seed: int = typer.Option(0, min=0, help="Seed of the split."),
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Are left-out products called unknown, and known ones recognised? unknown.md and unknown.json. Nothing is trained."""
    from unias.bench.unknown import run_unknown

    document = run_unknown(data, output, seed, options.progress(quiet))
    mixed = document["mixed"]
    text = f"recognised {mixed['right']:.1%}, known called unknown {mixed['known_called_unknown']:.1%}"
    options.answer(as_json, document, f"{text}. Table: {output / 'unknown.md'}")


def serve(
    model: Path = typer.Argument(..., help="Folder of a trained or exported model."),
    data: Path = typer.Option(..., help="Folder of photos; the first 64 are sent in turn."),
    output: Path = Output,
    clients: int = typer.Option(8, min=1, help="Clients that ask at the same time."),
    minutes: float = typer.Option(10.0, min=0.1, help="Minutes of load."),
    batch: int = typer.Option(8, min=1, help="Photos that the server judges together, at most."),
    threads: int = BenchThreads,
    quick: bool = Quick,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """A server under load against the bare predictor: serve.md and serve.json.

    Latency, throughput, memory and errors. Needs the extra: pip install "unias[serve]".
    """
    from unias.bench.serve import run_serve

    document = run_serve(
        output,
        model,
        data,
        clients=clients,
        minutes=minutes,
        batch=batch,
        threads=threads,
        quick=quick,
        progress=options.progress(quiet),
    )
    options.answer(as_json, document, _closing(document["bars"], output / "serve.md"))


def agree(
    model: Path = typer.Argument(..., help="Trained model's folder."),
    data: Path = typer.Argument(..., help="Folder of photos of its products; test photos where there are any."),
    output: Path = Output,
    photos: int = typer.Option(200, min=1, help="So many photos at most, as many of each product."),
    int8: bool = typer.Option(
        False, "--int8", help="Also an export in 8 bits; DATA must hold the training photos. Takes minutes."
    ),
    threads: int = BenchThreads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Do exports, server and watcher come to the trained model's answers? agree.md and agree.json.

    Verdicts, scores, maps and masks, photo by photo. Needs the extras: pip install "unias[export,serve]".
    """
    from unias.bench.agree import run_agree

    document = run_agree(
        output, model, data, photos=photos, int8=int8, threads=threads, progress=options.progress(quiet)
    )
    options.answer(as_json, document, _closing(document["bars"], output / "agree.md"))


def extend(
    data: Path = typer.Argument(..., help="Folder of photos in MVTec-AD layout, with test photos and masks."),
    newcomer: list[str] = typer.Option(..., help="A product of it that is added later; again for more."),
    output: Path = typer.Option(
        OUTPUT, "-o", "--output", help="Folder of the runs and the report; goes on where it was."
    ),
    minutes: float = typer.Option(20.0, min=0.05, help="Time of a training from nothing; an extension gets a fifth."),
    steps: int | None = typer.Option(None, min=1, help="Number of steps instead of minutes."),
    seed: int = typer.Option(0, min=0, help="Seed of all runs."),
    subset: Path | None = Subset,
    device: str = options.Device,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """What a model keeps and learns when a product is added later, against training from nothing: extend.md and extend.json.

    For each newcomer one training and two extensions, and one training for all of them. A killed run goes on by the same command.
    """
    from unias.bench.extend import run_extend

    document = run_extend(
        data,
        output,
        newcomer,
        minutes=minutes,
        steps=steps,
        seed=seed,
        subset=subset,
        common=options.common(device, threads, quiet),
        progress=options.progress(quiet),
    )
    options.answer(as_json, document, _closing(document["bars"], output / "extend.md"))


def _closing(bars: list[dict[str, object]], page: Path) -> str:
    """One line a bar, and where the table is."""
    words = {True: "met", False: "NOT met", None: "-"}
    lines = [f"{words[one['met']]}: {one['what']}: {one['measured']}" for one in bars]  # type: ignore[index]
    return "\n".join([*lines, f"Report: {page}"])
