"""The page: whole, without outside links, escaped, and the choice of what it shows."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unias.errors import DataError
from unias.evaluation.metrics import PixelRanking, dice_per_sample
from unias.evaluation.protocol import evaluate_class, mean_metrics
from unias.report.page import Case, Pick, ProductReport, Report, select_cases, write_report

NASTY = '<img src=x onerror="alert(1)"> & \'ñ 電池'


class Links(HTMLParser):
    """Collects what the page refers to and which elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def product(name: str, with_masks: bool = True) -> ProductReport:
    rng = np.random.default_rng(1)
    masks = np.zeros((6, 32, 32), dtype=bool)
    masks[:3, 8:16, 8:20] = True
    maps = (rng.random(masks.shape) * 0.2 + masks * 0.7).astype(np.float32)
    is_defect, scores, cut = np.arange(6) < 3, maps.max(axis=(1, 2)).astype(float), 0.5
    pred = maps > cut
    dice = dice_per_sample(masks, pred) if with_masks else None
    cases = [
        Case(
            key=f"{name}/{pick.index}.png",
            defect=NASTY if is_defect[pick.index] else "good",
            image=np.full((32, 32, 3), 90, dtype=np.uint8),
            anomaly_map=maps[pick.index],
            mask=masks[pick.index] if with_masks else None,
            pred_mask=pred[pick.index],
            ok=bool(scores[pick.index] <= cut),
            verdict="defect" if scores[pick.index] > cut else "ok",
            pred_score=0.7,
            level_maps={4: maps[pick.index], 1: maps[pick.index]},
            note=pick.note,
            dice=None if dice is None else float(dice[pick.index]),
        )
        for pick in select_cases(is_defect, scores, scores > cut, dice, count=1)
    ]
    metrics = evaluate_class(maps, masks if with_masks else None, is_defect, scores, cut)
    curve = PixelRanking(masks, maps).curve() if with_masks else None
    return ProductReport(name, metrics, cases, scores[~is_defect], scores[is_defect], cut, curve, (0.0, 0.8))


def report(*products: ProductReport) -> Report:
    mean = mean_metrics({item.name: item.metrics for item in products})
    rows = [[NASTY, "20", "1 of 30", "3.3% (0.1% to 17.2%)", "4.8%", "0 to 6", "2 of 9", "77.8%, 77.8%"]]
    return Report(NASTY, products, mean, {"commit": "abc1234", "note": NASTY}, [NASTY], rows)


def test_the_page_is_whole_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = write_report(tmp_path / "out", report(product(NASTY), product("cell", with_masks=False)))
    assert page == tmp_path / "out" / "index.html"
    text = page.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(text)
    assert not parser.open
    assert "script" not in parser.tags
    assert "http" not in text
    assert "url(" not in text
    pictures = [link for link in parser.links if not link.startswith("#")]
    assert len(pictures) == 2 * (2 * 3 + 1) + 1  # a strip and levels a case, histograms, one PR curve
    assert all(re.fullmatch(r"assets/[a-z0-9-]+\.(png|jpg)", link) for link in pictures)
    assert {f"assets/{path.name}" for path in (tmp_path / "out" / "assets").iterdir()} == set(pictures)
    anchors = {link[1:] for link in parser.links if link.startswith("#")}
    assert anchors == set(re.findall(r'<section class="product" id="([^"]+)"', text)) == {"p0", "p1"}


def test_every_name_is_escaped(tmp_path: Path) -> None:
    text = write_report(tmp_path, report(product(NASTY))).read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt; &amp; &#x27;ñ 電池" in text
    assert "abc1234" in text
    assert "empty mask" in text
    assert "nan" not in re.sub(r"<style>.*</style>", "", text).lower().split()


def test_a_second_report_leaves_no_picture_of_the_first(tmp_path: Path) -> None:
    write_report(tmp_path, report(product("a"), product("b")))
    own = tmp_path / "assets" / "logo.png"
    own.write_bytes(b"kept")
    (tmp_path / "metrics.json").write_text("{}")
    write_report(tmp_path, report(product("a")))
    left = {path.name for path in (tmp_path / "assets").iterdir()}
    assert own.name in left
    assert not [name for name in left if name.startswith("p1")]
    assert (tmp_path / "metrics.json").exists()


def test_bare_report(tmp_path: Path) -> None:
    nothing = np.zeros(0)
    bare = ProductReport("empty", {}, [], nothing, nothing, math.nan)
    write_report(tmp_path, Report("Nothing yet", [bare], mean_metrics({"empty": {}})))
    write_report(tmp_path, Report("Nothing at all", [], mean_metrics({})))
    first = product("one")
    write_report(tmp_path, report(replace(first, cases=[replace(first.cases[0], level_maps={}, dice=math.nan)])))


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="out"):
        write_report(tmp_path / "out", report(product("a")))


def test_select_cases_by_dice() -> None:
    is_defect = np.array([True, True, True, True, False, False, False])
    scores = np.array([0.9, 0.2, 0.8, 0.7, 0.6, 0.1, 0.3])
    dice = np.array([0.5, 0.0, 0.9, 0.0, 0.0, 1.0, 1.0])
    assert select_cases(is_defect, scores, scores > 0.5, dice, count=2) == [
        Pick(1, "missed"),
        Pick(3, "worst"),
        Pick(2, "best"),
        Pick(0, "best"),
        Pick(4, "false alarm"),
        Pick(6, "good, highest score"),
    ]


def test_select_cases_by_score_and_with_few_photos() -> None:
    failed = np.array([True, False, False])
    picks = select_cases(np.array([True, False, True]), np.array([0.9, 0.1, 0.4]), failed)
    assert picks == [Pick(2, "missed"), Pick(0, "best"), Pick(1, "good, highest score")]
    assert select_cases(np.zeros(0, dtype=bool), np.zeros(0), np.zeros(0, dtype=bool)) == []
    assert select_cases(np.array([True]), np.array([0.1]), np.array([True])) == [Pick(0, "worst")]
