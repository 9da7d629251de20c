"""``unias export-labels``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def export_labels(
    predicted: Path = typer.Argument(..., help="Folder written by unias predict."),
    to: str = typer.Option(..., "--to", help="coco, labelstudio, cvat or masks."),
    output: Path | None = typer.Option(None, "-o", "--output", help="Default: labels-<format> in the folder itself."),
    label: str = typer.Option("defect", help="What marked regions are called."),
    failed: bool = typer.Option(False, "--failed", help="Only photos that are not ok."),
    polygons: bool = typer.Option(
        False, "--polygons", help="coco: polygons in the place of run lengths, where a region has no hole."
    ),
    prefix: str | None = typer.Option(
        None, help="labelstudio: address before a photo's name. Default: /data/local-files/?d= and the photos' folder."
    ),
    as_json: bool = options.AsJson,
) -> None:
    """Turn what unias predict marked into pre-annotations for a labelling tool, to be corrected there by people."""
    from unias.report.labels.export import export_labels as run

    done = run(predicted, to, output, label=label, failed=failed, polygons=polygons, prefix=prefix)
    text = f"{done.photos} photos, named by their path below {done.root}. Labels: {done.folder}"
    if done.lost:
        text += (
            f"\n{done.lost} of them are not found: their paths are relative, and the table does not say to which folder. If "
            f"{done.root} is wrong, run this command in the folder that they were inspected in."
        )
    options.answer(as_json, done.as_dict(), text)
