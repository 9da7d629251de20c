"""Masks as pictures, 0 and 255, and a table that says which photo each belongs to."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

from unias.files import write_text
from unias.report.labels.marked import MarkedPhotos

FILE = "labels.csv"
COLUMNS = ("photo", "mask", "width", "height", "product", "verdict", "pred_score", "marked_pixels")
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets run what begins so


def write(folder: Path, photos: MarkedPhotos) -> None:
    """Put masks/ and labels.csv into the folder. Names that a spreadsheet would take for a formula begin with ./ there."""
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(COLUMNS)
    for photo in photos:
        mask = photo.mask_file.relative_to(photos.home)
        (folder / mask).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo.mask_file, folder / mask)
        height, width = photo.size
        marked = sum(region.area for region in photo.regions)
        name = f"./{photo.name}" if photo.name.startswith(FORMULAS) else photo.name
        lines.writerow([name, mask.as_posix(), width, height, photo.product, photo.verdict, photo.pred_score, marked])
    write_text(folder / FILE, table.getvalue())
