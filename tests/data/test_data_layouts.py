"""Each layout that is understood, and each folder that is refused, built on the spot."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unias.data.layouts import Dataset, require_test, require_training, scan
from unias.data.masks import load_mask
from unias.errors import DataError


def photo(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16), value, np.uint8)).save(path, path.suffix[1:].upper().replace("JPG", "JPEG"))
    return path


def mvtec(root: Path, product: str = "bolt", masks: bool = True) -> Path:
    """A product of 3 training photos, 2 good and 2 + 1 defective test photos."""
    for number in range(3):
        photo(root / product / "train" / "good" / f"{number:03}.png")
    for number in range(2):
        photo(root / product / "test" / "good" / f"{number:03}.png")
        photo(root / product / "test" / "scratch" / f"{number:03}.png")
    photo(root / product / "test" / "dent" / "007.png")
    if masks:
        for name in ("scratch/000", "scratch/001", "dent/007"):
            photo(root / product / "ground_truth" / f"{name}_mask.png", 255)
    return root


def keys(dataset: Dataset) -> list[str]:
    return [sample.key for sample in dataset.samples]


def test_a_folder_of_masks_is_one_mask(tmp_path: Path) -> None:
    """MVTec LOCO: ground_truth/<defect>/<photo>/000.png, 001.png, ..."""
    root = mvtec(tmp_path / "data", masks=False)
    for number, column in enumerate((2, 9)):
        mask = np.zeros((12, 16), np.uint8)
        mask[3:5, column] = 255
        path = root / "bolt/ground_truth/scratch/000" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    (root / "bolt/ground_truth/scratch/001").mkdir()  # nothing in it: no mask
    dataset = scan(root)
    found = {sample.path.stem: sample.mask for sample in dataset.test("bolt") if sample.defect == "scratch"}
    assert found["001"] is None
    assert found["000"] is not None
    joined = load_mask(found["000"], (12, 16))
    assert sorted(zip(*np.nonzero(joined), strict=True)) == [(3, 2), (3, 9), (4, 2), (4, 9)]
    photo(root / "bolt/ground_truth/scratch/000_mask.png", 255)
    assert {s.mask.name for s in scan(root).test("bolt") if s.mask} == {"000_mask.png"}  # a file of its own wins
    photo(found["000"] / "002.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"002\.png"):
        load_mask(found["000"])
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(found["000"] / "002.png")
    with pytest.raises(DataError, match="another size"):
        load_mask(found["000"])


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "data")
    name = os.fsencode(root / "bolt/train/good") + b"/gr\xf6\xdfe.png"
    (root / "bolt/train/good/000.png").rename(os.fsdecode(name))
    with pytest.raises(DataError, match=r"gr.*e\.png: its name is not UTF-8.*Rename it"):
        scan(root)


# ---- understood


def test_mvtec(tmp_path: Path) -> None:
    mvtec(tmp_path, "nut")
    data = scan(mvtec(tmp_path))
    assert data.layout == "mvtec"
    assert data.products == ("bolt", "nut")
    assert data.warnings == ()
    assert [s.key for s in data.train("bolt")] == [f"bolt/train/good/{n:03}.png" for n in range(3)]
    assert [(s.defect, s.mask and s.mask.name) for s in data.test("bolt")] == [
        ("dent", "007_mask.png"),
        ("good", None),
        ("good", None),
        ("scratch", "000_mask.png"),
        ("scratch", "001_mask.png"),
    ]
    assert all(s.path == tmp_path / s.key and s.is_good == (s.defect == "good") for s in data.samples)
    assert len(data.train()) == 6
    assert len(data.test()) == 10
    assert data.has_masks("bolt")
    require_training(data)
    require_test(data)


def test_the_root_may_be_one_product(tmp_path: Path) -> None:
    data = scan(str(mvtec(tmp_path) / "bolt"))
    assert data.products == ("bolt",)
    assert keys(data)[0] == "test/dent/007.png"
    assert data.has_masks("bolt")


def test_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mvtec(tmp_path) / "bolt")
    data = scan(".")
    monkeypatch.chdir("/")
    assert data.products == ("bolt",)
    assert all(s.path.is_file() for s in data.samples)


def test_masks_under_the_photos_own_name_and_any_suffix(tmp_path: Path) -> None:
    """VisA re-laid as MVTec: photos .JPG, masks .png, one kind named bad; here a mask in .bmp too."""
    photo(tmp_path / "candle/train/good/0001.JPG")
    photo(tmp_path / "candle/test/bad/000.JPG")
    photo(tmp_path / "candle/test/bad/001.JPG")
    photo(tmp_path / "candle/ground_truth/bad/000.png", 1)
    photo(tmp_path / "candle/ground_truth/bad/001_mask.bmp", 1)
    data = scan(tmp_path)
    assert [s.mask and s.mask.name for s in data.test()] == ["000.png", "001_mask.bmp"]
    assert data.warnings == ()


def test_without_masks_a_product_is_image_level_only(tmp_path: Path) -> None:
    data = scan(mvtec(tmp_path, masks=False))
    assert not data.has_masks("bolt")
    require_test(data)


def test_a_test_folder_alone(tmp_path: Path) -> None:
    photo(tmp_path / "bolt/test/good/1.png")
    photo(tmp_path / "bolt/test/bent/1.png")
    data = scan(tmp_path)
    require_test(data)
    with pytest.raises(DataError, match="no good training photos of bolt"):
        require_training(data)


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0.JPG,
candle,test,normal,candle/Data/Images/Normal/1.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
"""


def visa(root: Path, table: str | None = VISA) -> Path:
    photo(root / "candle/Data/Images/Normal/0.JPG")
    photo(root / "candle/Data/Images/Normal/1.JPG")
    photo(root / "candle/Data/Images/Anomaly/000.JPG")
    photo(root / "candle/Data/Masks/Anomaly/000.png", 1)
    if table is not None:
        (root / "split_csv").mkdir()
        (root / "split_csv/1cls.csv").write_text(table, encoding="utf-8")
    return root


@pytest.mark.parametrize("table", [VISA, "\ufeff" + VISA, VISA.replace("\n", "\r\n"), VISA.replace("Data/", "Data\\")])
def test_visa(tmp_path: Path, table: str) -> None:
    data = scan(visa(tmp_path, table))
    assert data.layout == "visa"
    assert [(s.split, s.defect) for s in data.samples] == [("test", "anomaly"), ("train", "good"), ("test", "good")]
    assert data.samples[0].mask == tmp_path / "candle/Data/Masks/Anomaly/000.png"
    assert data.samples[1].key == "candle/Data/Images/Normal/0.JPG"
    assert data.warnings == ()


def test_visa_without_its_table_says_so(tmp_path: Path) -> None:
    data = scan(visa(tmp_path, None))
    assert len(data.train("candle")) == 2
    assert data.has_masks("candle")
    assert "without split_csv/1cls.csv" in data.warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("Normal/0.JPG", "Normal/7.JPG", r"Normal/7\.JPG: named by .*line 2"),
        ("Normal/0.JPG", "../../../../etc/0.JPG", "line 2: .* does not lie below"),
        ("candle/Data/Images/Normal/0.JPG", "/etc/0.JPG", "line 2: .* does not lie below"),
        ("Normal/0.JPG", "Normal/1.JPG", "line 3: .* stands on line 2 too"),
        ("test,anomaly", "train,anomaly", "line 4: .* is an anomaly in training"),
        ("test,anomaly", "test,weird", "line 4: .*label 'weird'"),
        ("label", "lable", "no column label"),
    ],
)
def test_visa_tables_that_are_refused(tmp_path: Path, old: str, new: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        scan(visa(tmp_path, VISA.replace(old, new)))


def test_visa_warnings(tmp_path: Path) -> None:
    visa(tmp_path, VISA + "pcb1,train,normal,pcb1/Data/Images/Normal/0.JPG,\n")
    photo(tmp_path / "candle/Data/Images/Normal/9.JPG")
    (tmp_path / "candle/Data/Masks/Anomaly/000.png").unlink()
    text = "\n".join(scan(tmp_path).warnings)
    assert "pcb1: no such folder, yet 1cls.csv lists 1 photos of it" in text
    assert "9.JPG: 1 photo not in 1cls.csv" in text
    assert "000.png: named by" in text


def test_plain_products(tmp_path: Path) -> None:
    photo(tmp_path / "large nut/b.PNG")
    photo(tmp_path / "large nut/a.jpeg")
    photo(tmp_path / "Größe ö/c.tiff")
    data = scan(tmp_path)
    assert data.layout == "plain"
    assert keys(data) == ["Größe ö/c.tiff", "large nut/a.jpeg", "large nut/b.PNG"]
    assert all(s.split == "train" and s.is_good and s.mask is None for s in data.samples)
    with pytest.raises(DataError, match="no test photos"):
        require_test(data)


def test_one_flat_folder(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "jpeg", "bmp", "tif", "tiff"):
        photo(tmp_path / "washers" / f"x.{suffix.upper() if suffix == 'tif' else suffix}".replace("TIF", "tiff"))
    data = scan(tmp_path / "washers")
    assert (data.layout, data.products) == ("flat", ("washers",))
    assert keys(data)[0] == "x.bmp"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_and_loops_do_not_hang(tmp_path: Path) -> None:
    store = tmp_path / "store"
    photo(store / "a.png")
    root = tmp_path / "set"
    (root / "nut").mkdir(parents=True)
    (root / "bolt").symlink_to(store)
    (root / "nut/one.png").symlink_to(store / "a.png")
    (root / "nut/gone.png").symlink_to(store / "none.png")
    (root / "nut/up").symlink_to(root)
    (root / "again").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    data = scan(root)
    assert keys(data) == ["bolt/a.png", "nut/one.png"]
    assert data.warnings == (f"{root}/nut/gone.png: a link to a file that is not there, left out.",)
    (store / "here").symlink_to(store)
    assert (scan(store).layout, keys(scan(store))) == ("flat", ["a.png"])


def test_what_is_skipped(tmp_path: Path) -> None:
    mvtec(tmp_path)
    before = keys(scan(tmp_path))
    good = tmp_path / "bolt/train/good"
    for name in (".hidden.png", "._000.png"):
        photo(good / name)
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt"):
        (good / name).write_bytes(b"x")
    for folder in ("__MACOSX", "Thumbnails", ".cache", "thumbs"):
        photo(tmp_path / folder / "a.png")
        photo(tmp_path / "bolt/test" / folder / "a.png")
    after = scan(tmp_path)
    assert keys(after) == before
    assert after.warnings == ()


def test_the_order_does_not_depend_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mvtec(tmp_path, "nut")
    photo(tmp_path / "view a.png")
    photo(tmp_path / "view b.png")
    before = scan(mvtec(tmp_path))
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listing(self), reverse=True)))
    assert scan(tmp_path) == before


def test_only(tmp_path: Path) -> None:
    mvtec(tmp_path, "nut")
    data = scan(mvtec(tmp_path))
    some = data.only({"nut/train/good/001.png"})
    assert (some.products, keys(some)) == (("nut",), ["nut/train/good/001.png"])
    with pytest.raises(DataError, match=r"no photo a\.png and 1 more here"):
        data.only(["nut/train/good/001.png", "a.png", "b.png"])


# ---- refused, or said


def test_no_folder_a_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a\.png: is a file, not a folder"):
        scan(photo(tmp_path / "a.png"))
    (tmp_path / "empty/inner").mkdir(parents=True)
    (tmp_path / "empty/read me.txt").write_text("x")
    with pytest.raises(DataError, match="empty: no photos found") as caught:
        scan(tmp_path / "empty")
    assert "Expected <product>/train/good" in str(caught.value)


def test_one_folder_too_high_is_pointed_out(tmp_path: Path) -> None:
    mvtec(tmp_path / "sets" / "mine")
    with pytest.raises(DataError, match="mine looks like a data set: give that folder"):
        scan(tmp_path / "sets")


def test_a_product_without_good_photos_is_named(tmp_path: Path) -> None:
    mvtec(tmp_path)
    photo(tmp_path / "nut/test/good/1.png")
    (tmp_path / "nut/train/good").mkdir(parents=True)
    with pytest.raises(DataError, match="no good training photos of nut") as caught:
        require_training(scan(tmp_path))
    assert "Expected" in str(caught.value)


def test_a_mask_without_a_photo_is_a_warning(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (tmp_path / "bolt/test/scratch/001.png").unlink()
    data = scan(tmp_path)
    assert data.warnings == (f"{tmp_path}/bolt/ground_truth/scratch: mask without a photo: 001_mask.png. Not used.",)
    require_test(data)


def test_a_mask_of_the_wrong_class(tmp_path: Path) -> None:
    truth = mvtec(tmp_path) / "bolt/ground_truth"
    (truth / "dent/007_mask.png").rename(truth / "scratch/007_mask.png")
    with pytest.raises(DataError, match=r"scratch/007_mask\.png: a mask of the wrong class.*dent/007\.png has no mask"):
        scan(tmp_path)


def test_a_mask_in_another_product(tmp_path: Path) -> None:
    mvtec(tmp_path)
    mvtec(tmp_path, "nut")
    (tmp_path / "nut/ground_truth/dent/007_mask.png").rename(tmp_path / "bolt/ground_truth/dent/009_mask.png")
    photo(tmp_path / "nut/test/dent/009.png")
    with pytest.raises(DataError, match=r"bolt/ground_truth/dent/009_mask\.png: a mask of the wrong class"):
        scan(tmp_path)


def test_a_mask_for_a_good_photo(tmp_path: Path) -> None:
    mask = photo(mvtec(tmp_path) / "bolt/ground_truth/good/001_mask.png", 0)
    assert scan(tmp_path).warnings == ()  # an empty mask says nothing wrong
    photo(mask, 255)
    with pytest.raises(DataError, match=r"good/001_mask\.png: marks a defect in .*test/good/001\.png"):
        scan(tmp_path)


def test_a_defect_without_a_mask(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (tmp_path / "bolt/ground_truth/dent/007_mask.png").unlink()
    data = scan(tmp_path)  # training does not need it
    require_training(data)
    with pytest.raises(DataError, match=r"dent/007\.png: a photo of a defect without a mask") as caught:
        require_test(data)
    assert "ground_truth/dent/007_mask.png" in str(caught.value)


def test_photos_in_two_kinds_of_place(tmp_path: Path) -> None:
    photo(mvtec(tmp_path / "a") / "new/1.png")
    with pytest.raises(DataError, match=r"new: photos lie directly in this folder.*new/train/good"):
        scan(tmp_path / "a")
    photo(tmp_path / "b/1.png")
    photo(tmp_path / "b/more/1.png")
    with pytest.raises(DataError, match="one product or several"):
        scan(tmp_path / "b")
    photo(mvtec(tmp_path / "c") / "bolt/train/1.png")
    with pytest.raises(DataError, match="1 photo directly in train"):
        scan(tmp_path / "c")


def test_warnings_of_a_folder_that_may_be_meant_otherwise(tmp_path: Path) -> None:
    photo(tmp_path / "a/good/1.png")
    photo(tmp_path / "a/bad/1.png")
    assert [w.split(":")[0] for w in scan(tmp_path / "a").warnings] == [f"{tmp_path}/a/bad", f"{tmp_path}/a/good"]
    photo(mvtec(tmp_path / "b") / "overview.png")
    photo(tmp_path / "b/bolt/train/bad/1.png")
    text = "\n".join(scan(tmp_path / "b").warnings)
    assert "overview.png: 1 photo beside the products' folders" in text
    assert "train/bad: 1 photo not used" in text
    photo(tmp_path / "c/nut/1.png")
    photo(tmp_path / "c/nut/deep/2.png")
    assert "2.png: 1 photo in a folder too deep" in scan(tmp_path / "c").warnings[0]


SHARED = Path(os.environ.get("UNIAS_SHARED", Path(__file__).parents[3] / "shared")) / "data/line5"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data line5 is not here")
def test_line5() -> None:
    data = scan(SHARED)
    assert data.products == ("bottle", "fibre_layup", "magnetic_tile", "pcb", "screw")
    assert (len(data.train()), len(data.test())) == (1319, 949)
    assert sum(s.is_good for s in data.test()) == 219
    assert sum(s.mask is not None for s in data.test()) == 730
    assert data.warnings == ()
    require_test(data)
