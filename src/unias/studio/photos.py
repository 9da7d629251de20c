"""The photos of a studio: counted, listed, shown, moved, taken out."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unias.data.decode import read_photo, to_display
from unias.data.layouts import SKIPPED, SUFFIXES, scan
from unias.errors import DataError
from unias.serve.refusals import Refusal
from unias.studio.intake import clean, free_place, place_of
from unias.studio.judged import split_of, stamp_of
from unias.studio.workspace import NEW, PHOTOS, REMOVED, Workspace

FEW = 10  # good training photos that a product wants at the least
MOST_THUMBS = 2000  # kept in memory, some kilobytes each
SIDES = (32, 1024)  # of a small picture


class Photos:
    """What lies in ``photos`` and ``new``; sizes and small pictures are kept in memory while files stay the same."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._sizes: dict[str, tuple[str, tuple[int, int] | str]] = {}
        self._thumbs: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def ids(self, kind: str = "", product: str = "") -> list[str]:
        """Ids of photos (masks are none), sorted. kind: "good", "test_good", a defect, "new", or "" = all."""
        found = []
        for home in (PHOTOS, NEW):
            for path in _files(self.workspace / home):
                number = self.workspace.id_of(path)
                parts = number.split("/")
                if home == PHOTOS and len(parts) > 3 and parts[2].casefold() == "ground_truth":
                    continue
                if product and (home == NEW or len(parts) < 3 or parts[1] != product):
                    continue
                if kind and kind != self.kind_of(number):
                    continue
                found.append(number)
        return found

    @staticmethod
    def kind_of(number: str) -> str:
        """ "good" (of training), "test_good", "new", or the kind of defect."""
        split, kind = split_of(number)
        if split == "test" and kind == "good":
            return "test_good"
        return kind

    def listed(self, product: str, kind: str) -> list[dict[str, Any]]:
        """[{"id", "name", "width", "height", "product", "kind"}]; sides are null where a photo cannot be read."""
        rows = []
        for number in self.ids(kind, product):
            size = self.size(number)
            width, height = (None, None) if isinstance(size, str) else size
            rows.append(
                {
                    "id": number,
                    "name": number.rpartition("/")[2],
                    "width": width,
                    "height": height,
                    "product": None if number.startswith(f"{NEW}/") else number.split("/")[1],
                    "kind": self.kind_of(number),
                }
            )
        return rows

    def understood(self) -> dict[str, Any]:
        """Counts and sizes, product by product, and what is wrong."""
        numbers = self.ids()
        products: dict[str, dict[str, Any]] = {}
        unreadable, new = [], 0
        sizes: dict[str, Counter[tuple[int, int]]] = {}
        for number in numbers:
            size = self.size(number)
            if isinstance(size, str):
                unreadable.append({"id": number, "why": size})
            kind = self.kind_of(number)
            if kind == "new":
                new += 1
                continue
            name = number.split("/")[1]
            row = products.setdefault(name, {"name": name, "good": 0, "test_good": 0, "defects": Counter()})
            if kind in ("good", "test_good"):
                row[kind] += 1
            else:
                row["defects"][kind] += 1
            if not isinstance(size, str):
                sizes.setdefault(name, Counter())[size] += 1
        fault, warnings = self._warnings()
        for name, row in products.items():
            row["sizes"] = [[*size, count] for size, count in sizes.get(name, Counter()).most_common()]
            row["warnings"] = []
            if row["good"] < FEW:
                row["warnings"].append(
                    f"{row['good']} good photos; {FEW} at the least are wanted, 100 and more are better."
                )
        return {
            "products": [products[name] for name in sorted(products)],
            "photos_new": new,
            "unreadable": unreadable,
            "warnings": ([fault] if fault else []) + warnings,
        }

    def _warnings(self) -> tuple[str, list[str]]:
        """What ``unias train`` would say of the folder: (why it would refuse it, warnings)."""
        if not _files(self.workspace / PHOTOS):
            return "", []
        try:
            return "", list(scan(self.workspace / PHOTOS).warnings)
        except DataError as error:
            return str(error), []

    def size(self, number: str) -> tuple[int, int] | str:
        """(width, height) of a photo as it is shown, by its header; or why it cannot be read."""
        path = self.workspace.root / number
        try:
            stamp = stamp_of(path)
        except OSError as error:
            return error.strerror or "it cannot be read"
        kept = self._sizes.get(number)
        if kept is None or kept[0] != stamp:
            kept = stamp, _size(path)
            self._sizes[number] = kept
        return kept[1]

    def full(self, number: str) -> tuple[bytes, str]:
        """(bytes, media type) that a browser shows; files that it does not know are sent as PNG."""
        path = self.workspace.photo(number)
        if path.suffix.casefold() in (".jpg", ".jpeg"):
            return path.read_bytes(), "image/jpeg"
        return png(to_display(self._read(path))), "image/png"

    def thumb(self, number: str, side: int) -> bytes:
        """A small JPEG, its longer edge ``side`` pixels at most."""
        path = self.workspace.photo(number)
        side = min(max(side, SIDES[0]), SIDES[1])
        key = (number, stamp_of(path), side)
        with self._lock:
            if key in self._thumbs:
                self._thumbs.move_to_end(key)
                return self._thumbs[key]
        image = Image.fromarray(to_display(self._read(path)))
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        with self._lock:
            self._thumbs[key] = buffer.getvalue()
            while len(self._thumbs) > MOST_THUMBS:
                self._thumbs.popitem(last=False)
        return buffer.getvalue()

    @staticmethod
    def _read(path: Path) -> Any:
        try:
            return read_photo(path)
        except DataError as error:
            raise Refusal(422, "undecodable", str(error), "Take the photo out, or copy it again.") from error

    def present(self, numbers: Iterable[str]) -> list[str]:
        """Those of them that are still there."""
        found = []
        for number in numbers:
            with contextlib.suppress(Refusal):
                self.workspace.photo(number)
                found.append(number)
        return found

    def remove(self, numbers: Iterable[str]) -> int:
        """Into ``removed``, with their masks; how many."""
        paths = [self.workspace.photo(number) for number in numbers]
        home = self.workspace / REMOVED / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        for path in paths:
            for file in (path, *self.masks(path)):
                self._put(file, home / self.workspace.id_of(file))
        return len(paths)

    def move(self, numbers: Iterable[str], product: str, kind: str) -> list[str]:
        """To another product or kind; their new ids. Masks go along to another kind of defect, else they are taken out."""
        if not kind or (kind != "new" and not product):
            raise Refusal(
                422, "parameters", "product and kind: both are needed.", "kind is good, test_good, new or a defect."
            )
        moves = []
        for path in [self.workspace.photo(number) for number in numbers]:
            below = place_of(path.name, product, kind)
            if below is not None:
                moves.append((path, self.workspace.root / below))
        found = []
        for path, target in moves:
            if path == target:
                found.append(self.workspace.id_of(path))
                continue
            place, same = free_place(target, path.read_bytes())
            for mask in self.masks(path):
                if kind in ("good", "test_good", "new"):
                    self._put(mask, self.workspace / REMOVED / self.workspace.id_of(mask))
                else:
                    names = (clean(product, folder=True), "ground_truth", clean(kind, folder=True))
                    folder = (self.workspace / PHOTOS).joinpath(*names)
                    self._put(mask, folder / f"{place.stem}_mask{mask.suffix}")
            if same:
                self._put(path, self.workspace / REMOVED / self.workspace.id_of(path))
            else:
                self._put(path, place)
            found.append(self.workspace.id_of(place))
        return found

    def masks(self, photo: Path) -> list[Path]:
        """Masks drawn for a test photo."""
        parts = self.workspace.id_of(photo).split("/")
        if len(parts) != 5 or parts[0] != PHOTOS or parts[2] != "test":
            return []
        home = self.workspace / PHOTOS / parts[1] / "ground_truth" / parts[3]
        return [path for path in _files(home) if path.stem in (photo.stem, f"{photo.stem}_mask")]

    @staticmethod
    def _put(file: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        place, number = target, 1
        while place.exists():
            number += 1
            place = target.with_name(f"{target.stem}-{number}{target.suffix}")
        os.replace(file, place)


def _files(folder: Path) -> list[Path]:
    """Photos in a folder and below it, sorted; hidden ones left out."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.casefold() not in SKIPPED)
        kept = [name for name in sorted(names) if not name.startswith(".") and name.casefold() not in SKIPPED]
        found += [Path(root) / name for name in kept if Path(name).suffix.casefold() in SUFFIXES]
    return found


def _size(path: Path) -> tuple[int, int] | str:
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size
            return (height, width) if turned else (width, height)
    except Exception:  # a form that only our own reader knows, or a broken file: it says which
        try:
            height, width = read_photo(path).size
        except DataError as error:
            return str(error)
        return width, height


def png(picture: np.ndarray[Any, Any]) -> bytes:
    """A picture's PNG file, packed lightly: it goes to a browser beside us."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
