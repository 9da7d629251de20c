"""``unias ablate``: the rows of the supplement's Tables 3 and 4 as runs, beside the published ones.

Each row is the preset with some of the model's settings changed; rows that are the same run are made once. Which single level the
first row of Table 3 has is not said; here it is the coarsest, on which a model of one level stands. Conv3 is the released code's
three 3x3 convolutions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unias.config import Config, dump_config, to_dict
from unias.data.layouts import require_test, require_training, scan
from unias.errors import UsageError
from unias.files import write_json, write_text
from unias.presets import preset as find_preset
from unias.progress import Progress
from unias.report.tables import percent
from unias.studies import published
from unias.studies.runs import Done, Job, check_subsets, claim, identity, length, length_told, length_words, perform

DEFAULT = "default"
MINUTES = 8.0  # of each training of ``small``, where nothing is asked
PLAIN: dict[str, Any] = {"sar": "none", "cnn": "none"}
# {row: changes of the model's settings}, rows named as in published.json
STRUCTURE: dict[str, dict[str, Any]] = {
    "one level": {**PLAIN, "levels": (4,)},
    "+ four levels": PLAIN,
    "+ SAR query": {"cnn": "none"},
    "+ Conv3": {"cnn": "conv3"},
    "MG-CNN": {"cnn": "mg"},
    "MGG-CNN, no filter": {"filter": "none"},
    "MGG-CNN, average": {"filter": "average"},
    "MGG-CNN, Gaussian": {"filter": "gaussian"},
    DEFAULT: {},
}
LEVELS: dict[str, dict[str, Any]] = {
    ",".join(map(str, levels)): {"levels": levels}
    for levels in ((4,), (3,), (2,), (1,), (4, 3), (4, 1), (4, 3, 2), (4, 3, 2, 1))
}
TABLES: dict[int, tuple[str, str, dict[str, dict[str, Any]], str]] = {
    3: ("structure", "Table 3: structure", STRUCTURE, DEFAULT),
    4: ("levels", "Table 4: levels", LEVELS, "4,3,2,1"),
}
FIGURES = (("pap", "pAP"), ("dsc", "DSC"), ("pixel_auroc", "AUROC"))


def configs(table: int, base: Config) -> dict[str, Config]:
    """{row: settings}. Raises UsageError for a table that is no ablation."""
    if table not in TABLES:
        raise UsageError(f"--table: {table} is neither 3 nor 4.")
    rows = TABLES[table][2]
    return {row: dataclasses.replace(base, model=dataclasses.replace(base.model, **wish)) for row, wish in rows.items()}


def ablate(
    data: Path | str,
    output: Path | str,
    *,
    tables: Sequence[int] = (3, 4),
    preset: str = "small",
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int = 0,
    subsets: Mapping[str, Path] | None = None,
    common: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and evaluate what is not done yet, then write ablate.json and ablate.md.

    Arguments as in :func:`unias.studies.compare.compare`; ``tables``: 3, 4 or both. With neither minutes nor epochs ``small`` is
    trained for 8 minutes a run, other presets for their own epochs. Returns what ablate.json holds.
    """
    progress = progress or Progress("silent")
    home, root = Path(output), Path(data)
    base = find_preset(preset)
    minutes, epochs = length(preset, minutes, epochs, MINUTES)
    rows = {table: configs(table, base) for table in tables}
    dataset = scan(root)
    require_training(dataset)
    require_test(dataset)
    check_subsets(dataset, subsets or {})
    request = {"preset": preset, "minutes": minutes, "seed": seed, **identity(dataset, subsets or {}, common)}
    request |= {} if epochs is None else {"epochs": epochs}
    claim(home, request)
    names = _same_runs(rows)
    jobs = []
    for name, config in {names[t, row]: config for t, own in rows.items() for row, config in own.items()}.items():
        file = home / "configs" / f"{name}.yaml"
        write_text(file, dump_config(config))
        wishes = ("--config", str(file), *length_words(minutes, epochs), "--seed", str(seed))
        jobs.append(Job(name, wishes))
    evaluate = [part for name, file in (subsets or {}).items() for part in ("--subset", f"{name}={file}")]
    done = {run.name: run for run in perform(jobs, root, home, [*evaluate, "--no-page"], progress, common)}
    document = {
        "request": request,
        "published": published.document()["source"],
        "tables": {str(t): {row: _figures(done[names[t, row]]) for row in own} for t, own in rows.items()},
    }
    write_json(home / "ablate.json", document)
    write_text(home / "ablate.md", markdown(document, [*(subsets or {}), None]))
    return document


def _same_runs(rows: Mapping[int, Mapping[str, Config]]) -> dict[tuple[int, str], str]:
    """{(table, row): name of its run}: by the settings, so that rows of equal ones share it, today and in a later call."""
    found = {}
    for table, own in rows.items():
        for row, config in own.items():
            word = hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode("utf-8")).hexdigest()[:12]
            found[table, row] = f"run-{word}"
    return found


def _figures(run: Done) -> dict[str, Any]:
    parts: dict[str | None, Mapping[str, Any]] = {None: run.part(None)}
    parts |= {name: run.part(name) for name in run.metrics.get("subsets", {}) if name != "rest"}
    record = {key: run.record.get(key) for key in ("steps", "minutes", "seed", "commit", "machine")}
    figures = {name or "all": {"classes": p["classes"], "mean": p["mean"]} for name, p in parts.items()}
    return {"run": run.name, "record": record, "figures": figures}


def markdown(document: Mapping[str, Any], parts: Sequence[str | None]) -> str:
    """ablate.md."""
    request = document["request"]
    asked = length_told(request["minutes"], request.get("epochs"))
    lines = ["# Ablations", ""]
    lines.append(
        f"Preset `{request['preset']}`, asked of each run: {asked}; seed {request['seed']}, one model for all "
        "products; means over the products in per cent, in brackets the gap to the default. DSC at the paper's oracle "
        "threshold (chosen on the labels of these photos), AUROC over pixels. Published: MVTec-AD, EfficientNet-B4, 1,000 "
        "epochs, as read from the supplement."
    )
    for key, rows in document["tables"].items():
        short, heading, _, default = TABLES[int(key)]
        printed = published.ablation(short)
        for part in parts:
            where = "all test photos" if part is None else f"test photos of `{part}`"
            lines += ["", f"## {heading}, {where}", ""]
            lines.append("| row | pAP | DSC | AUROC | steps | published pAP | published DSC | published AUROC |")
            lines.append("| --- |" + " ---: |" * 7)
            standard = rows[default]["figures"][part or "all"]["mean"]
            for row, found in rows.items():
                mean = found["figures"][part or "all"]["mean"]
                cells = [_gap(mean[name], standard[name], row == default) for name, _ in FIGURES]
                theirs = [f"{printed[row][name]:.2f}" for name in ("pap", "dsc", "auroc")]
                lines.append("| " + " | ".join([row, *cells, str(found["record"]["steps"]), *theirs]) + " |")
            lines += ["", _order(rows, printed, part or "all")]
        flags = published.ablation_flags(short)
        lines += (
            ["", "What does not add up in the published rows:", "", *(f"- {flag}" for flag in flags)] if flags else []
        )
    return "\n".join([*lines, "", "## Runs", "", *_runs(document["tables"])]) + "\n"


def _runs(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What each run was made with, and which rows share it."""
    rows: dict[str, list[str]] = {}
    records: dict[str, Mapping[str, Any]] = {}
    for number, own in tables.items():
        for row, found in own.items():
            rows.setdefault(found["run"], []).append(f"Table {number}, {row}")
            records[found["run"]] = found["record"]
    lines = ["| rows | steps | minutes | commit | machine |", "| --- | ---: | ---: | --- | --- |"]
    for run, named in rows.items():
        cells = [
            "–" if records[run][key] is None else str(records[run][key])
            for key in ("steps", "minutes", "commit", "machine")
        ]
        lines.append("| " + " | ".join(["; ".join(named), *cells]) + " |")
    return lines


def _gap(value: float | None, standard: float | None, default: bool) -> str:
    if default or value is None or standard is None:
        return percent(value, 2)
    return f"{percent(value, 2)} ({100 * (value - standard):+.2f})"


def _order(rows: Mapping[str, Any], printed: Mapping[str, Mapping[str, float]], part: str) -> str:
    """Where two rows change places against the paper, by pAP."""
    found = {row: one["figures"][part]["mean"]["pap"] for row, one in rows.items()}
    ours = {row: value for row, value in found.items() if value is not None}  # None: no masks
    names = list(ours)
    swapped = [
        f"{one} / {other}"
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if (ours[one] - ours[other]) * (printed[one]["pap"] - printed[other]["pap"]) < 0
    ]
    pairs = len(names) * (len(names) - 1) // 2
    told = f": {'; '.join(swapped)}" if swapped else ""
    return f"Pairs of rows whose order by pAP is not the paper's: {len(swapped)} of {pairs}{told}."
