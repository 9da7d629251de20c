"""The comparison as a page: the tables, and one row of pictures a product with every system's map."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unias.data.layouts import Dataset, Sample
from unias.data.masks import load_mask, resize_mask
from unias.files import ensure_folder, write_text, writing
from unias.inference import pictures
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.progress import Progress
from unias.report import style
from unias.report.tables import EMPTY_MASK, MEAN, percent
from unias.studies import published
from unias.studies.compare_tables import (
    AUROCS,
    FIGURES,
    LESS_IS_BETTER,
    PROTOCOL,
    PUBLISHED_NOTE,
    Entry,
    aurocs,
    costs,
    first,
    machine_told,
    paired,
    products,
    published_rows,
    published_title,
    set_row,
)
from unias.studies.runs import Done
from unias.systems.registry import UNIAS, title

SIDE = 200
CSS = """
.row{display:grid;gap:6px;grid-auto-flow:column;grid-auto-columns:minmax(0,1fr);margin-top:8px}
.row div{font-size:12px;color:var(--soft);text-align:center}
.row img{width:100%}
.metrics td b{color:var(--blue)}
"""


NO_MODELS = "<p class=small>The models are gone from the study's folder, so there are no maps to show.</p>"


class Shown(NamedTuple):
    """One product: the photo chosen, with its mask and what each system makes of it."""

    sample: Sample
    mask: NDArray[np.bool_] | None
    results: dict[str, Result]


def chosen_photo(dataset: Dataset, product: str) -> tuple[Sample, NDArray[np.bool_] | None] | None:
    """The defective test photo whose defect is of middle size: chosen by the truth alone, whatever the systems say of it."""
    samples = [sample for sample in dataset.test(product) if not sample.is_good]
    if not samples:
        return None
    masks = [None if sample.mask is None else load_mask(sample.mask) for sample in samples]
    areas = [0.0 if mask is None else float(mask.mean()) for mask in masks]
    place = sorted(range(len(samples)), key=lambda i: (areas[i], samples[i].key))[len(samples) // 2]
    return samples[place], masks[place]


def write_page(
    home: Path,
    dataset: Dataset,
    runs: Sequence[Done],
    entries: Sequence[Entry],
    parts: Sequence[str | None],
    length: str,
    show: str | None,
    device: str,
    progress: Progress,
) -> None:
    """index.html and assets/ in ``home``; every model that is still there is loaded once."""
    photos = {name: found for name in dataset.products if (found := chosen_photo(dataset, name)) is not None}
    shown = {name: Shown(sample, mask, {}) for name, (sample, mask) in photos.items()}
    with progress.stage("pictures", len(runs)) as advance:
        for run in runs:
            if not (run.model / "manifest.json").is_file():
                progress.say(f"{run.name}: its model is gone from {run.model}; its maps are left out of the page")
                advance()
                continue
            model = Model.load(run.model, device)
            for name in shown:
                result = model.predict(shown[name].sample.path, image=True)
                shown[name].results[run.record.get("system", UNIAS)] = result
            advance()
    one_each = first(entries)
    ensure_folder(home / "assets")
    shown_rows = "".join(
        _row(home, place, name, one, one_each) for place, (name, one) in enumerate(shown.items()) if one.results
    )
    tables = "".join(_part(one_each, part) for part in parts)
    notes = "".join(f"<li>{html.escape(title(e.system))}: {html.escape(e.made_of)}</li>" for e in one_each)
    body = (
        f"<section><h2>{html.escape(dataset.root.name)}</h2><p class=lead>Asked of each system: {html.escape(length)}; "
        f"seed {one_each[0].seed}. What it took stands below.</p><p class=small>{_emphasised(PROTOCOL)}</p></section>{tables}"
        f"<section><h2>What they cost</h2>{_costs(one_each)}<ul class=small>{notes}</ul></section>{_published(show)}"
        f"<section><h2>One defect a product, every system</h2><p class=lead>The defect of middle size by the truth. Each map "
        f"is scaled to its own cut: red is twice the cut.</p>{shown_rows or NO_MODELS}</section>"
    )
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>The systems side by side</title><style>{style.CSS}{CSS}</style><header><div class=wrap>"
        f"<h1>The systems side by side</h1><p>Systems: {len(one_each)}. Products: {len(dataset.products)}, all in one model of "
        "each system</p>"
        f"</div></header><main class=wrap>{body}</main></html>"
    )
    write_text(home / "index.html", page)


def _emphasised(text: str) -> str:
    """Markdown's one kind of emphasis that the notes use, as HTML."""
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", html.escape(text))


def _row(home: Path, place: int, name: str, one: Shown, entries: Sequence[Entry]) -> str:
    any_result = next(iter(one.results.values()))
    assert any_result.image is not None
    panels = [("photo", pictures.fit(any_result.image, SIDE))]
    if one.mask is not None:
        truth = resize_mask(one.mask, any_result.model_map.shape)
        panels.append(("truth", pictures.fit(pictures.fill(any_result.image, truth), SIDE)))
    for entry in entries:
        if entry.system not in one.results:
            continue
        result = one.results[entry.system]
        assert result.image is not None
        map_ = pictures.overlay(result.image, result.model_map, 2 * result.cut)
        panels.append((title(entry.system) + (": passed" if result.ok else ""), pictures.fit(map_, SIDE)))
    cells = []
    for number, (what, picture) in enumerate(panels):
        source = f"assets/p{place}-{number}.jpg"
        with writing(home / source) as temporary:
            temporary.write_bytes(pictures.jpeg(picture))
        label = html.escape(what)
        cells.append(f"<div><img src='{source}' alt='{html.escape(name)}: {label}'>{label}</div>")
    return f"<h3>{html.escape(name)}</h3><p class=small>{html.escape(one.sample.key)}</p><div class=row>{''.join(cells)}</div>"


def _mark(text: str, rank: int) -> str:
    return f"<b>{text}</b>" if rank == 0 else f"<u>{text}</u>"


def _html_table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    top = "".join(f"<th scope=col>{html.escape(text)}</th>" for text in head)
    body = "".join(
        f"<tr{' class=mean' if name == MEAN else ' class=empty' if name == EMPTY_MASK else ''}>"
        f"<th scope=row>{html.escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<div class=scroll><table class=metrics><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _part(entries: Sequence[Entry], part: str | None) -> str:
    heads = [title(entry.system) for entry in entries]
    rows = []
    for product in [*products(entries, part), None]:
        ar = percent(entries[0].value(part, product, "ar"), 2)
        rows.append((product or MEAN, [ar, *paired(entries, part, product, _mark)]))
    empty = percent(entries[0].value(part, None, "dsc_empty"), 2)
    rows.append((EMPTY_MASK, ["", *([f"– / {empty}"] * len(entries))]))
    more = [
        (heading, set_row([e.value(part, None, key) for e in entries], _mark, key in LESS_IS_BETTER))
        for key, heading in FIGURES
    ]
    areas = [(name, aurocs(entries, part, name, _mark)) for name in products(entries, part)]
    where = "All test photos" if part is None else f"Test photos of {html.escape(part)}"
    return (
        f"<section><h2>{where}</h2>{_html_table(['pAP / DSC (oracle)', 'AR', *heads], rows)}"
        f"<p class=small>Means over the products:</p>{_html_table(['mean', *heads], more)}"
        f"<p class=small>Product by product:</p>{_html_table([AUROCS, *heads], areas)}</section>"
    )


def _costs(entries: Sequence[Entry]) -> str:
    rows = [(heading, cells) for heading, *cells in costs(entries)]
    rows += [("machine", [html.escape(machine_told(entry)) for entry in entries])]
    rows += [("commit", [html.escape(entry.commit) for entry in entries])]
    return _html_table(["", *(title(e.system) for e in entries)], rows)


def _published(key: str | None) -> str:
    if key is None:
        return ""
    given = published.table(key)
    head, rows = published_rows(given)
    flags = "".join(f"<li>{html.escape(flag)}</li>" for flag in given.flags)
    table = _html_table(head, [(name, cells) for name, *cells in rows])
    return (
        f"<section><h2>{html.escape(published_title(given))}</h2>{table}<p class=small>{PUBLISHED_NOTE}</p>"
        f"<ul class=small>{flags}</ul></section>"
    )
