"""The table of an evaluation in the paper's form: one row a product, Mean, and the row "empty mask".

Columns and their order are fixed. Figures are printed in per cent with two digits, as the paper does; an undefined
figure is an empty cell in CSV and "-" elsewhere. Every DSC stands beside what predicting nothing scores, since a good
photo left empty counts 1 (spec section 10).
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Classes = Mapping[str, Mapping[str, float]]
EMPTY_MASK = "empty mask"
MEAN = "Mean"


class Column(NamedTuple):
    """One column: the key in ``metrics.json``, its heading, its meaning in plain words, and how it is printed."""

    key: str
    heading: str
    meaning: str
    whole: bool = False


COLUMNS = (
    Column("n_good", "good", "good test photos", whole=True),
    Column("n_defective", "defective", "defective test photos", whole=True),
    Column("ar", "AR (%)", "share of anomalous pixels in the defective photos"),
    Column("pap", "pAP", "average precision over all pixels"),
    Column("dsc", "DSC, oracle", "Dice a photo; the threshold maximises precision + recall on the test labels"),
    Column("dsc_cut", "DSC, label-free", "Dice a photo; the masks that the model draws itself, no label used"),
    Column("dsc_best", "DSC, best", "Dice a photo; the single threshold that maximises it on the test labels"),
    Column("dsc_empty", "DSC, empty mask", "Dice a photo of predicting nothing anywhere"),
    Column("dsc_defective_oracle", "DSC defective, oracle", "the oracle's Dice over the defective photos alone"),
    Column(
        "dsc_defective_single",
        "DSC defective, best",
        "Dice over the defective photos; the single threshold that maximises it",
    ),
    Column("dsc_defective_cut", "DSC defective, label-free", "the label-free Dice over the defective photos alone"),
    Column("pixel_auroc", "pixel AUROC", "area under the ROC curve over all pixels"),
    Column("aupro", "AUPRO", "overlap a region up to 30 % false positive pixels"),
    Column("pixel_f1max", "pixel F1-max", "highest F1 over all pixels, threshold from the test labels"),
    Column("image_auroc", "image AUROC", "area under the ROC curve over photos"),
    Column("image_ap", "image AP", "average precision over photos"),
    Column("image_f1max", "image F1-max", "highest F1 over photos, threshold from the test labels"),
    Column("false_alarm_rate", "false alarms", "good photos that the cut fails"),
    Column("miss_rate", "missed", "defective photos that the cut passes"),
)
HEADINGS = ("product", *(column.heading for column in COLUMNS))
_EMPTY = ("dsc", "dsc_cut", "dsc_best", "dsc_empty")
_EMPTY_DEFECTIVE = (
    "dsc_defective_oracle",
    "dsc_defective_single",
    "dsc_defective_cut",
)  # 0 for an empty mask


class Row(NamedTuple):
    """A row's name and one value a column: a fraction, a count, or None where there is none."""

    name: str
    values: tuple[float | None, ...]


def table_rows(classes: Classes, mean: Mapping[str, Any]) -> list[Row]:
    """The rows in order: products as given, Mean, empty mask (under a DSC column: its mean over the same products).

    Args:
        classes: {product: figures of ``protocol.evaluate_class``}.
        mean: figures of ``protocol.mean_metrics``.
    """
    rows = [Row(name, tuple(_value(values, column.key) for column in COLUMNS)) for name, values in classes.items()]
    rows.append(Row(MEAN, tuple(None if column.whole else _value(mean, column.key) for column in COLUMNS)))
    empty: list[float | None] = []
    for column in COLUMNS:
        here = [values for values in classes.values() if _value(values, column.key) is not None]
        scores = [score for values in here if (score := _value(values, "dsc_empty")) is not None]
        if not scores or column.key not in _EMPTY + _EMPTY_DEFECTIVE:
            empty.append(None)
        else:
            empty.append(sum(scores) / len(scores) if column.key in _EMPTY else 0.0)
    return [*rows, Row(EMPTY_MASK, tuple(empty))]


def to_markdown(classes: Classes, mean: Mapping[str, Any], stamp: Mapping[str, str] | None = None) -> str:
    """The table as Markdown with a legend and the stamp (commit, config, seed, minutes, machine) below."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for row in table_rows(classes, mean):
        name = _markdown(row.name) if row.name not in (MEAN, EMPTY_MASK) else f"**{row.name}**"
        lines.append("| " + " | ".join([name, *_cells(row, "-")]) + " |")
    lines += ["", f"All figures but counts in per cent. {legend()}"]
    if stamp:
        lines += ["", *(f"- {_markdown(key)}: {_markdown(value)}" for key, value in stamp.items())]
    return "\n".join(lines) + "\n"


def to_csv(classes: Classes, mean: Mapping[str, Any], stamp: Mapping[str, str] | None = None) -> str:
    """The table as CSV (per cent, full precision to 4 digits); the stamp fills further columns of every row."""
    stamp = stamp or {}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*HEADINGS, *stamp])
    for row in table_rows(classes, mean):
        writer.writerow([row.name, *_cells(row, "", digits=4), *stamp.values()])
    return buffer.getvalue()


def to_html(classes: Classes, mean: Mapping[str, Any]) -> str:
    """The table as an HTML fragment (``<table class="metrics">``); each heading explains itself in its title."""
    heads = "".join(
        f'<th scope="col" title="{html.escape(column.meaning, quote=True)}">{html.escape(column.heading)}</th>'
        for column in COLUMNS
    )
    body = []
    for row in table_rows(classes, mean):
        kind = {MEAN: ' class="mean"', EMPTY_MASK: ' class="empty"'}.get(row.name, "")
        cells = "".join(f"<td>{cell}</td>" for cell in _cells(row, "–"))
        body.append(f'<tr{kind}><th scope="row">{html.escape(row.name)}</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">product</th>{heads}</tr></thead>'
    return f'<table class="metrics">{head}<tbody>{"".join(body)}</tbody></table>'


def legend() -> str:
    """What the columns mean, in one paragraph of plain words."""
    return " ".join(f"{column.heading}: {column.meaning}." for column in COLUMNS if not column.whole)


def percent(value: float | None, digits: int = 1, missing: str = "–") -> str:
    """A fraction in per cent, or ``missing`` where it is None or NaN."""
    return missing if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def _value(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return None if value is None or math.isnan(value) else float(value)


def _cells(row: Row, missing: str, digits: int = 2) -> Sequence[str]:
    cells = []
    for column, value in zip(COLUMNS, row.values, strict=True):
        if column.whole:
            cells.append(missing if value is None else str(int(value)))
        else:
            cells.append(percent(value, digits, missing))
    return cells


def _markdown(text: str) -> str:
    text = html.escape(" ".join(str(text).split()), quote=False)
    for sign in "\\`*_|[]":
        text = text.replace(sign, "\\" + sign)
    return text
