"""The tables of both benches as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unias.bench.stamps import stamp_lines
from unias.bench.variants import PARTS

Document = Mapping[str, Any]
ROW_HEADINGS = (
    "row",
    "weights",
    "G multiply-adds",
    "first image, s",
    "images a second",
    "times the yardstick",
    "p50, ms",
    "p99, ms",
    "peak memory, MiB",
    "share of the convolution rate",
    "largest map difference",
    "pAP lost",
)
QUICK = "**--quick: one call each. This shows that everything runs; the figures are noise.**"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a Markdown table; the first ``left`` columns to the left, figures to the right."""
    lines = [
        "| " + " | ".join(headings) + " |",
        "|" + "|".join([" --- "] * left + [" ---: "] * (len(headings) - left)) + "|",
    ]
    return lines + [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]


def bar_lines(bars: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was measured, what was asked for, met or not."""
    words = {True: "met", False: "**not met**", None: "-"}
    rows = [(one["what"], one["measured"], one["bar"], words[one["met"]]) for one in bars]
    return table(("what", "measured", "bar", "met"), rows, left=4)


def speed_page(document: Document) -> str:
    """``speed.md``."""
    models = document["models"]
    lines = ["# Speed", "", *([QUICK, ""] if document["quick"] else [])]
    lines += [
        f"Ratios to plain `paper` in the same round, medians of {document['rounds']} interleaved rounds. "
        "Two numbers in a cell: batch 1 / 8.",
        "",
        *table(ROW_HEADINGS, [speed_cells(row) for row in document["rows"]], left=2),
        "",
        *_legend(document),
        "",
    ]
    lines += ["## `small`: backbone and the rest alone", "", *_parts(document["parts"]), ""]
    lines += ["## Training step", "", *_training(document["training"]), ""]
    lines += [
        "## Start of the command line",
        "",
        _startup(document["startup"]),
        "",
        "## Bars",
        "",
        *bar_lines(document["bars"]),
        "",
        "## What was measured",
        "",
    ]
    for name, about in models.items():
        record = "".join(f", {key} {value}" for key, value in about["record"].items())
        lines.append(
            f"- `{name}`: {about['weights']}{record}; {about['backbone']}, {about['size']} x {about['size']}, "
            f"{about['products']} products, {about['parameters'] / 1e6:.1f} M parameters beside the backbone; "
            f"on {about['photos']}"
        )
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in document["convolution_flops"].items())
    lines += [f"- convolution rate (3x3, 256 to 256 channels, 112 x 112, batch 1): {rates}", *stamp_lines(document), ""]
    return "\n".join(lines)


def speed_cells(row: Mapping[str, Any]) -> list[str]:
    """One row; where a figure is missing the cell says why."""
    if row["fault"] is not None:
        return [row["title"], row["weights"], row["fault"], *["-"] * (len(ROW_HEADINGS) - 3)]
    why, batches = row["why"], list(row["batches"].values())

    def both(key: str, form: str, scale: float = 1.0) -> str:
        return " / ".join(form.format(scale * batch[key]) for batch in batches)

    peak = row.get("peak_mib")
    slowest = " / ".join(
        f"{batch['p99_milliseconds']:.1f}" + (f" (slowest of {batch['calls']})" if batch["calls"] < 100 else "")
        for batch in batches
    )
    return [
        row["title"],
        row["weights"],
        f"{row['multiply_adds'] / 1e9:.2f}",
        f"{row['first_image_seconds']:.2f}" if "first_image_seconds" in row else why["first_image"],
        both("images_a_second", "{:.2f}"),
        both("times_yardstick", "{:.2f}"),
        both("p50_milliseconds", "{:.1f}"),
        slowest,
        why["peak_mib"] if peak is None else " / ".join(f"{value:.0f}" for value in peak.values()),
        both("share_of_rate", "{:.0f}%", 100),
        f"{row['map_difference']:.1e}",
        f"{row['pap_lost']:+.2f} ({row['pap']['mean']:.2f})" if "pap_lost" in row else why["pap_lost"],
    ]


def _legend(document: Document) -> list[str]:
    where = f"the photos in {document['subset']}" if document.get("subset") else "all test photos"
    return [
        "Multiply-adds: of one image, in convolutions and matrix products; of an export those of the fused form that it "
        "holds. First image: opening the model and one photo in a fresh process, imports of torch not counted (speed.json "
        "has them). p50, p99: of the calls at batch 1 and 8, an image or a batch each. Peak memory: of a fresh process that "
        "opened the model, then ran single photos / batches (of a GPU row the GPU's). Share of the convolution rate: "
        "multiply-adds over time, against one large convolution in the same kind of number in the same round (int8 against "
        "float32). Largest map difference: over the largest value of the map, against float32 eager of the same model. pAP "
        f"lost: points against its float32, and in brackets what it is, by `unias evaluate` on {where}. Times start at "
        "decoded photos and end at the map, as in `unias predict`.",
    ]


def _parts(parts: Mapping[str, Any]) -> list[str]:
    if not parts:
        return ["not measured: left out by --only"]
    rows = [
        (
            f"batch {batch}",
            *(f"{part['milliseconds'][name]:.2f}" for name in PARTS),
            f"{part['rest_over_backbone']:.2f}",
        )
        for batch, part in parts.items()
    ]
    headings = (
        "float32 eager, ms an image",
        "backbone to stride 16 (channels last)",
        "the same in NCHW",
        "channels last, norms folded (as used)",
        "all the rest",
        "rest over backbone",
    )
    return table(headings, rows)


def _startup(startup: Mapping[str, Any]) -> str:
    if startup.get("fault") is not None:
        return str(startup["fault"])
    seconds = startup["seconds"]
    return (
        f"`unias --help` takes {seconds['help']:.2f} s, `python -c 'import torch'` {seconds['torch']:.2f} s: "
        f"{startup['share']:.2f} of it (medians of {startup['rounds']}, in turn)."
    )


def _training(training: Mapping[str, Any]) -> list[str]:
    if training["fault"] is not None:
        return [training["fault"]]
    rows = [
        (row["title"], row["fault"], "-", "-")
        if row["fault"] is not None
        else (
            row["title"],
            f"{row['milliseconds']:.0f}",
            f"{row['times_yardstick']:.2f}",
            f"{row['times_plain_alike']:.2f}",
        )
        for row in training["rows"]
    ]
    backbone = training["backbone_milliseconds"]
    peak = "not measured" if training["peak_mib"] is None else f"{training['peak_mib']:.0f} MiB"
    return [
        *table(("row", "ms a step", "times the yardstick", "times plain in the same precision"), rows),
        "",
        f"Batch {training['batch']}, medians of {training['rounds']} interleaved rounds in a process of their own (peak "
        f"memory {peak}). A step: backbone, forward, losses, backward, clipping, AdamW; decoding is not in it. The backbone, "
        f"always float32 here, takes {backbone['backbone-nchw']:.0f} ms of the plain steps and {backbone['backbone']:.0f} of "
        "the fused. Fused is what `unias train` does: kernels are composed at each step where that is cheaper.",
    ]
