"""The table: order, the row "empty mask", undefined figures, and names that could break a format."""

from __future__ import annotations

import csv
import io
import math

import pytest

from unias.evaluation.protocol import KEYS, mean_metrics
from unias.report import tables

NAN = math.nan
STAMP = {"commit": "abc1234", "machine": "2 cores, 8 GB"}


def two_classes() -> dict[str, dict[str, float]]:
    """One class with everything, one with image-level truth only."""
    whole = dict.fromkeys(KEYS, 0.5) | {"n_good": 3, "n_defective": 4, "dsc": 0.123456, "dsc_empty": 3 / 7}
    without = dict.fromkeys(KEYS, NAN) | {"n_good": 2, "n_defective": 2, "image_auroc": 0.75}
    return {"part": whole, "cell": without}


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_and_columns_come_in_a_fixed_order() -> None:
    classes = two_classes()
    rows = tables.table_rows(classes, mean_metrics(classes))
    assert [row.name for row in rows] == ["part", "cell", "Mean", "empty mask"]
    headings = list(tables.HEADINGS)
    assert headings[:5] == ["product", "good", "defective", "AR (%)", "pAP"]
    place = headings.index("DSC, oracle")
    assert headings[place : place + 4] == ["DSC, oracle", "DSC, label-free", "DSC, best", "DSC, empty mask"]


def test_csv_has_the_stamp_in_every_row_and_empty_cells_where_undefined() -> None:
    classes = two_classes()
    rows = read(tables.to_csv(classes, mean_metrics(classes), STAMP))
    assert all(row["commit"] == "abc1234" and row["machine"] == "2 cores, 8 GB" for row in rows)
    part, cell, mean, empty = rows
    assert (part["DSC, oracle"], part["good"], part["pAP"]) == ("12.3456", "3", "50.0000")
    assert (cell["DSC, oracle"], cell["image AUROC"]) == ("", "75.0000")
    assert (mean["image AUROC"], mean["DSC, oracle"], mean["good"]) == ("62.5000", "12.3456", "")
    for heading in ("DSC, oracle", "DSC, label-free", "DSC, best", "DSC, empty mask"):
        assert float(empty[heading]) == pytest.approx(300 / 7, abs=1e-4)
    assert (empty["DSC defective, oracle"], empty["pAP"]) == ("0.0000", "")


def test_empty_mask_is_taken_over_the_products_its_column_is_of() -> None:
    classes = two_classes()
    classes["cell"] |= {"dsc_empty": 1.0, "dsc_cut": 0.9}  # good photos alone: no oracle there
    empty = read(tables.to_csv(classes, mean_metrics(classes)))[-1]
    assert float(empty["DSC, oracle"]) == pytest.approx(300 / 7, abs=1e-4)
    assert float(empty["DSC, label-free"]) == pytest.approx(500 / 7, abs=1e-4)


def test_markdown_keeps_its_shape_whatever_the_names() -> None:
    classes = {"a|b\n<i>": two_classes()["part"], "ключ ñ": two_classes()["cell"]}
    text = tables.to_markdown(classes, mean_metrics(classes), STAMP)
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 6
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "a\\|b &lt;i&gt;" in table[2]
    assert "ключ ñ" in table[3]
    assert "**empty mask**" in table[5]
    assert "12.35" in table[2]
    assert "- commit: abc1234" in lines
    assert "nan" not in text


def test_html_escapes_names() -> None:
    classes = {'<script>alert("1")</script>': two_classes()["part"]}
    text = tables.to_html(classes, mean_metrics(classes))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("<tr") == 4
    assert 'class="empty"' in text


def test_no_class_at_all() -> None:
    assert [row["product"] for row in read(tables.to_csv({}, mean_metrics({})))] == ["Mean", "empty mask"]


def test_percent() -> None:
    assert (tables.percent(0.1234), tables.percent(NAN), tables.percent(None)) == ("12.3", "–", "–")
