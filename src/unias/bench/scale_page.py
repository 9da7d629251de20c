"""``scale.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unias.bench.bars import memory_words
from unias.bench.pages import QUICK, bar_lines, table
from unias.bench.stamps import stamp_lines

Document = Mapping[str, Any]


def scale_page(document: Document) -> str:
    """More photos, more products, accuracy as products are added, bars."""
    about = document["model"]
    record = "".join(f", {key} {value}" for key, value in about["record"].items())
    lines = ["# Scale", "", *([QUICK, ""] if document["quick"] else [])]
    lines += ["## More photos", "", *_images(document["images"]), ""]
    lines += ["## More products", "", *_products(document), ""]
    lines += ["## Accuracy as products are added", "", *_growth(document), ""]
    lines += ["## Bars", "", *bar_lines(document["bars"]), "", "## What was measured", ""]
    lines += [
        f"- model: {about['weights']}{record}; {about['backbone']}, {about['size']} x {about['size']}; data: {document['data']}",
        *stamp_lines(document),
        "",
    ]
    return "\n".join(lines)


def _images(images: Mapping[str, Any]) -> list[str]:
    if images["fault"] is not None:
        return [images["fault"]]
    rows = [
        (
            f"{row['count']:,}",
            f"{row['milliseconds_an_image']:.2f}",
            ", ".join(f"{run:.2f}" for run in row["runs"]),
            f"{row['tenths'][0]:.2f} / {row['tenths'][-1]:.2f}" if row["tenths"] else "-",
            _mib(row["peak_mib"]),
        )
        for row in images["rows"]
    ]
    lines = [
        *table(("photos", "ms a photo", "of each run", "first / last tenth", "peak memory, MiB"), rows),
        "",
        f"`Model.predict` on {images['photos']} photos of the data folder, shuffled once and taken in turn, decoding included, "
        "results dropped, a fresh process for each count; all counts but the largest are run before it and after it, since "
        "machines drift.",
    ]
    evaluation = images.get("evaluation")
    if evaluation is None:
        return [*lines, "", "`unias evaluate` on as many photos: not measured, give --evaluation."]
    if evaluation["fault"] is not None:
        return [*lines, "", f"`unias evaluate`: {evaluation['fault']}"]
    figures = [
        (f"{row['count']:,}", f"{row['milliseconds_an_image']:.2f}", _mib(row["peak_mib"]))
        for row in evaluation["rows"]
    ]
    return [
        *lines,
        "",
        "`unias evaluate`, the protocol's figures included:",
        "",
        *table(("photos", "ms a photo", "peak memory, MiB"), figures),
    ]


def _products(document: Document) -> list[str]:
    found = document["products"]
    if found["fault"] is not None:
        return [found["fault"]]
    rows = [
        (
            str(one["products"]),
            ", ".join(f"{number} {kind}" for kind, number in one["kinds"].items()),
            f"{one['milliseconds_an_image']:.2f}",
            _mib(one["peak_mib"]),
            f"{one['disk_bytes'] / 1e6:.3f}",
            f"{one['statistics_bytes'] / 1e6:.3f}",
            f"{100 * one['recognised']:.1f}%",
        )
        for one in (found["few"], found["many"])
    ]
    said = memory_words(found)
    headings = (
        "products",
        "made from",
        "ms an image",
        "peak memory, MiB",
        "model on disk, MB",
        "statistics in memory, MB",
        "recognised",
    )
    lines = [
        *table(headings, rows, left=2),
        "",
        f"Time x {found['time_ratio']:.3f} (in turn, the product not told); {found['disk_mb_a_product']:.4f} MB on disk and "
        f"{said} a product; the statistics themselves grow by {found['statistics_mb_a_product']:.4f} MB. Made from the data "
        "folder's products, the demo's solar cells and textures, slices of both, and drawn textures. Each product's statistics "
        f"are fitted to {found['photos_a_product']} photos; the weights stay the model's and never saw most of them, so this is "
        "about time, memory and being told apart (recognised: of two more photos each; slices of an even surface look alike), "
        "not about defects.",
    ]
    return [*lines, "", document["not_installed"]] if document["not_installed"] else lines


def _growth(document: Document) -> list[str]:
    growth = document["growth"]
    if growth.get("fault"):
        return [growth["fault"]]
    watched = growth["watched"]
    rows = [
        (
            str(row["count"]),
            ", ".join(row["products"]),
            *(f"{row['pap'][name]:.2f}" if name in row["pap"] else "-" for name in watched),
            str(row["steps"]),
            f"{row['minutes']:.1f}",
        )
        for row in growth["rows"]
    ]
    rows += [(count, fault, *["-"] * (len(watched) + 2)) for count, fault in growth["faults"].items()]
    where = f"the photos in {document['subset']}" if document["subset"] else "all test photos"
    commits = ", ".join(dict.fromkeys(row["commit"] or "unknown" for row in growth["rows"]))
    return [
        *table(("products", "trained on", *(f"pAP {name}" for name in watched), "steps", "minutes"), rows, left=2),
        "",
        f"One model a row, each with the same budget, seed {growth['seed']}: with more products fewer steps fall to each. "
        f"pAP on {where}. Commits of the models: {commits}.",
    ]


def _mib(value: float | None) -> str:
    return "not measured: this system does not tell" if value is None else f"{value:.0f}"
