"""The demo's data: five real products from two packages that pip installs, written as an MVTec-AD folder.

    solar_mono, solar_poly   electroluminescence photos of solar cells (PyPI ``elpv-dataset``), copied byte for byte.
                             Good = defect probability 0, defective = 1; the doubtful ones between are left out. The
                             truth is per photo, so these products have no ground_truth folder.
    brick, grass, gravel     the pictures shipped inside scikit-image, each cut into overlapping square tiles. Training
                             tiles come from the left half, test tiles from the right half: no pixel is in both.
                             Defects are drawn in by ``unias.data.defects``, with exact masks.

Nothing is downloaded: the files are read from the installed packages. The same seed writes the same pixels.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.data.defects import KINDS, draw_defect
from unias.errors import MissingError, UsageError
from unias.files import write_text, writing_folder

PRODUCTS = ("solar_mono", "solar_poly", "brick", "grass", "gravel")
TEXTURE_PHOTOS = ("brick", "grass", "gravel")
CELL_TYPES = {"solar_mono": "mono", "solar_poly": "poly"}

CELLS_TRAIN, CELLS_GOOD, CELLS_DEFECTIVE = 120, 40, 40
TILES_TRAIN, TILES_GOOD, TILES_DEFECTIVE = 80, 20, 20
CROP = 128  # pixels of the 512-pixel photo that one tile shows: about four bricks across, some forty stones
SOLAR_DEFECT = "defective"  # the one defect folder of the solar products

Progress = Callable[[int, int], None]  # photos written, photos in all
Bytes = NDArray[np.uint8]

DEMO_LICENCES = """\
# Where these photos come from

Written by `unias demo` from packages installed on this machine. Nobody at unias hands these photos out; keep to the
licences below when you pass this folder, or a report with its pictures, on.

## solar_mono, solar_poly

Electroluminescence photos of solar cells from the ELPV dataset (PyPI `elpv-dataset`,
https://github.com/zae-bayern/elpv-dataset), copied unchanged. Licence: Creative Commons Attribution-NonCommercial-
ShareAlike 4.0 International (CC BY-NC-SA 4.0): NO COMMERCIAL USE. Please cite:

- Buerhop-Lutz, C.; Deitsch, S.; Maier, A.; Gallwitz, F.; Berger, S.; Doll, B.; Hauch, J.; Camus, C.; Brabec, C. J.
  A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery. European PV Solar
  Energy Conference and Exhibition (EU PVSEC), 2018. DOI 10.4229/35thEUPVSEC20182018-5CV.3.15
- Deitsch, S.; Buerhop-Lutz, C.; Sovetkin, E.; Steland, A.; Maier, A.; Gallwitz, F.; Riess, C. Segmentation of
  photovoltaic module cells in uncalibrated electroluminescence images. Machine Vision and Applications 32(4), 2021.
  DOI 10.1007/s00138-021-01191-9
- Deitsch, S.; Christlein, V.; Berger, S.; Buerhop-Lutz, C.; Maier, A.; Gallwitz, F.; Riess, C. Automatic
  classification of defective photovoltaic module cells in electroluminescence images. Solar Energy 185, 2019,
  455-468. DOI 10.1016/j.solener.2019.02.067

Good = defect probability 0, defective = 1, as the dataset's experts judged; the photos between are not used. There is
one judgement per photo and no mask.

## brick, grass, gravel

Grey 512 x 512 pictures shipped with scikit-image (https://scikit-image.org), cut into tiles and enlarged. All three
are in the public domain (CC0): brick from https://cc0textures.com/view.php?tex=Bricks25, gravel from
https://cc0textures.com/view.php?tex=Gravel04, grass by linolafett from
https://www.deviantart.com/linolafett/art/Grass-01-434853879, as scikit-image's documentation states.

Training tiles are cut from the left half of each picture, test tiles from the right half. The defects are NOT real:
unias drew them in, and the masks in `ground_truth` are exactly the pixels it changed.
"""


def make_demo_data(
    out: Path | str, seed: int = 0, tile: int = 256, progress: Progress | None = None, replace: bool = False
) -> Path:
    """Write the five products below the folder ``out``, whole or not at all, and give the folder back.

    ``tile`` is the side in pixels that the textures' tiles are enlarged to; the solar cells keep their 300 x 300.
    ``progress`` is called after every photo. An existing ``out`` is a DataError unless ``replace``; without the extra
    ``demo`` a MissingError says how to get it.
    """
    if tile < 32:
        raise UsageError(f"tile {tile}: too small for a defect to be seen. Give 32 pixels or more.")
    cells = _package("elpv_dataset", "elpv-dataset") / "data"
    pictures = _package("skimage", "scikit-image") / "data"
    needed = [cells / "labels.csv", *(pictures / f"{name}.png" for name in TEXTURE_PHOTOS)]
    for file in needed:
        if not file.is_file():
            raise MissingError(f'{file}: not in this version of the package. Run: pip install -U "unias[demo]"')
    with writing_folder(out, replace=replace) as folder:
        count = _Counter(progress)
        for number, (product, kind) in enumerate(CELL_TYPES.items()):
            _write_cells(folder / product, cells, kind, np.random.default_rng([seed, number]), count)
        photos = {name: _read_grey(pictures / f"{name}.png") for name in TEXTURE_PHOTOS}
        for number, name in enumerate(TEXTURE_PHOTOS):
            donors = [photo[:, -2 * CROP :] for other, photo in photos.items() if other != name]
            rng = np.random.default_rng([seed, len(CELL_TYPES) + number])
            _write_tiles(folder / name, photos[name], donors, tile, rng, count)
        write_text(folder / "SOURCES.md", DEMO_LICENCES)
    return Path(out)


class _Counter:
    """Calls ``progress`` with the number of photos written so far and in all."""

    total = len(CELL_TYPES) * (CELLS_TRAIN + CELLS_GOOD + CELLS_DEFECTIVE) + len(TEXTURE_PHOTOS) * (
        TILES_TRAIN + TILES_GOOD + TILES_DEFECTIVE
    )

    def __init__(self, progress: Progress | None) -> None:
        self.done, self.progress = 0, progress

    def step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _package(module: str, name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # imported by something that left it without a spec
        spec = None
    if spec is None or spec.origin is None:
        raise MissingError(f'{name}: not installed; the demo takes photos from it. Run: pip install "unias[demo]"')
    return Path(spec.origin).parent


def _read_cells(labels: Path, kind: str) -> tuple[list[str], list[str]]:
    """Paths below the data folder of the good (probability 0) and the defective (1) cells of one type."""
    good, defective = [], []
    for line in labels.read_text(encoding="utf-8").splitlines():
        path, probability, found = line.split()
        if found == kind and float(probability) == 0:
            good.append(path)
        elif found == kind and float(probability) == 1:
            defective.append(path)
    return good, defective


def _write_cells(folder: Path, data: Path, kind: str, rng: np.random.Generator, count: _Counter) -> None:
    """One type of solar cell: a random choice, no cell twice; the photos keep the dataset's own file names."""
    good, defective = _read_cells(data / "labels.csv", kind)
    mixed = [good[i] for i in rng.permutation(len(good))]
    faulty = [defective[i] for i in rng.permutation(len(defective))]
    parts = {
        "train/good": mixed[:CELLS_TRAIN],
        "test/good": mixed[CELLS_TRAIN : CELLS_TRAIN + CELLS_GOOD],
        f"test/{SOLAR_DEFECT}": faulty[:CELLS_DEFECTIVE],
    }
    for part, paths in parts.items():
        (folder / part).mkdir(parents=True)
        for path in sorted(paths):
            source = data / path
            if not source.is_file():
                raise MissingError(f'{source}: not in the package. Run: pip install --force-reinstall "unias[demo]"')
            shutil.copyfile(source, folder / part / source.name)
            count.step()


def _read_grey(path: Path) -> Bytes:
    """A grey photo (h, w) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def halves(photo: Bytes) -> tuple[Bytes, Bytes]:
    """The training half and the test half of a photo (h, w): left and right.

    Left and right because the brick wall is seen at a slant from below: its courses shrink towards the top, and a
    split into top and bottom would test at a scale that training never saw.
    """
    middle = photo.shape[1] // 2
    return photo[:, :middle], photo[:, middle:]


def cut_tiles(half: Bytes, count: int, tile: int, rng: np.random.Generator, mirror: bool = False) -> list[Bytes]:
    """``count`` tiles (tile, tile) from random places of a half (h, w), ``CROP`` pixels wide before they are enlarged.

    The tiles go down the half in equal steps, so that all of it is seen. ``mirror`` flips every second tile.
    """
    rows, columns = half.shape[0] - CROP, half.shape[1] - CROP
    order = rng.permutation(count)
    tiles = []
    for number in range(count):
        top = min(rows, int((order[number] + rng.uniform()) / count * (rows + 1)))
        left = int(rng.integers(columns + 1))
        piece = half[top : top + CROP, left : left + CROP]
        if mirror and number % 2:
            piece = piece[:, ::-1]
        picture = Image.fromarray(np.ascontiguousarray(piece)).resize((tile, tile), Image.Resampling.BICUBIC)
        tiles.append(np.asarray(picture))
    return tiles


def _write_tiles(
    folder: Path, photo: Bytes, donors: list[Bytes], tile: int, rng: np.random.Generator, count: _Counter
) -> None:
    """One texture: training and good test tiles as they are, the others with a defect each, kinds in turn."""
    train_half, test_half = halves(photo)
    mirror = folder.name == "brick"  # the joints lean one way on the left and the other way on the right
    for number, plain in enumerate(cut_tiles(train_half, TILES_TRAIN, tile, rng, mirror)):
        _save(plain, folder / "train" / "good" / f"{number:03d}.png")
        count.step()
    tiles = cut_tiles(test_half, TILES_GOOD + TILES_DEFECTIVE, tile, rng)
    for number, plain in enumerate(tiles[:TILES_GOOD]):
        _save(plain, folder / "test" / "good" / f"{number:03d}.png")
        count.step()
    order = rng.permutation(len(KINDS))
    for number, plain in enumerate(tiles[TILES_GOOD:]):
        kind = KINDS[int(order[number % len(KINDS)])]
        marked, mask, kind = draw_defect(np.repeat(plain[..., None], 3, axis=2), rng, kind, donors)
        _save(marked[..., 0], folder / "test" / kind / f"{number:03d}.png")
        _save(mask.astype(np.uint8) * 255, folder / "ground_truth" / kind / f"{number:03d}_mask.png")
        count.step()


def _save(picture: Bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, compress_level=3)
