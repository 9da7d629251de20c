"""``unias demo``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def demo(
    output: Path = typer.Option(Path("demo-report"), "-o", "--output", help="Folder of the report."),
    data: Path = typer.Option(Path("demo-data"), help="Folder the photos are written to."),
    minutes: float = typer.Option(3.5, help="Training time."),
    steps: int | None = typer.Option(None, min=1, help="Number of steps instead of minutes."),
    seed: int = typer.Option(0, help="Seed of photos, weights and noise."),
    device: str = options.Device,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Train ONE model on five real products and write a report: solar cells and textures, no internet needed.

    Opens no window. Needs the extra: pip install "unias[demo]".
    """
    from unias.demo import run_demo
    from unias.report.tables import percent

    document = run_demo(output, data, minutes, steps, seed, device, threads, options.progress(quiet))
    lines = [
        f"{name}: image AUROC {percent(v['image_auroc'])}, pAP {percent(v['pap'])}"
        for name, v in {**document["classes"], "mean": document["mean"]}.items()
    ]
    lines.append(f"Report: {output / 'index.html'}")
    options.answer(as_json, document, "\n".join(lines))
