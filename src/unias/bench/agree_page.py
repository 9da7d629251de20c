"""``agree.md``, and the bars of ``unias bench agree``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unias.bench.bars import Bar, bar
from unias.bench.pages import bar_lines, table
from unias.bench.stamps import stamp_lines

Document = Mapping[str, Any]
MAPS = 1e-3  # largest relative difference
OWN = 1e-4  # of scores that should be the same
NAMES = {"onnx": "ONNX", "openvino": "OpenVINO", "server": "server", "watch": "watch", "openvino-int8": "int8"}


def agree_bars(document: Document) -> list[Bar]:
    """The same verdicts but for photos on the cut, maps (of the watcher: scores) within 1e-3, int8's cuts its own."""
    bars: list[Bar] = []
    for row in document["rows"]:
        name = NAMES[row["engine"]]
        if row["engine"] == "openvino-int8":
            bars.append(_own(row))
            continue
        asked = ("the same, but for photos within 1e-3 of the cut", f"at most {MAPS:g} relative")
        figure = "scores" if row["engine"] == "watch" else "maps"
        if "why_not" in row:
            bars += [
                _not_run(row, f"{name}: {what}", said) for what, said in zip(("answers", figure), asked, strict=True)
            ]
            continue
        differ = row["answers_differ"]
        far = [one for one in differ if not one["near"]]
        said = f"{len(differ)} of {row['photos']} differ, {len(far)} of them not near the cut"
        value = row["score_difference"] if figure == "scores" else row["map_difference"]
        bars.append(bar(f"{name}: answers", asked[0], said, not far))
        bars.append(bar(f"{name}: {figure}", asked[1], _number(value), value is not None and value <= MAPS))
    return bars


def _own(row: Mapping[str, Any]) -> Bar:
    asked = f"stored scores of its held-out photos are its own, within {OWN:g}"
    if "why_not" in row:
        return _not_run(row, "int8: cuts", asked)
    return bar("int8: cuts", asked, _number(row["own_ranks"]), row["own_ranks"] <= OWN)


def _not_run(row: Mapping[str, Any], what: str, asked: str) -> Bar:
    """Not met where an export differed so much that it was not kept; not judged where a package is missing."""
    return bar(what, asked, "not kept" if row["differs"] else "not run", False if row["differs"] else None)


def agree_page(document: Document) -> str:
    """Figures, every photo that differs, every photo near the cut, bars."""
    about = document["model"]
    record = "".join(f", {key} {value}" for key, value in about["record"].items() if value is not None)
    verdicts = ", ".join(f"{count} {word}" for word, count in document["verdicts"].items())
    lines = [
        "# The same answers everywhere",
        "",
        f"The trained model on the processor, {document['photos']} photos: {verdicts}. Everything else against it.",
        "",
        *table(
            (
                "engine",
                "how",
                "answers that differ",
                "of them near the cut",
                "largest map difference",
                "largest score difference",
                "masks that differ",
            ),
            [_cells(row) for row in document["rows"]],
            left=2,
        ),
        "",
        "Differences are relative, of the worst photo. Of a map: the largest absolute difference over the largest absolute value "
        "of the trained model's map of the same photo. Of a score: over the trained model's score. The server's maps come as "
        "16-bit PNG; the watcher writes no maps, so its scores and masks are compared. A photo is near the cut where the trained "
        "model's |score - cut| is at most 1e-3 of the cut, or its novelty within 1e-3 of 1, beyond which a product is unknown.",
        "",
        "## Answers that differ",
        "",
        *_differing(document),
        "",
        "## Photos near the cut",
        "",
        *_near(document),
        "",
        "## Bars",
        "",
        *bar_lines(document["bars"]),
        "",
        "## What was measured",
        "",
        f"- model: {about['name']} ({about['system']}){record}; preset {document['preset']}, {document['size']} x "
        f"{document['size']}, {document['products']} products; photos of {document['data']}",
        f"- threads of every process: {document['bench_threads']}",
        *[f"- {NAMES[row['engine']]} was not run: {row['why_not']}" for row in document["rows"] if "why_not" in row],
        *stamp_lines(document),
        "",
    ]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "why_not" in row:
        return (NAMES[row["engine"]], row["how"], *["not run"] * 5)
    differ = row["answers_differ"]
    return (
        NAMES[row["engine"]],
        row["how"],
        str(len(differ)),
        str(sum(one["near"] for one in differ)),
        _number(row["map_difference"]),
        _number(row["score_difference"]),
        str(row["masks_differ"]),
    )


def _differing(document: Document) -> list[str]:
    rows = [
        (
            NAMES[row["engine"]],
            one["photo"],
            _answer(one["reference"]),
            _answer(one["answer"]),
            f"{one['raw_scores'][0]:.6g}, {one['raw_scores'][1]:.6g}",
            f"{one['cuts'][0]:.6g}, {one['cuts'][1]:.6g}",
            f"{one['distance']:.2g}{' (near)' if one['near'] else ''}",
        )
        for row in document["rows"]
        for one in row.get("answers_differ", ())
    ]
    heads = (
        "engine",
        "photo",
        "trained",
        "here",
        "scores: trained, here",
        "cuts: trained, here",
        "distance to the cut",
    )
    return table(heads, rows, left=4) if rows else ["None."]


def _near(document: Document) -> list[str]:
    rows = [
        (one["photo"], _answer(one), f"{one['raw_score']:.6g}", f"{one['cut']:.6g}", f"{one['distance']:.2g}")
        for one in document["near"]
    ]
    return table(("photo", "trained", "score", "cut", "distance"), rows, left=2) if rows else ["None."]


def _answer(said: Mapping[str, Any]) -> str:
    return f"{said['verdict']} ({said['product']})" if said["product"] else str(said["verdict"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
