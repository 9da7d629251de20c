"""The demo's data set: whole, disjoint, true to its sources, with masks of exactly what was drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("elpv_dataset", reason='needs the extra: pip install "unias[demo]"')
pytest.importorskip("skimage", reason='needs the extra: pip install "unias[demo]"')

from unias.data import demo
from unias.data.defects import KINDS, VISIBLE
from unias.data.demo import CROP, PRODUCTS, TEXTURE_PHOTOS, cut_tiles, halves, make_demo_data
from unias.data.layouts import scan
from unias.errors import DataError, MissingError, UsageError
from unias.files import sha256

TILE = 96


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo-data"
    return make_demo_data(out, tile=TILE, progress=lambda done, total: steps.append((done, total)))


def names(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def test_counts_and_progress(folder: Path, steps: list[tuple[int, int]]) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted([*PRODUCTS, "SOURCES.md"])
    for product in PRODUCTS:
        solar = product.startswith("solar")
        test = folder / product / "test"
        good, faulty = names(test / "good"), [p for p in names(test) if p.parent.name != "good"]
        counts = (len(names(folder / product / "train" / "good")), len(good), len(faulty))
        assert counts == ((120, 40, 40) if solar else (80, 20, 20))
        assert (folder / product / "ground_truth").exists() != solar
        if not solar:
            assert {p.parent.name for p in faulty} == set(KINDS)
    assert steps == [(i + 1, 760) for i in range(760)]


def test_the_scanner_reads_it(folder: Path) -> None:
    found = scan(folder)
    assert found.layout == "mvtec"
    assert sorted(found.products) == sorted(PRODUCTS)
    assert found.warnings == ()
    assert len(found.samples) == 760
    assert sum(s.mask is not None for s in found.samples) == 60


def test_cells_are_the_packages_own_and_disjoint(folder: Path) -> None:
    import elpv_dataset

    data = Path(elpv_dataset.__file__).parent / "data"
    rows = [line.split() for line in (data / "labels.csv").read_text().splitlines()]
    truth = {Path(path).name: (float(probability), kind) for path, probability, kind in rows}
    seen: set[str] = set()
    for product, kind in (("solar_mono", "mono"), ("solar_poly", "poly")):
        for path in names(folder / product):
            assert truth[path.name] == (1.0 if path.parent.name == "defective" else 0.0, kind)
            assert sha256(path) == sha256(data / "images" / path.name)
            assert path.name not in seen
            seen.add(path.name)


@pytest.mark.parametrize("product", TEXTURE_PHOTOS)
def test_masks_are_exact(folder: Path, product: str) -> None:
    """The clean tile of every defective photo is found again in the test half, and differs exactly in the mask."""
    clean = _test_tiles(product)
    for path in names(folder / product / "test"):
        photo = np.asarray(Image.open(path)).astype(int)
        assert photo.shape == (TILE, TILE)
        change = np.abs(clean[int(path.stem) + (0 if path.parent.name == "good" else 20)].astype(int) - photo)
        if path.parent.name == "good":
            assert not change.any()
            continue
        mask = np.asarray(Image.open(folder / product / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"))
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask > 0, change >= VISIBLE)
        np.testing.assert_array_equal(mask > 0, change > 0)


def _test_tiles(product: str) -> list[np.ndarray]:
    """The test tiles of seed 0 before anything was drawn."""
    rng = np.random.default_rng([0, 2 + TEXTURE_PHOTOS.index(product)])
    left, right = halves(_photo(product))
    cut_tiles(left, demo.TILES_TRAIN, TILE, rng, product == "brick")
    return cut_tiles(right, demo.TILES_GOOD + demo.TILES_DEFECTIVE, TILE, rng)


def _photo(product: str) -> np.ndarray:
    import skimage

    return np.asarray(Image.open(Path(skimage.__file__).parent / "data" / f"{product}.png"))


def test_halves_are_disjoint() -> None:
    """Every pixel of a photo lies in one half, and a tile shows only pixels of its half."""
    photo = np.arange(512 * 512, dtype=np.int32).reshape(512, 512)
    left, right = halves(photo)  # type: ignore[arg-type]
    assert left.size + right.size == photo.size
    assert not np.intersect1d(left, right).size
    black, white = (np.full((512, 256), value, np.uint8) for value in (0, 255))
    for half, value in ((black, 0), (white, 255)):
        for tile in cut_tiles(half, 10, TILE, np.random.default_rng(0)):
            assert (tile == value).all()


def test_tiles_cover_the_half_from_top_to_bottom() -> None:
    half = np.repeat(np.linspace(0, 255, 512).astype(np.uint8)[:, None], 256, axis=1)
    means = sorted(float(tile.mean()) for tile in cut_tiles(half, 20, TILE, np.random.default_rng(0)))
    assert means[0] < 255 * (CROP / 2 + 25) / 512
    assert means[-1] > 255 - 255 * (CROP / 2 + 25) / 512
    assert max(np.diff(means)) < 25


def test_same_seed_same_files_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    again = make_demo_data(tmp_path / "again", tile=TILE)
    other = make_demo_data(tmp_path / "other", tile=TILE, seed=1)
    files = [p.relative_to(folder) for p in names(folder)]
    assert files == [p.relative_to(again) for p in names(again)]
    assert all((folder / p).read_bytes() == (again / p).read_bytes() for p in files)
    assert any(not (other / p).exists() or (folder / p).read_bytes() != (other / p).read_bytes() for p in files)


def test_sources_are_named(folder: Path) -> None:
    text = (folder / "SOURCES.md").read_text(encoding="utf-8")
    for word in ("CC BY-NC-SA 4.0", "Buerhop-Lutz", "CC0", "linolafett", "Bricks25", "Gravel04", "elpv-dataset"):
        assert word in text


def test_an_existing_folder_stays_unless_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _shrink(monkeypatch)
    out = tmp_path / "demo-data"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists already"):
        make_demo_data(out, tile=32)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    make_demo_data(out, tile=32, replace=True)
    assert (out / "brick" / "train" / "good").is_dir()
    assert not (out / "mine.txt").exists()


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _shrink(monkeypatch)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo_data(tmp_path / "demo-data", tile=32, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "name"), [("skimage", "scikit-image"), ("elpv_dataset", "elpv-dataset")])
def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingError, match=rf'{name}.*pip install "unias\[demo\]"') as caught:
        make_demo_data(tmp_path / "demo-data")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_package_without_the_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_package", lambda module, name: tmp_path / module)
    with pytest.raises(MissingError, match=r"labels\.csv.*pip install"):
        make_demo_data(tmp_path / "demo-data")
    assert list(tmp_path.iterdir()) == []


def test_tiny_tiles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tile 16"):
        make_demo_data(tmp_path / "demo-data", tile=16)


def _shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELLS_TRAIN", "CELLS_GOOD", "CELLS_DEFECTIVE", "TILES_TRAIN", "TILES_GOOD", "TILES_DEFECTIVE"):
        monkeypatch.setattr(demo, name, 2)
