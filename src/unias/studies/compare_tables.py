"""The comparison as tables in the form of the paper's Tables 1 and 2: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unias.config import from_dict
from unias.report.tables import EMPTY_MASK, MEAN, percent
from unias.studies import published
from unias.studies.runs import Done
from unias.systems.registry import UNIAS, find, names, title

Mark = Callable[[str, int], str]  # (figure, rank from 0) -> figure as it is set
FIGURES = (
    ("pap", "pAP"),
    ("dsc", "DSC, oracle"),
    ("dsc_best", "DSC, best single threshold"),
    ("dsc_cut", "DSC, label-free"),
    ("dsc_defective_single", "Dice of defective photos, best single threshold"),
    ("dsc_defective_cut", "Dice of defective photos, label-free"),
    ("pixel_auroc", "pixel AUROC"),
    ("aupro", "AUPRO"),
    ("pixel_f1max", "pixel F1-max"),
    ("image_auroc", "image AUROC"),
    ("image_ap", "image AP"),
    ("image_f1max", "image F1-max"),
    ("false_alarm_rate", "false alarms"),
    ("miss_rate", "missed"),
)
LESS_IS_BETTER = ("false_alarm_rate", "miss_rate")
PROTOCOL = (
    "All figures in per cent; one model for all products, trained on good photos alone, kept as it is after the last step: no "
    "test photo chooses one. pAP: average precision over all pixels, of maps and masks at the model's input size. DSC: mean Dice "
    "of photos, a good photo left empty counting 1, so that a DSC below the empty mask's is worth nothing; *oracle*: the paper's "
    "threshold, which maximises precision + recall on the labels of these very photos; *best*: the single threshold a class that "
    "maximises DSC, from the same labels; *label-free*: what the model marks itself, by cuts from held-out good photos. AR: "
    "share of anomalous pixels in the defective photos (the AR printed in the paper is about three times that)."
)


@dataclass(frozen=True)
class Entry:
    """One run in the tables."""

    system: str
    seed: int
    parts: dict[str | None, Mapping[str, Any]]  # {subset, None = all: {"classes", "mean"}}
    cost: dict[str, float | None]  # minutes, steps, seconds an image, MiB of the model and of training at its highest
    made_of: str
    record: dict[str, Any]

    @property
    def commit(self) -> str:
        """What trained it, and what fitted it anew (``unias calibrate --refit``), where it was."""
        trained, refitted = self.record.get("commit", "unknown"), self.record.get("refitted")
        return f"{trained}, fitted anew at {refitted['commit']}" if refitted else str(trained)

    @classmethod
    def of(cls, run: Done) -> Entry:
        """From a finished run."""
        record = run.record
        found: dict[str | None, Mapping[str, Any]] = {None: run.part(None)}
        found |= {name: run.part(name) for name in run.metrics.get("subsets", {}) if name != "rest"}
        cost = {
            "minutes": record["minutes"],
            "steps": record["steps"] if by_gradient(record.get("system", UNIAS)) else None,
            "seconds_an_image": run.metrics["info"].get("seconds_an_image"),
            "model_mib": run.model_mib,
            "peak_mib": record.get("peak_mib"),
            "peak_gpu_mib": record.get("peak_gpu_mib"),
        }
        return cls(record.get("system", UNIAS), record["seed"], found, cost, made_of(run), record)

    def value(self, part: str | None, product: str | None, key: str) -> float | None:
        """One figure; ``product`` None = the mean."""
        place = self.parts[part]
        values = place["mean"] if product is None else place["classes"].get(product, {})
        found = values.get(key)
        return None if found is None or math.isnan(found) else float(found)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        parts = {name or "all": {"classes": p["classes"], "mean": p["mean"]} for name, p in self.parts.items()}
        return {
            "system": self.system,
            "seed": self.seed,
            "made_of": self.made_of,
            "cost": self.cost,
            "record": self.record,
            "figures": parts,
        }


def by_gradient(system: str) -> bool:
    """Whether it makes steps at all."""
    return system == UNIAS or find(system).by_gradient


def made_of(run: Done) -> str:
    """Backbone, batches, rate and the system's own settings."""
    config = run.metrics["info"]["config"]
    train = config["train"]
    parts = [f"{config['backbone']['name']} at {config['size']} pixels", f"batches of {train['batch_size']}"]
    if config["system"] != UNIAS:
        kind = find(config["system"])
        parts += [f"rate {train['learning_rate']:g}", f"{train['precision']}"] if kind.by_gradient else []
        parts.append(f"turns by {train['recipe']}")
        settings = kind.told(from_dict(kind.Settings, config["settings"]))
        parts += [f"{key} {value}" for key, value in settings.items() if value != "" and key != "textures"]
    else:
        parts += [f"preset {config['preset']}", f"turns by {train['recipe']}", f"{train['precision']}"]
        parts.append(f"{train['optimizer']}, {train['schedule']} schedule")
        parts += [f"weights averaged by {train['ema']:g}"] if train["ema"] else []
        drawn = config["maps"].get("drawn", 0)
        parts += [f"the fusion of each product by defects drawn into {drawn} training photos"] if drawn else []
    if run.record.get("textures"):
        parts.append(f"textures: {run.record['textures']}")
    return ", ".join(parts)


def first(entries: Sequence[Entry]) -> list[Entry]:
    """The first run of each system, in the tables' order."""
    order = list(names())
    kept: dict[str, Entry] = {}
    for entry in entries:
        kept.setdefault(entry.system, entry)
    return [kept[name] for name in order if name in kept]


def products(entries: Sequence[Entry], part: str | None) -> list[str]:
    """The classes of a part."""
    return list(entries[0].parts[part]["classes"])


def ranked(values: Sequence[float | None], less: bool = False, digits: int = 2) -> list[int | None]:
    """0 for the best as printed, 1 for the second, None for others."""
    shown = [None if value is None else round(100 * value, digits) for value in values]
    distinct = sorted({value for value in shown if value is not None}, reverse=not less)
    return [None if v is None or distinct.index(v) > 1 else distinct.index(v) for v in shown]


def set_row(values: Sequence[float | None], mark: Mark, less: bool = False) -> list[str]:
    """Figures in per cent, the best and the second marked where there are several."""
    ranks = ranked(values, less) if len(values) > 1 else [None]
    return [
        percent(value, 2) if rank is None else mark(percent(value, 2), rank)
        for value, rank in zip(values, ranks, strict=True)
    ]


def paired(entries: Sequence[Entry], part: str | None, product: str | None, mark: Mark) -> list[str]:
    """ "pAP / DSC" of every system, best and second of each marked."""
    columns = [set_row([e.value(part, product, key) for e in entries], mark) for key in ("pap", "dsc")]
    return [f"{pap} / {dsc}" for pap, dsc in zip(*columns, strict=True)]


def md_mark(text: str, rank: int) -> str:
    """Best in bold, second underlined."""
    return f"**{text}**" if rank == 0 else f"<u>{text}</u>"


def tex_mark(text: str, rank: int) -> str:
    """The same in LaTeX."""
    return rf"\textbf{{{text}}}" if rank == 0 else rf"\underline{{{text}}}"


def markdown(entries: Sequence[Entry], parts: Sequence[str | None], length: str, show: str | None) -> str:
    """compare.md; ``length``: of each training as it was asked for, in words."""
    one_each = first(entries)
    lines = ["# The systems side by side", ""]
    lines += [f"Asked of each: {length}; seed {one_each[0].seed}. What it took stands below. {PROTOCOL}", ""]
    for part in parts:
        lines += [f"## {_part_title(part)}", "", *_paper_table(one_each, part), "", *_figures_table(one_each, part), ""]
        lines += [*_auroc_table(one_each, part), ""]
    lines += ["## What they cost", "", *_cost_table(one_each), ""]
    more = [entry for entry in entries if sum(other.system == entry.system for other in entries) > 1]
    if more:
        for part in parts:
            lines += [f"## Seeds: {_part_title(part).lower()}", "", *_seeds_table(more, part), ""]
    lines += ["## What they are", "", *(f"- {title(e.system)}: {e.made_of}" for e in one_each), ""]
    if show is not None:
        lines += _published_table(show)
    return "\n".join(lines).rstrip() + "\n"


def _part_title(part: str | None) -> str:
    return "All test photos" if part is None else f"Test photos of `{part}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _paper_table(entries: Sequence[Entry], part: str | None) -> list[str]:
    rows = []
    for product in [*products(entries, part), None]:
        name = f"**{MEAN}**" if product is None else product
        rows.append([name, percent(entries[0].value(part, product, "ar"), 2), *paired(entries, part, product, md_mark)])
    empty = percent(entries[0].value(part, None, "dsc_empty"), 2)
    rows.append([f"*{EMPTY_MASK}*", "", *([f"– / {empty}"] * len(entries))])
    return _table(["pAP / DSC (oracle)", "AR", *(title(e.system) for e in entries)], rows)


def _figures_table(entries: Sequence[Entry], part: str | None) -> list[str]:
    rows = []
    for key, heading in FIGURES:
        values = [entry.value(part, None, key) for entry in entries]
        rows.append([heading, *set_row(values, md_mark, key in LESS_IS_BETTER)])
    return _table(["mean over products", *(title(e.system) for e in entries)], rows)


def aurocs(entries: Sequence[Entry], part: str | None, product: str | None, mark: Mark) -> list[str]:
    """ "pixel / image AUROC" of every system, best and second of each marked."""
    columns = [set_row([e.value(part, product, key) for e in entries], mark) for key in ("pixel_auroc", "image_auroc")]
    return [f"{pixel} / {image}" for pixel, image in zip(*columns, strict=True)]


def _auroc_table(entries: Sequence[Entry], part: str | None) -> list[str]:
    rows = [[product, *aurocs(entries, part, product, md_mark)] for product in products(entries, part)]
    return _table([AUROCS, *(title(e.system) for e in entries)], rows)


AUROCS = "AUROC of pixels / of photos"
OFF = 0.05  # share of the minutes asked for by which a run may miss them before the tables say so
COSTS = (
    ("minutes", "training, minutes", "{:.1f}"),
    ("steps", "steps", "{:.0f}"),
    ("seconds_an_image", "milliseconds an image, file to map", "{:.0f}"),
    ("model_mib", "model, MiB", "{:.1f}"),
    ("peak_mib", "most memory in training, MiB", "{:.0f}"),
    ("peak_gpu_mib", "of the GPU's, MiB", "{:.0f}"),
)


def minutes_told(entry: Entry) -> str:
    """What a training took, and how far that is from what was asked, where it is far."""
    took, asked = entry.cost["minutes"], entry.record.get("minutes_asked")
    if took is None:
        return "–"
    apart = took / asked - 1 if asked else 0.0
    return f"{took:.1f} ({100 * apart:+.0f}%)" if abs(apart) > OFF else f"{took:.1f}"


def costs(entries: Sequence[Entry]) -> list[list[str]]:
    """Rows of what the systems cost: a heading, then a cell each; rows that none fills are left out."""
    rows = []
    for key, heading, form in COSTS:
        scale = 1000 if key == "seconds_an_image" else 1
        found = [entry.cost.get(key) for entry in entries]
        if key == "minutes":
            rows.append([heading, *(minutes_told(entry) for entry in entries)])
        elif key == "peak_mib" or any(value is not None for value in found):
            rows.append([heading, *("–" if value is None else form.format(scale * value) for value in found)])
    if any(entry.record.get("resumed_at") for entry in entries):
        rows.append(["resumed at step", *(str(entry.record.get("resumed_at") or "–") for entry in entries)])
    return rows


def machine_told(entry: Entry) -> str:
    """The machine, short."""
    return str(entry.record.get("machine", "unknown"))[:60]


def _cost_table(entries: Sequence[Entry]) -> list[str]:
    rows = costs(entries)
    rows.append(["machine", *(machine_told(entry) for entry in entries)])
    rows.append(["commit", *(entry.commit for entry in entries)])
    return _table(["", *(title(e.system) for e in entries)], rows)


def _seeds_table(entries: Sequence[Entry], part: str | None) -> list[str]:
    """Every run of the systems that have several, and their medians."""
    head = ["system", "seed", "pAP", *(f"pAP {name}" for name in products(entries, part)), "DSC, oracle", "image AUROC"]
    head += ["steps", "minutes", "commit", "machine"]
    wanted = [("pap", None), *(("pap", name) for name in products(entries, part)), ("dsc", None), ("image_auroc", None)]
    rows = []
    for system in (name for name in names() if any(entry.system == name for entry in entries)):
        own = sorted((entry for entry in entries if entry.system == system), key=lambda entry: entry.seed)
        figures = [[entry.value(part, product, key) for key, product in wanted] for entry in own]
        for entry, values in zip(own, figures, strict=True):
            marks = [
                "–" if entry.cost["steps"] is None else str(entry.cost["steps"]),
                minutes_told(entry),
                entry.commit,
                machine_told(entry),
            ]
            rows.append([title(system), str(entry.seed), *(percent(value, 2) for value in values), *marks])
        middle = [None if None in column else statistics.median(column) for column in zip(*figures, strict=True)]
        rows.append([title(system), "*median*", *(percent(value, 2) for value in middle), "", "", "", ""])
    return _table(head, rows)


def published_rows(given: published.Published) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the paper's own table; a printed mean that is not its column's is marked."""
    order = [name for name in names() if name in given.mean]
    rows = [
        [product, f"{given.ar[product]:.2f}", *(f"{row[name][0]:.2f} / {row[name][1]:.2f}" for name in order)]
        for product, row in given.rows.items()
    ]
    cells = [
        " / ".join(
            f"{value:.2f}{'†' if (name, place) in given.apart else ''}" for place, value in enumerate(given.mean[name])
        )
        for name in order
    ]
    rows.append([MEAN, f"{given.mean_ar:.2f}", *cells])
    return ["pAP / DSC", "AR, as printed", *(title(name) for name in order)], rows


def published_title(given: published.Published) -> str:
    """Its heading."""
    return f"As published: {given.title} (Table {given.table} of the paper's supplement)"


PUBLISHED_NOTE = "Read from the supplement's text. What does not add up (†: a mean):"


def _published_table(key: str) -> list[str]:
    given = published.table(key)
    head, rows = published_rows(given)
    lines = [f"## {published_title(given)}", "", *_table(head, rows)]
    return [*lines, "", PUBLISHED_NOTE, "", *(f"- {flag}" for flag in given.flags)]


def to_csv(entries: Sequence[Entry], parts: Sequence[str | None]) -> str:
    """One line a run, part and product; fractions, full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = ["ar", "dsc_empty", *(key for key, _ in FIGURES)]
    costs = [key for key, _, _ in COSTS]
    writer.writerow(["system", "seed", "photos", "product", *keys, *costs, "commit", "machine"])
    for entry in entries:
        for part in parts:
            for product in [*products(entries, part), None]:
                values = [entry.value(part, product, key) for key in keys]
                marks = [entry.cost.get(key) for key in costs] + [entry.commit, entry.record.get("machine")]
                cells = ["" if value is None else value for value in [*values, *marks]]
                writer.writerow([entry.system, entry.seed, part or "all", product or "mean", *cells])
    return buffer.getvalue()


def latex(entries: Sequence[Entry], parts: Sequence[str | None]) -> str:
    r"""A ``tabular`` in the paper's form for each part; needs no package."""
    return "\n".join(f"% {_part_title(part)}\n{_tabular(first(entries), part)}" for part in parts)


def _tabular(one_each: Sequence[Entry], part: str | None) -> str:
    lines = [
        r"\begin{tabular}{l r " + "c " * len(one_each) + "}",
        " & ".join(["Category", r"AR(\%)", *(title(e.system) for e in one_each)]) + r" \\ \hline",
    ]
    for product in products(one_each, part):
        ar = percent(one_each[0].value(part, product, "ar"), 2)
        lines.append(" & ".join([_escaped(product), ar, *paired(one_each, part, product, tex_mark)]) + r" \\")
    mean = [MEAN, percent(one_each[0].value(part, None, "ar"), 2), *paired(one_each, part, None, tex_mark)]
    empty = percent(one_each[0].value(part, None, "dsc_empty"), 2)
    lines.append(r"\hline " + " & ".join(mean) + r" \\")
    lines.append(" & ".join([EMPTY_MASK, "", *([f"-- / {empty}"] * len(one_each))]) + r" \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, "\\" + sign)
    return text
