"""The paper's four tables as data, read from the text of its supplement (``published.json`` beside this file)."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any, NamedTuple

PRINTED_APART = 0.02  # points by which a printed mean may miss its column's before it is flagged: rounding


class Published(NamedTuple):
    """One of Tables 1 and 2. rows: {category: {system: (pAP, DSC)}} in per cent; ar: {category: printed AR}; mean: the
    printed one; flags: what does not add up, in words."""

    title: str
    table: int
    rows: dict[str, dict[str, tuple[float, float]]]
    ar: dict[str, float]
    mean: dict[str, tuple[float, float]]
    flags: list[str]


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
    flags = [document()["flags"]["ar"]]
    for name, printed in mean.items():
        for place, what in enumerate(("pAP", "DSC")):
            own = sum(row[name][place] for row in values.values()) / len(values)
            if abs(own - printed[place]) > PRINTED_APART:
                flags.append(
                    f"{given['title']}, {name}: the printed mean {what} {printed[place]:.2f}; its column's is {own:.2f}."
                )
    return Published(given["title"], given["table"], values, {row["category"]: row["ar"] for row in rows}, mean, flags)


def ablation(key: str) -> dict[str, dict[str, float]]:
    """ "structure" (Table 3) or "levels" (Table 4): {row: {"pap", "dsc", "auroc"}} in per cent, MVTec-AD."""
    rows = document()["ablations"][key]["rows"]
    return {row["row"]: {name: row[name] for name in ("pap", "dsc", "auroc")} for row in rows}
