"""The paper's four tables as data, read from the text of its supplement (``published.json`` beside this file)."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any, NamedTuple

NAMES = {"pap": "pAP", "dsc": "DSC", "auroc": "AUROC"}
PRINTED_APART = 0.02  # points by which a printed mean may miss its column's before it is flagged: rounding


class Published(NamedTuple):
    """One of Tables 1 and 2. rows: {category: {system: (pAP, DSC)}} in per cent; ar: {category: printed AR}; mean and mean_ar:
    the printed ones; flags: what does not add up, in words; apart: the printed means (system, 0 = pAP, 1 = DSC) among it."""

    title: str
    table: int
    rows: dict[str, dict[str, tuple[float, float]]]
    ar: dict[str, float]
    mean: dict[str, tuple[float, float]]
    mean_ar: float
    flags: list[str]
    apart: set[tuple[str, int]]


@functools.cache
def document() -> dict[str, Any]:
    """All of it, with its source."""
    text = files("unias.studies").joinpath("published.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def table(key: str) -> Published:
    """ "mvtec" (Table 2) or "visa" (Table 1)."""
    given = document()["tables"][key]
    *rows, last = given["rows"]
    values = {row["category"]: {name: (pair[0], pair[1]) for name, pair in row["values"].items()} for row in rows}
    mean = {name: (pair[0], pair[1]) for name, pair in last["values"].items()}
    flags, apart = [document()["flags"]["ar"]], set()
    for name, printed in mean.items():
        for place, what in enumerate(("pAP", "DSC")):
            own = sum(row[name][place] for row in values.values()) / len(values)
            if abs(own - printed[place]) > PRINTED_APART:
                apart.add((name, place))
                flags.append(
                    f"{given['title']}, {name}: the printed mean {what} {printed[place]:.2f}; its column's is {own:.2f}."
                )
    ar = {row["category"]: row["ar"] for row in rows}
    return Published(given["title"], given["table"], values, ar, mean, last["ar"], flags, apart)


def ablation_flags(key: str) -> list[str]:
    """What does not add up in "structure" or "levels": printed gaps that are not those of the printed figures."""
    given = document()["ablations"][key]
    default = given["rows"][-1]
    found = []
    for row in given["rows"][:-1]:
        for name, printed in row["gaps"].items():
            own = default[name] - row[name]
            if abs(own - printed) > PRINTED_APART:
                found.append(
                    f"Table {given['table']}, {row['row']}: {NAMES[name]} {row[name]:.2f} with a printed gap of {printed:.2f}; "
                    f"to {default[name]:.2f} it is {own:.2f}."
                )
    return found


def ablation(key: str) -> dict[str, dict[str, float]]:
    """ "structure" (Table 3) or "levels" (Table 4): {row: {"pap", "dsc", "auroc"}} in per cent, MVTec-AD."""
    rows = document()["ablations"][key]["rows"]
    return {row["row"]: {name: row[name] for name in ("pap", "dsc", "auroc")} for row in rows}
