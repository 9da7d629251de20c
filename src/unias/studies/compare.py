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
from unias.studies.runs import Job, check_subsets, claim, identity, length, length_told, length_words, perform
from unias.systems.corruption import Textures
from unias.systems.registry import UNIAS, config_of, find, names

ALL = "all"
SMALL = "small"
MINUTES = 20.0  # of each training of ``small``, where nothing is asked


def wanted(text: str) -> list[str]:
    """ "all" or names with commas between, UniAS last. Raises UsageError for a name that is not known."""
    chosen = list(names()) if text == ALL else [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name != UNIAS:
            find(name).require()
    if not chosen:
        raise UsageError("--systems: names none. Give all, or names with commas between.")
    return [name for name in names() if name in chosen]


def preset_of(system: str, preset: str) -> str:
    """UniAS has several presets as published; every other system has "small" and "paper"."""
    return preset if system == UNIAS or preset == SMALL else "paper"


def jobs(
    systems: Sequence[str],
    seeds: Mapping[str, Sequence[int]],
    minutes: float | None,
    textures: str | None,
    preset: str = SMALL,
    epochs: int | None = None,
) -> list[Job]:
    """In order: every system's first seed, then the others."""
    rounds = max(len(seeds[name]) for name in systems)
    found = []
    for place in range(rounds):
        for name in systems:
            if place >= len(seeds[name]):
                continue
            seed = seeds[name][place]
            arguments = ["--system", name, *length_words(minutes, epochs), "--seed", str(seed)]
            if preset != SMALL:
                arguments += ["--preset", preset_of(name, preset)]
            if textures is not None and name != UNIAS and "textures" in _settings(name):
                arguments += ["--textures", textures]
            found.append(Job(f"{name}-seed{seed}", tuple(arguments)))
    return found


def compare(
    data: Path | str,
    output: Path | str,
    *,
    systems: str = ALL,
    preset: str = SMALL,
    minutes: float | None = None,
    epochs: int | None = None,
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
        preset: "small", or "paper", "visa" or "released", with which the other systems are trained as published too.
        minutes: for each training, from photos to the model on disk. epochs: instead. Neither: 20 minutes of ``small``, the
            presets' own epochs of others.
        seeds: of every system. more_seeds: {system: further ones}.
        subsets: {name: file with one path below ``data`` a line}: tables for these test photos too, first.
        textures: folder of photos for draem and destseg.
        show_published: "mvtec" or "visa": the paper's table beside ours.
        common: arguments of both ``unias train`` and ``unias evaluate``, such as --device.

    Returns what compare.json holds. Raises what the commands raise, and UsageError for a study begun otherwise.
    """
    progress = progress or Progress("silent")
    home, root = Path(output), Path(data)
    minutes, epochs = length(preset, minutes, epochs, MINUTES)
    device = common[common.index("--device") + 1] if "--device" in common else "auto"
    chosen = wanted(systems)
    if systems == ALL:
        chosen = [name for name in chosen if name == UNIAS or preset_of(name, preset) in find(name).presets()]
    for name in chosen:
        config_of(name, preset_of(name, preset))  # one that it does not have is said now
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
    request |= {key: wish for key, wish in (("preset", preset), ("epochs", epochs)) if wish not in (SMALL, None)}
    claim(home, request)
    plan = {name: [*dict.fromkeys([*seeds, *extra.get(name, ())])] for name in chosen}
    evaluate = [part for name, file in (subsets or {}).items() for part in ("--subset", f"{name}={file}")]
    work = jobs(chosen, plan, minutes, textures, preset, epochs)
    done = perform(work, root, home, [*evaluate, "--no-page"], progress, common)
    entries = [Entry.of(run) for run in done]
    document = _document(entries, request, dataset.root.name)
    parts: list[str | None] = [*(subsets or {}), None]
    length_of_all = length_told(minutes, epochs)
    text = markdown(entries, parts, length_of_all, show_published)
    write_json(home / "compare.json", document)
    write_text(home / "compare.md", text)
    write_text(home / "compare.csv", to_csv(entries, parts))
    write_text(home / "compare.tex", latex(entries, parts))
    shown = [run for run in done if run.record["seed"] == seeds[0]]
    write_page(home, dataset, shown, entries, parts, length_of_all, show_published, device, progress)
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
