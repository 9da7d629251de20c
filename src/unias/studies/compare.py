"""``unias compare``: the systems side by side on one folder, under the same minutes, seed, data and protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unias.data.layouts import require_test, require_training, scan
from unias.errors import UsageError
from unias.files import write_json, write_text
from unias.progress import Progress
from unias.studies import published
from unias.studies.compare_page import write_page
from unias.studies.compare_tables import Entry, latex, markdown, to_csv
from unias.studies.runs import Job, check_subsets, claim, identity, perform
from unias.systems.corruption import Textures
from unias.systems.registry import UNIAS, find, names

ALL = "all"


def wanted(text: str) -> list[str]:
    """ "all" or names with commas between, UniAS last. Raises UsageError for a name that is not known."""
    chosen = list(names()) if text == ALL else [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name != UNIAS:
            find(name).require()
    if not chosen:
        raise UsageError("--systems: names none. Give all, or names with commas between.")
    return [name for name in names() if name in chosen]


def jobs(systems: Sequence[str], seeds: Mapping[str, Sequence[int]], minutes: float, textures: str | None) -> list[Job]:
    """In order: every system's first seed, then the others."""
    rounds = max(len(seeds[name]) for name in systems)
    found = []
    for place in range(rounds):
        for name in systems:
            if place >= len(seeds[name]):
                continue
            seed = seeds[name][place]
            arguments = ["--system", name, "--minutes", f"{minutes:g}", "--seed", str(seed)]
            if textures is not None and name != UNIAS and "textures" in _settings(name):
                arguments += ["--textures", textures]
            found.append(Job(f"{name}-seed{seed}", tuple(arguments)))
    return found


def compare(
    data: Path | str,
    output: Path | str,
    *,
    systems: str = ALL,
    minutes: float = 20.0,
    seeds: Sequence[int] = (0,),
    more_seeds: Mapping[str, Sequence[int]] | None = None,
    subsets: Mapping[str, Path] | None = None,
    textures: str | None = None,
    show_published: str | None = None,
    common: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and evaluate what is not done yet, then write compare.json, compare.md, compare.csv, compare.tex and
    index.html.

    Args:
        systems: "all", or names with commas between.
        minutes: for each training, from photos to the model on disk.
        seeds: of every system. more_seeds: {system: further ones}.
        subsets: {name: file with one path below ``data`` a line}: tables for these test photos too, first.
        textures: folder of photos for draem and destseg.
        show_published: "mvtec" or "visa": the paper's table beside ours.
        common: arguments of both ``unias train`` and ``unias evaluate``, such as --device.

    Returns what compare.json holds. Raises what the commands raise, and UsageError for a study begun otherwise.
    """
    progress = progress or Progress("silent")
    home, root = Path(output), Path(data)
    device = common[common.index("--device") + 1] if "--device" in common else "auto"
    chosen = wanted(systems)
    extra = more_seeds or {}
    unknown = [name for name in extra if name not in chosen]
    if unknown:
        raise UsageError(f"--more-seeds: {unknown[0]!r} is not among the systems compared.")
    dataset = scan(root)
    require_training(dataset)
    require_test(dataset)
    check_subsets(dataset, subsets or {})
    if textures is not None:
        Textures(textures, 64, 0)  # a folder without photos is said now, not after hours
    request = {"minutes": minutes, "textures": textures, **identity(dataset, subsets or {}, common)}
    claim(home, request)
    plan = {name: [*dict.fromkeys([*seeds, *extra.get(name, ())])] for name in chosen}
    evaluate = [part for name, file in (subsets or {}).items() for part in ("--subset", f"{name}={file}")]
    done = perform(jobs(chosen, plan, minutes, textures), root, home, [*evaluate, "--no-page"], progress, common)
    entries = [Entry.of(run) for run in done]
    document = _document(entries, request, dataset.root.name)
    parts: list[str | None] = [*(subsets or {}), None]
    text = markdown(entries, parts, minutes, show_published)
    write_json(home / "compare.json", document)
    write_text(home / "compare.md", text)
    write_text(home / "compare.csv", to_csv(entries, parts))
    write_text(home / "compare.tex", latex(entries, parts[0]))
    shown = [run for run in done if run.record["seed"] == seeds[0]]
    write_page(home, dataset, shown, entries, parts, minutes, device, progress)
    return document


def _document(entries: Sequence[Entry], request: Mapping[str, Any], data: str) -> dict[str, Any]:
    return {
        "data": data,
        "request": dict(request),
        "runs": [entry.to_dict() for entry in entries],
        "published": published.document()["source"],
    }


def _settings(name: str) -> set[str]:
    return set(getattr(find(name).Settings, "__dataclass_fields__", {}))
