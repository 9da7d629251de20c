"""Promises across recording sessions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from scipy.stats import betabinom

from unias.calibration.cuts import rank_cut
from unias.data.layouts import scan
from unias.errors import UsageError
from unias.inference.products import ProductInfo
from unias.inference.sessions import _named_date, describe, sessions


def model(scores: dict[str, float]) -> Any:
    cut = rank_cut(list(scores.values()), 0.05)
    info = ProductInfo("part", cut, (), tuple(scores), tuple(scores.values()))
    return SimpleNamespace(products=(info,))


def test_each_session_is_judged_by_the_others() -> None:
    """Monday and Tuesday alike; on Wednesday the lamp was changed."""
    scores = {
        f"part/train/good/{day}/{n}.png": n / 40 + late for day, late in (("mo", 0), ("tu", 0)) for n in range(40)
    }
    scores |= {f"part/train/good/we/{n}.png": 2 + n / 40 for n in range(40)}
    found = {one.session: one for one in sessions(model(scores))}
    assert (found["we"].failed, found["we"].photos) == (40, 40)
    assert found["we"].promised == 4 / 81
    assert found["mo"].failed == 0
    assert found["we"].chance < 1e-20
    assert found["mo"].chance == 1
    lines = describe(list(found.values()))
    assert sum("does not hold" in line for line in lines) == 1


def test_a_rate_that_is_not_known_exactly_surprises_less() -> None:
    """With 20 others the rate behind their highest score is anywhere from 0 to 14%: 8 of 60 are no proof of anything. Photos in
    train/good itself are a session too."""
    scores = {f"part/train/good/{n}.png": n / 100 for n in range(20)}
    scores |= {f"part/train/good/tu/{n}.png": 0.1 + (n < 8) for n in range(60)}
    found = {one.session: one for one in sessions(model(scores))}
    assert set(found) == {"good", "tu"}
    assert (found["tu"].failed, found["tu"].promised) == (8, 1 / 21)
    assert found["tu"].chance == pytest.approx(float(betabinom(60, 1, 20).sf(7)), rel=1e-9)
    assert found["tu"].chance > 0.05
    assert not any("does not hold" in line for line in describe([found["tu"]]))


def test_sessions_by_dates_in_names_and_exif(tmp_path: Path) -> None:
    named = {f"part/train/good/cam1_2026-11-0{day}_{n}.png": float(n) for day in (1, 2) for n in range(3)}
    assert [one.session for one in sessions(model(named))] == ["2026-11-01", "2026-11-02"]
    taken = {}
    (tmp_path / "part").mkdir()
    for day in (3, 4):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2026:11:0{day} 10:00:00"
        key = f"part/{day}.jpg"
        Image.new("RGB", (40, 40)).save(tmp_path / key, exif=exif)
        taken[key] = float(day)
    assert [one.session for one in sessions(model(taken), tmp_path)] == ["2026-11-03", "2026-11-04"]
    with pytest.raises(UsageError, match="two sessions"):
        sessions(model(taken))


def test_folders_below_good_are_sessions_and_trained_on(tmp_path: Path) -> None:
    for name in ("a.png", "monday/a.png", "tuesday/b.png"):
        file = tmp_path / "nut" / "train" / "good" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40)).save(file)
    dataset = scan(tmp_path)
    assert [sample.key for sample in dataset.train()] == [
        "nut/train/good/a.png",
        "nut/train/good/monday/a.png",
        "nut/train/good/tuesday/b.png",
    ]


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("20240305.png", "2024-03-05"),
        ("20240305101112.png", "2024-03-05"),
        ("IMG_202403051011.png", "2024-03-05"),
        ("20240305101112123.png", "2024-03-05"),
        ("part 2024-03-05 b.png", "2024-03-05"),
        ("202403059999.png", ""),  # no time of day: a number that only begins like a date
        ("120240305.png", ""),
        ("20241305.png", ""),
    ],
)
def test_dates_in_names(name: str, date: str) -> None:
    assert _named_date(f"bolt/train/good/{name}") == date
