"""The folder that ``unias predict`` wrote, read back photo by photo: what is marked, region by region, at the photo's own size.

Axes: h, w the photo's own rows and columns.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unias.data.masks import read_mask
from unias.errors import DataError
from unias.maps.outlines import Outline, rings
from unias.maps.regions import region_of_pixels

TABLE = "results.jsonl"
AGAIN = "Run `unias predict` again."
FRAME = re.compile(r"#\d{6,}$")  # how the names of frames end

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Marked:
    """One marked region of one photo.

    Attributes:
        box: (x, y, width, height) in whole pixels.
        inside: bool, (height, width), the region within its box.
        score: the map's highest value in it, on the scale of ``pred_score``.
    """

    box: Box
    inside: NDArray[np.bool_]
    score: float

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.inside.sum())

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The region alone in a photo of ``size`` = (h, w)."""
        left, top, width, height = self.box
        whole = np.zeros(size, dtype=bool)
        whole[top : top + height, left : left + width] = self.inside
        return whole

    def rings(self) -> tuple[list[Outline], list[Outline]]:
        """Its outlines as (outer ones, holes), in the photo's pixels."""
        corner = np.array(self.box[:2], dtype=np.float64)
        outer, holes = rings(self.inside)
        return [ring + corner for ring in outer], [ring + corner for ring in holes]


@dataclass(frozen=True)
class MarkedPhoto:
    """One photo and what is marked in it.

    Attributes:
        place: 0, 1, ... in the order of names.
        name: its path below the folder common to all photos, with forward slashes: what labelling tools know it by.
        size: (h, w).
        product: None where the model knows none.
        verdict: "ok", "defect" or "unknown product".
        mask_file: the mask that predict wrote.
    """

    place: int
    name: str
    size: tuple[int, int]
    product: str | None
    verdict: str
    pred_score: float
    mask_file: Path
    regions: tuple[Marked, ...]


class MarkedPhotos:
    """Every photo of a predicted folder, each once, in the order of names; one at a time is in memory.

    Args:
        home: the folder. failed: only photos that are not ok.

    Attributes:
        root: the folder common to all photos, which names are below.
        lost: how many paths are relative to a folder that the table does not tell, and are not there as seen from this one.

    Raises:
        DataError: naming what is not there or cannot be read, here or while iterating; frames that were not kept too.
    """

    def __init__(self, home: Path, failed: bool = False) -> None:
        self.home = home
        self.table = home / TABLE
        self.lost = 0
        if not self.table.is_file():
            raise DataError(
                f"{self.table}: is not there. Give a folder that `unias predict MODEL PHOTOS -o {home}` wrote."
            )
        starts: dict[Path, int] = {}  # where each photo's row begins in the table
        for start, row in self._rows():
            if not (failed and row.get("ok")):
                file = self._file(row)
                self.lost += file not in starts and self._is_lost(row, file)
                starts.setdefault(file, start)
        if not starts:
            raise DataError(
                f"{self.table}: holds no {'failed ' if failed else ''}photo, so there is nothing to export."
            )
        try:
            self.root = Path(os.path.commonpath([file.parent for file in starts]))
        except ValueError:  # photos on several drives
            self.root = Path(next(iter(starts)).anchor)
        named = sorted((self._name(file), start) for file, start in starts.items())
        self.starts = dict(named)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[MarkedPhoto]:
        with self.table.open("rb") as lines:
            for place, (name, start) in enumerate(self.starts.items()):
                lines.seek(start)
                yield self._photo(place, name, json.loads(lines.readline()))

    def _photo(self, place: int, name: str, row: dict[str, Any]) -> MarkedPhoto:
        try:
            height, width = (int(value) for value in row["size"])
            mask_file = self._mask_file(str(row["mask"]))
            told = [([float(value) for value in one["box"]], float(one["score"])) for one in row["regions"]]
            product = None if row["product"] is None else str(row["product"])
            verdict, score = str(row["verdict"]), float(row["pred_score"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.table}: the row of {name} lacks something ({error!r}). {AGAIN}") from error
        mask = read_mask(mask_file)
        if mask.shape != (height, width):
            found = f"{mask.shape[1]} x {mask.shape[0]}"
            raise DataError(f"{mask_file}: has {found} pixels, its photo {width} x {height}. {AGAIN}")
        regions = tuple(_regions(mask, told, score))
        return MarkedPhoto(place, name, (height, width), product, verdict, score, mask_file, regions)

    def _mask_file(self, name: str) -> Path:
        below = Path(name)
        if below.is_absolute() or ".." in below.parts:
            raise ValueError(f"{name!r} is not in the folder")
        return self.home / below

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(where it begins in the table, row)."""
        with self.table.open("rb") as lines:
            start = 0
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{self.table}: line {number} cannot be read. {AGAIN}") from error
                if not isinstance(row, dict):
                    raise DataError(f"{self.table}: line {number} is no row of predict's. {AGAIN}")
                yield start, row
                start += len(line)

    def _file(self, row: dict[str, Any]) -> Path:
        if frame := row.get("frame"):  # of a video or camera, kept as a picture
            return Path(os.path.abspath(self.home / str(frame)))
        if not row.get("path"):
            raise DataError(f"{self.table}: holds a row without a path. {AGAIN}")
        path = Path(str(row.get("working_folder") or ""), str(row["path"]))
        if FRAME.search(path.name) and not _is_there(path):
            raise DataError(
                f"{self.table}: {row['path']} is a frame that was not kept. Run `unias predict` again with --frames."
            )
        return Path(os.path.abspath(path))

    @staticmethod
    def _is_lost(row: dict[str, Any], file: Path) -> bool:
        told = row.get("frame") or row.get("working_folder") or Path(str(row["path"])).is_absolute()
        return not told and not _is_there(file)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else file.as_posix()


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a folder that may not be looked into
        return False


def _regions(mask: NDArray[np.bool_], told: list[tuple[list[float], float]], photo_score: float) -> Iterator[Marked]:
    """The mask's regions, 8-connected. Each gets the score of the told region whose box is most like its own."""
    regions, count = region_of_pixels(mask)
    rows, columns = np.nonzero(mask)
    first, last = np.full((2, count), max(mask.shape)), np.zeros((2, count), dtype=np.intp)
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(first[axis], regions, places)
        np.maximum.at(last[axis], regions, places)
    labels = np.full(mask.shape, -1, dtype=np.int32)
    labels[mask] = regions
    for number in range(count):
        left, top = int(first[0, number]), int(first[1, number])
        box = (left, top, int(last[0, number]) + 1 - left, int(last[1, number]) + 1 - top)
        inside = labels[top : top + box[3], left : left + box[2]] == number
        apart = [sum(abs(one - other) for one, other in zip(box, theirs, strict=True)) for theirs, _ in told]
        yield Marked(box, inside, told[int(np.argmin(apart))][1] if told else photo_score)
