"""Where dropped photos go, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unias.serve.refusals import Refusal
from unias.serve.settings import ServeSettings
from unias.studio.intake import Taken, beside_good, place_of, take
from unias.studio.workspace import Workspace


def png(level: int = 90, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "product", "kind", "place"),
    [
        ("screw/train/good/1.png", "", "", "photos/screw/train/good/1.png"),
        ("data/screw/train/good/monday/1.png", "", "", "photos/screw/train/good/monday/1.png"),
        ("screw/Test/scratch/1.png", "", "", "photos/screw/test/scratch/1.png"),
        ("screw/ground_truth/scratch/1_mask.png", "", "", "photos/screw/ground_truth/scratch/1_mask.png"),
        ("screw/test/ok/1.png", "nut", "", "photos/screw/test/good/1.png"),
        ("train/good/1.png", "nut", "", "photos/nut/train/good/1.png"),
        ("pcb/Data/Images/Normal/1.JPG", "", "", "photos/pcb/train/good/1.JPG"),
        ("pcb/Data/Images/Anomaly/1.JPG", "", "", "photos/pcb/test/anomaly/1.JPG"),
        ("pcb/Data/Masks/Anomaly/1.png", "", "", "photos/pcb/ground_truth/anomaly/1.png"),
        ("screw/good/1.png", "", "", "photos/screw/train/good/1.png"),
        ("screw/NOK/1.png", "", "", "photos/screw/test/NOK/1.png"),
        ("all/screw/1.png", "", "", "photos/screw/train/good/1.png"),
        ("IMG_2024/1.png", "screw", "", "photos/screw/train/good/1.png"),
        ("1.png", "", "", "photos/product/train/good/1.png"),
        ("1.png", "Dichtung groß", "test_good", "photos/Dichtung groß/test/good/1.png"),
        ("1.png", "screw", "bent tip", "photos/screw/test/bent tip/1.png"),
        ("line 3/1.png", "", "new", "new/line 3/1.png"),
        ("C:\\photos\\1.png", "screw", "", "photos/screw/train/good/1.png"),
        ("a<b>/1.png", "", "", "photos/a_b_/train/good/1.png"),
        ("screw/defects/1.png", "", "", "photos/screw/test/defects/1.png"),
        ("M8.hexagon-head-A/1.png", "", "", "photos/M8.hexagon-head-A/train/good/1.png"),
        ("1.png", "rev 2.0 of the housing", "", "photos/rev 2.0 of the housing/train/good/1.png"),
    ],
)
def test_places(name: str, product: str, kind: str, place: str) -> None:
    assert str(place_of(name, product, kind)) == place


def test_what_lies_beside_good_parts_is_a_defect() -> None:
    """screw/good beside screw/scratch; a folder with no good ones beside it is a product."""
    names = ["parts/screw/good/1.png", "parts/screw/scratch/1.png", "parts/nut/1.png", "x.png"]
    inside = beside_good(names)
    assert inside == {"parts/screw"}
    places = [str(place_of(name, sorted_in=inside)) for name in names[:3]]
    assert places == ["photos/screw/train/good/1.png", "photos/screw/test/scratch/1.png", "photos/nut/train/good/1.png"]
    assert beside_good(["ok/1.png", "bent/1.png"]) == {""}
    assert str(place_of("bent/1.png", "screw", sorted_in={""})) == "photos/screw/test/bent/1.png"
    mvtec = ["screw/train/good/1.png", "screw/test/good/1.png", "screw/test/scratch/1.png"]
    inside = beside_good(mvtec)
    assert str(place_of(mvtec[2], sorted_in=inside)) == "photos/screw/test/scratch/1.png"


@pytest.mark.parametrize("name", [".hidden.png", "screw/Thumbs.db", "__MACOSX/screw/1.png", "screw/.x/1.png"])
def test_what_nobody_misses_is_skipped(name: str) -> None:
    assert place_of(name) is None


@pytest.mark.parametrize(
    ("name", "product", "words"),
    [
        ("../1.png", "", "leads out"),
        ("screw/../../1.png", "", "leads out"),
        ("screw/readme.txt", "", "no photo by its name"),
        ("screw/train/scratch/1.png", "", "in train"),
        ("1.png", "test", "no name for a product"),
        ("1.png", "..", "is no name"),
    ],
)
def test_what_is_refused(name: str, product: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        place_of(name, product)


def test_photos_are_looked_at_before_they_stay(tmp_path: Path) -> None:
    workspace, found = Workspace(tmp_path), Taken()
    files = {
        "screw/1.png": png(),
        "screw/2.png": b"no photo",
        "screw/3.png": png()[:60],
        "screw/4.png": b"",
        "screw/5.png": png(side=200),
    }
    for name, data in files.items():
        take(workspace, name, data, "", "", ServeSettings(max_pixels=10_000), found)
    assert found.taken == 1
    assert [row["name"] for row in found.refused] == list(files)[1:]
    assert "10,000" in found.refused[-1]["why"]
    assert [path.name for path in (tmp_path / "photos/screw/train/good").iterdir()] == ["1.png"]


def test_one_name_for_two_photos_keeps_both_and_the_same_photo_once(tmp_path: Path) -> None:
    workspace, found = Workspace(tmp_path), Taken()
    for data in (png(90), png(91), png(90), png(91)):
        take(workspace, "screw/1.png", data, "", "", ServeSettings(), found)
    assert (found.taken, found.same) == (4, 2)
    good = tmp_path / "photos/screw/train/good"
    assert sorted(path.name for path in good.iterdir()) == ["1-2.png", "1.png"]
    assert found.ids[2] == "photos/screw/train/good/1.png"


def test_a_link_that_leads_out_takes_nothing(tmp_path: Path) -> None:
    workspace, found = Workspace(tmp_path / "studio"), Taken()
    (tmp_path / "outside").mkdir()
    (tmp_path / "studio/photos/screw").symlink_to(tmp_path / "outside")
    take(workspace, "screw/1.png", png(), "", "", ServeSettings(), found)
    assert found.taken == 0
    assert "leads out" in found.refused[0]["why"]
    assert list((tmp_path / "outside").iterdir()) == []
