"""The report: one folder with ``index.html`` and ``assets/``, that opens from a disk without a network or a script.

Written to be shown to a customer: figures in plain words first, then the table, then each product in pictures.
"""

from __future__ import annotations

import contextlib
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unias.evaluation import promises
from unias.files import claimed_folder, write_text, writing
from unias.inference import pictures
from unias.report import figures, style, tables
from unias.report.tables import percent


@dataclass(frozen=True)
class Case:
    """One photo to show.

    Attributes:
        key: what names the photo, such as its path in the data folder.
        defect: the kind of defect, or "good".
        image: uint8, H x W x 3.
        anomaly_map: float32, H x W.
        mask: bool, H x W; the truth, None where none is known.
        pred_mask: bool, H x W.
        ok: the verdict.  verdict: in words, as ``Result.verdict``.
        pred_score: the photo's score in [0, 1), 0.5 = the cut.
        level_maps: {level: float32 H x W}, 4 = coarsest; empty where not kept.
        note: why it is shown: "best", "worst", "missed", "false alarm" ...
        dice: of ``pred_mask`` with ``mask``, in [0, 1]; None without a mask.
    """

    key: str
    defect: str
    image: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    pred_mask: NDArray[np.bool_]
    ok: bool
    verdict: str
    pred_score: float
    level_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    note: str = ""
    dice: float | None = None


@dataclass(frozen=True)
class ProductReport:
    """One product.

    Attributes:
        metrics: figures of ``protocol.evaluate_class``.
        cases: photos to show, in order; gone through once, when the page is written.
        good_scores, defect_scores: raw scores of the test photos, any shape (n,).
        cut: the product's label-free cut; NaN without one.
        pr: (precision, recall) or (precision, recall, thresholds), at most about 1000 points; None without masks.
        map_range: (low, high), the ends of the colour scale of the product's overlays.
        failures: the photos that went worst, each with why in its note; gone through once, as ``cases``.
    """

    name: str
    metrics: Mapping[str, float]
    cases: Iterable[Case]
    good_scores: NDArray[Any]
    defect_scores: NDArray[Any]
    cut: float
    pr: tuple[NDArray[Any], ...] | None = None
    map_range: tuple[float, float] = (0.0, 1.0)
    failures: Iterable[Case] = ()


@dataclass(frozen=True)
class Report:
    """The whole page: products, means (``protocol.mean_metrics``), stamp (commit, config ...) and remarks; rows of
    ``evaluation.promises.promise_rows``."""

    title: str
    products: Sequence[ProductReport]
    mean: Mapping[str, Any]
    stamp: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    promises: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Pick:
    """A photo chosen for the page: its place in the arrays, and why."""

    index: int
    note: str


def select_cases(
    is_defect: NDArray[np.bool_],
    image_scores: NDArray[Any],
    failed: NDArray[np.bool_],
    dice: NDArray[Any] | None = None,
    count: int = 3,
) -> list[Pick]:
    """Choose the photos to show: worst and best defective ones, and the good ones with the highest scores.

    Args:
        is_defect, image_scores: (N,). failed: (N,), the verdicts.
        dice: (N,), Dice at the cut; None without masks, then the score alone ranks. Ties go by score.
        count: how many a group at most; no photo is in two groups.

    Returns:
        The worst defective photos first ("missed" where the cut passes them, else "worst"), then the best ("best"),
        then good ones ("false alarm" where the cut fails them, else "good, highest score").
    """
    first = np.zeros(len(is_defect)) if dice is None else np.nan_to_num(np.asarray(dice, dtype=np.float64))
    rank = np.lexsort((np.arange(len(is_defect)), image_scores, first))  # worst first
    defective = [int(i) for i in rank if is_defect[i]]
    worst = defective[: min(count, (len(defective) + 1) // 2)]
    best = defective[len(worst) :][-count:][::-1]
    good = [int(i) for i in np.argsort(-np.asarray(image_scores, dtype=np.float64), kind="stable") if not is_defect[i]]
    picks = [Pick(i, "worst" if failed[i] else "missed") for i in worst]
    picks += [Pick(i, "best" if failed[i] else "missed") for i in best]
    picks += [Pick(i, "false alarm" if failed[i] else "good, highest score") for i in good[:count]]
    return picks


def write_report(out: Path, report: Report) -> Path:
    """Write ``out/index.html`` and ``out/assets/*``; other files in ``out`` stay. Returns the page's path.

    The page is written last, and pictures of an earlier report that this one has no use for are removed after it.

    Raises:
        DataError: the folder cannot be written to, or the disk is full.
    """
    kept: set[str] = set()
    page = Path(out) / "index.html"
    with claimed_folder(Path(out) / "assets") as assets:
        before = {old.name for old in assets.iterdir()}

        def save(name: str, data: bytes) -> str:
            with writing(assets / name) as temporary:
                temporary.write_bytes(data)
            kept.add(name)
            return f"assets/{name}"

        try:
            products = [_product(place, product, save) for place, product in enumerate(report.products)]
            write_text(page, _page(report, products))
        except BaseException:  # no pictures without their page
            for name in kept - before:
                (assets / name).unlink(missing_ok=True)
            raise
    for old in assets.iterdir():
        if re.fullmatch(r"p\d+-([cf]\d+(-levels)?|l\d+|pr|scores)\.(jpg|png)", old.name) and old.name not in kept:
            with contextlib.suppress(OSError):
                old.unlink()
    return page


def _page(report: Report, products: Sequence[str]) -> str:
    classes = {product.name: product.metrics for product in report.products}
    links = "".join(f'<a href="#p{i}">{_text(product.name)}</a>' for i, product in enumerate(report.products))
    stamp = "".join(f"<div><dt>{_text(key)}</dt><dd>{_text(value)}</dd></div>" for key, value in report.stamp.items())
    notes = "".join(f"<li>{_text(note)}</li>" for note in report.notes)
    photos = sum(len(product.good_scores) + len(product.defect_scores) for product in report.products)
    products_word = "product" if len(report.products) == 1 else "products"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(report.title)}</title><style>{style.CSS}</style></head><body>
<header><div class="wrap"><h1>{_text(report.title)}</h1>
<p>{len(report.products)} {products_word}, {photos} test photos that the model never saw in training.</p>
<nav>{links}</nav></div></header>
<main class="wrap">
<section class="cards">{_headlines(report.mean)}</section>
{f'<section class="notes"><ul>{notes}</ul></section>' if notes else ""}
<section><h2>All figures</h2>
<p class="lead">In per cent, but for the counts. Point at a heading to read what it means.</p>
<div class="scroll">{tables.to_html(classes, report.mean)}</div>{style.ABOUT_TABLE}</section>
{_promises(report.promises)}
<section><h2>How to read this page</h2>{style.HOW_TO_READ}</section>
{"".join(products)}
</main>
<footer><div class="wrap"><dl>{stamp}</dl></div></footer>
</body></html>
"""


def _promises(rows: Sequence[Sequence[str]]) -> str:
    """What cuts promised and what they did, as a table; nothing where nothing is known."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading in promises.HEADINGS)
    body = "".join(
        f'<tr{" class=mean" if row[0] == promises.MIXED else ""}><th scope="row">{_text(row[0])}</th>'
        f"{''.join(f'<td>{_text(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    table = f'<table class="metrics"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return (
        f'<section><h2>False alarms and misses</h2><p class="lead">{_text(promises.MEANING)}</p>'
        f'<div class="scroll">{table}</div></section>'
    )


def _headlines(mean: Mapping[str, Any]) -> str:
    cards = [
        ("image_auroc", "Good or defective?", "image AUROC: how well photos are told apart; 50 is a coin's toss"),
        ("miss_rate", "Defects missed", "defective photos that pass at the model's own cut"),
        ("false_alarm_rate", "False alarms", "good photos that fail at the model's own cut"),
        ("pap", "Where is it?", "pAP: how well anomalous pixels are ranked above the rest"),
        ("dsc_cut", "Marked area", "DSC with the model's own cut: overlap of marked and true area, a photo"),
    ]
    parts = []
    for key, title, meaning in cards:
        value = mean.get(key)
        sign = "" if value is None or math.isnan(value) else "<small>%</small>"
        more = ""
        if key == "dsc_cut" and sign:
            more = f"; an empty mask scores {percent(mean.get('dsc_empty'))}"
        shown = f'<p class="figure">{percent(value)}{sign}</p>'
        parts.append(f'<div class="card"><h3>{title}</h3>{shown}<p>{meaning}{more}</p></div>')
    return "".join(parts)


def _product(place: int, product: ProductReport, save: Any) -> str:
    value = product.metrics
    facts = [
        ("image AUROC", percent(value.get("image_auroc"))),
        ("pAP", percent(value.get("pap"))),
        ("DSC, oracle", percent(value.get("dsc"))),
        ("DSC, label-free", percent(value.get("dsc_cut"))),
        ("DSC, empty mask", percent(value.get("dsc_empty"))),
        ("missed", percent(value.get("miss_rate"))),
        ("false alarms", percent(value.get("false_alarm_rate"))),
    ]
    facts_html = "".join(f"<div><dt>{name}</dt><dd>{shown}</dd></div>" for name, shown in facts)
    charts = ""
    if len(product.good_scores) + len(product.defect_scores):
        source = save(
            f"p{place}-scores.png", figures.histogram(product.good_scores, product.defect_scores, product.cut)
        )
        charts += _figure(
            source, "Scores of good and defective photos", "Scores of the photos. Right of the cut: failed."
        )
    if product.pr is not None and len(product.pr[0]):
        precision, recall, *rest = product.pr
        source = save(f"p{place}-pr.png", figures.pr_curve(precision, recall, rest[0] if rest else None, product.cut))
        charts += _figure(source, "Precision-recall curve of pixels", "Pixels: what is marked against what is found.")
    cases = "".join(
        _case(f"p{place}-c{number}", case, product, save, number < 2) for number, case in enumerate(product.cases)
    )
    failed = [_case(f"p{place}-f{number}", case, product, save, False) for number, case in enumerate(product.failures)]
    worst = ""
    if failed:
        count = "the photo that went wrong" if len(failed) == 1 else f"the {len(failed)} photos that went worst"
        worst = (
            f"<details><summary>Failure cases: {count}, and why</summary>"
            f'<div class="cases">{"".join(failed)}</div></details>'
        )
    return f"""<section class="product" id="p{place}"><h2>{_text(product.name)}</h2><dl class="facts">{facts_html}</dl>
<div class="charts">{charts}</div>{f'<div class="cases">{cases}</div>' if cases else ""}{worst}</section>
"""


def _case(name: str, case: Case, product: ProductReport, save: Any, open_levels: bool) -> str:
    picture = pictures.case_strip(case.image, case.anomaly_map, case.mask, case.pred_mask, product.map_range)
    source = save(f"{name}.jpg", pictures.jpeg(picture))
    truth = "no truth at hand" if case.mask is None else "truth"
    names = "".join(f"<span>{name}</span>" for name in ("photo", truth, "map", "marked"))
    good = case.defect == "good"
    kind = "right" if case.ok == good else "wrong"
    words = {"ok": "passed", "defect": "failed"}.get(case.verdict, f"failed ({case.verdict})")
    verdict = f"{words}, score {case.pred_score:.2f}"
    dice = "" if case.dice is None or math.isnan(case.dice) else f" · Dice {percent(case.dice, 0)} %"
    levels = ""
    if case.level_maps:
        order = sorted(case.level_maps, reverse=True)
        shown = save(
            f"{name}-levels.jpg",
            pictures.jpeg(pictures.level_strip(case.level_maps, case.anomaly_map, product.map_range)),
        )
        under = "".join(f"<span>{name}</span>" for name in [*(f"level {level}" for level in order), "final"])
        levels = (
            f"<details{' open' if open_levels else ''}><summary>maps of each level</summary>"
            f'<img src="{shown}" alt="maps of each level" loading="lazy">'
            f'<div class="names n{len(order) + 1}">{under}</div></details>'
        )
    note = f'<span class="note {kind}">{_text(case.note)}</span>' if case.note else ""
    return f"""<article class="case"><p class="what">{note}<strong>{_text(case.defect)}</strong>
<span class="key">{_text(case.key)}</span><span class="verdict">{verdict}{dice}</span></p>
<img src="{source}" alt="photo, truth, map and marked area of {_text(case.key)}" loading="lazy">
<div class="names n4">{names}</div>{levels}</article>
"""


def _figure(source: str, alt: str, caption: str) -> str:
    return f'<figure><img src="{source}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
