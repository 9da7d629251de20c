"""``unias bench extend``: what a model keeps and learns when a product is added later, against training all from nothing.

For each newcomer: a model without it, extended by ``unias extend`` in a fifth of the minutes, once with the old photos at hand
and once with the few that a model keeps. One model of all products from nothing serves all newcomers.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unias.bench.bars import Bar, bar
from unias.bench.growth import gathered, product_folders
from unias.bench.pages import bar_lines
from unias.data.layouts import require_test, require_training, scan
from unias.errors import UsageError
from unias.files import read_lines, write_json, write_text
from unias.progress import Progress
from unias.studies.runs import RUNS, Done, Job, check_subsets, claim, identity, perform

SHARE = 0.2  # of the minutes that training from nothing takes
ALLOWED_LOSS, ASKED_SHARE = 1.0, 0.95  # points of pAP of an old product; of the newcomer's pAP from nothing
NOTHING, COUNTED = "from-nothing", "counted"
RECORD = ("minutes", "steps", "seed", "commit", "machine")
WAYS = {"photos": "old photos at hand", "kept": "kept photos only"}


def run_extend(
    data: Path | str,
    output: Path | str,
    newcomers: Sequence[str],
    *,
    minutes: float = 20.0,
    steps: int | None = None,
    seed: int = 0,
    subset: Path | None = None,
    common: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, extend and evaluate what is not done yet, then write extend.json and extend.md.

    Args:
        data: folder in MVTec-AD layout. newcomers: products of it, each added to a model of all others.
        minutes: of a training from nothing; an extension gets ``SHARE`` of them. steps: in the place of minutes.
        subset: file with the test photos that count, one a line; None = all.
        common: arguments of all commands, such as --device.

    Returns what extend.json holds. Raises UsageError for a newcomer that is not there or a single product, and what the
    commands raise.
    """
    progress = progress or Progress("silent")
    home, root = Path(output), Path(data)
    dataset = scan(root)
    require_training(dataset)
    require_test(dataset)
    folders = product_folders(dataset)
    for name in newcomers:
        if name not in folders or not dataset.has_masks(name):
            raise UsageError(
                f"--newcomer: {name!r} has no training photos, or no test photos with masks, in {root} (MVTec-AD layout)."
            )
    if len(folders) < 2:
        raise UsageError(f"{root}: one product only; a newcomer needs others to be added to.")
    lines = None if subset is None else read_lines(subset)
    subsets = {} if subset is None else {COUNTED: subset}
    check_subsets(dataset, subsets)
    claim(home, {"minutes": minutes, "steps": steps, "seed": seed, **identity(dataset, subsets, common)})
    places = home.resolve() / "photos"
    all_of_it = _budget(minutes, steps, seed)
    a_part = _budget(minutes * SHARE, None if steps is None else max(1, round(steps * SHARE)), seed)
    jobs = [Job(NOTHING, all_of_it)]
    for name in newcomers:
        old = _linked({key: folder for key, folder in folders.items() if key != name}, places / f"without-{name}")
        new = _linked({name: folders[name]}, places / f"only-{name}")
        base = home / RUNS / f"without-{name}" / "model"
        jobs.append(Job(f"without-{name}", all_of_it, ("train", str(old)), old))
        jobs.append(Job(f"{name}-photos", (*a_part, "--data", str(old)), ("extend", str(base), str(new))))
        jobs.append(Job(f"{name}-kept", a_part, ("extend", str(base), str(new))))
    runs: dict[str, Done] = {}
    for job in jobs:
        present = [name for name in folders if job.tests is None or (job.tests / name).exists()]
        wishes = ["--no-page", *_counted(lines, present, places / f"{job.name}.txt")]
        runs |= {run.name: run for run in perform([job], root, home, wishes, progress, common)}
    document: dict[str, Any] = {
        "subset": None if subset is None else subset.name,
        "minutes": minutes,
        "steps": steps,
        "newcomers": {name: _compared(name, runs, lines is not None) for name in newcomers},
        "records": {name: {key: run.record.get(key) for key in RECORD} for name, run in runs.items()},
    }
    document["bars"] = _bars(document)
    write_json(home / "extend.json", document)
    write_text(home / "extend.md", markdown(document))
    return document


def _budget(minutes: float, steps: int | None, seed: int) -> tuple[str, ...]:
    budget = ("--minutes", f"{minutes:g}") if steps is None else ("--steps", str(steps))
    return (*budget, "--seed", str(seed))


def _linked(folders: dict[str, Path], target: Path) -> Path:
    """A data folder of these products, made once and whole: a killed bench leaves none that lacks some."""
    if not target.is_dir():
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        gathered({name: path.resolve() for name, path in folders.items()}, part)
        os.replace(part, target)
    return target


def _counted(lines: Sequence[str] | None, products: Sequence[str], file: Path) -> tuple[str, ...]:
    """Arguments of ``unias evaluate`` for the lines that are of these products."""
    if lines is None:
        return ()
    write_text(file, "\n".join(line for line in lines if line.split("/")[0] in products) + "\n")
    return ("--subset", f"{COUNTED}={file}")


def _compared(name: str, runs: Mapping[str, Done], counted: bool) -> dict[str, Any]:
    """pAP of every product, in points, without the newcomer, extended in two ways, and from nothing."""

    def points(run: str) -> dict[str, float]:
        classes = runs[run].part(COUNTED if counted else None)["classes"]
        return {key: 100 * one["pap"] for key, one in classes.items() if one.get("pap") is not None}

    def failed(run: str) -> float | None:
        """Share of good test photos that the model's own cuts fail, mean over products."""
        rate = runs[run].part(COUNTED if counted else None)["mean"].get("false_alarm_rate")
        return None if rate is None else float(rate)

    before, whole = points(f"without-{name}"), points(NOTHING)
    found: dict[str, Any] = {"before": before, "from_nothing": whole}
    found["false_alarms"] = {
        "without it": failed(f"without-{name}"),
        **{f"extended, {said}": failed(f"{name}-{way}") for way, said in WAYS.items()},
        "from nothing": failed(NOTHING),
    }
    for way in WAYS:
        after = points(f"{name}-{way}")
        lost = {key: before[key] - after[key] for key in before if key in after}
        found[way] = {
            "pap": after,
            "lost": lost,
            "share": after[name] / whole[name] if whole[name] > 0 else math.nan,
            "minutes": runs[f"{name}-{way}"].record.get("minutes"),
        }
    return found


def _bars(document: Mapping[str, Any]) -> list[Bar]:
    """Of the extension with the old photos at hand; the other way is shown beside it."""
    bars = []
    for name, found in document["newcomers"].items():
        one = found["photos"]
        worst = max(one["lost"], key=lambda key: one["lost"][key])
        lost = one["lost"][worst]
        said = f"{lost:+.1f} points at most ({worst})"
        bars.append(bar(f"{name} added: pAP lost by an old product", "at most 1 point", said, lost <= ALLOWED_LOSS))
        said = f"{one['share']:.0%} of {found['from_nothing'][name]:.1f}"
        asked = "at least 95% of what training from nothing gives, in a fifth of its time"
        bars.append(bar(f"{name} added: its own pAP", asked, said, one["share"] >= ASKED_SHARE))
    return bars


def markdown(document: Mapping[str, Any]) -> str:
    """extend.md."""
    budget = f"{document['minutes']:g} minutes" if document["steps"] is None else f"{document['steps']} steps"
    lines = [
        "# A product added later",
        "",
        f"pAP in per cent. *without it*: one model of the other products, {budget}. *extended*: `unias extend` of that model, a "
        "fifth of it, with the old products' photos at hand, or with the few that a model keeps. *from nothing*: one model of "
        f"all products, {budget}.",
    ]
    for name, found in document["newcomers"].items():
        lines += ["", f"## {name} as the newcomer", ""]
        lines += [
            "| product | without it | "
            + " | ".join(f"extended, {said}" for said in WAYS.values())
            + " | from nothing |"
        ]
        lines += ["| --- |" + " ---: |" * 4]
        for product, whole in found["from_nothing"].items():
            before = found["before"].get(product)
            cells = [_cell(found[way]["pap"].get(product), before) for way in WAYS]
            lines.append(
                f"| {product} | {'–' if before is None else f'{before:.1f}'} | {' | '.join(cells)} | {whole:.1f} |"
            )
        shares = ", ".join(f"{found[way]['share']:.0%} with {said}" for way, said in WAYS.items())
        lines += ["", f"Of what {name} reaches from nothing: {shares}."]
        rates = [f"{said} {rate:.1%}" for said, rate in found["false_alarms"].items() if rate is not None]
        if rates:
            lines += [
                "",
                f"Good test photos that fail at the models' own cuts, mean over products: {'; '.join(rates)}.",
            ]
    lines += ["", "## Bars", "", *bar_lines(document["bars"]), ""]
    lines += ["| run | minutes | steps | seed | commit | machine |", "| --- |" + " ---: |" * 3 + " --- | --- |"]
    for name, record in document["records"].items():
        minutes = record["minutes"]
        shown = "–" if minutes is None else f"{minutes:.1f}"
        lines.append(
            f"| {name} | {shown} | {record['steps']} | {record['seed']} | {record['commit']} | {record['machine']} |"
        )
    return "\n".join([*lines, "", f"Photos: {document['subset'] or 'all test photos'}."]) + "\n"


def _cell(after: float | None, before: float | None) -> str:
    if after is None:
        return "–"
    return f"{after:.1f}" if before is None else f"{after:.1f} ({after - before:+.1f})"
