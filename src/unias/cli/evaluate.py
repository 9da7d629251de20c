"""``unias evaluate``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def evaluate(
    model: Path = typer.Argument(..., help="Model folder made by unias train."),
    data: Path = typer.Argument(..., help="Folder with test photos (and masks) in MVTec-AD or VisA layout."),
    output: Path = typer.Option(
        ..., "-o", "--output", help="Folder for metrics.json, table.md, table.csv and index.html."
    ),
    size: str = typer.Option(
        "model", help="Maps and masks at the model's input size (model) or each photo's (original)."
    ),
    subset: list[str] = typer.Option(
        [], help="NAME=FILE: also figures for the photos listed in FILE (paths below DATA) and for the rest."
    ),
    page: bool = typer.Option(True, help="Write index.html with pictures."),
    device: str = options.Device,
    precision: str = options.Precision,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """The protocol of the paper on test photos: metrics.json, a table in the paper's form, a page with pictures."""
    from unias.api import evaluate as run
    from unias.api import load
    from unias.files import read_lines
    from unias.report.tables import percent
    from unias.runtime import set_threads

    set_threads(threads)
    document = run(
        load(model, device, precision),
        data,
        output,
        size=size,
        subsets={name: read_lines(file) for name, file in options.files(subset).items()},
        page=page,
        progress=options.progress(quiet),
    )
    lines = [
        f"{name}: pAP {percent(v['pap'])}, DSC {percent(v['dsc'])} (oracle; empty mask {percent(v['dsc_empty'])}), "
        f"image AUROC {percent(v['image_auroc'])}"
        for name, v in {**document["classes"], "mean": document["mean"]}.items()
    ]
    lines += [
        f"mean of {name}: pAP {percent(part['mean']['pap'])}, image AUROC {percent(part['mean']['image_auroc'])}"
        for name, part in document.get("subsets", {}).items()
    ]
    found = document["calibration"]
    if found["products"]:
        mixed = found["mixed"]
        text = f"false alarms {mixed['false_alarms']} of {mixed['good']} (promised {percent(mixed['promised'])}), "
        text += f"missed {mixed['missed']} of {mixed['defective']}"
        outside = [name for name, one in found["products"].items() if not one["inside"]]
        strange = [name for name in document["classes"] if name not in found["products"]]
        text += f"; not counted, since the model has no cut of them: {', '.join(strange)}" if strange else ""
        lines.append(text + (f"; not as promised: {', '.join(outside)}" if outside else ""))
    lines.append(f"Figures: {output / 'metrics.json'}" + (f", report: {output / 'index.html'}" if page else ""))
    options.answer(as_json, document, "\n".join(lines))
