"""One call for all formats: a folder of ``unias predict`` in, a folder for a labelling tool out, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unias.errors import DataError, UsageError
from unias.files import writing_folder
from unias.report.labels import coco, cvat, labelstudio, masks
from unias.report.labels.marked import MarkedPhotos

FORMATS = ("coco", "labelstudio", "cvat", "masks")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where. root: the folder that the photos' names are below.
        photos: how many. lost: how many of them were not found, their paths being relative to a folder that nobody told:
            ``root`` may then be another.
    """

    folder: Path
    root: Path
    photos: int
    lost: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"folder": self.folder, "root": self.root, "photos": self.photos, "lost": self.lost}


def export_labels(
    home: Path | str,
    kind: str,
    output: Path | str | None = None,
    *,
    label: str = "defect",
    failed: bool = False,
    polygons: bool = False,
    prefix: str | None = None,
) -> Exported:
    """Write what ``unias predict`` marked as pre-annotations.

    Args:
        home: folder that ``unias predict`` wrote.
        kind: coco, labelstudio, cvat or masks.
        output: folder to write; None = labels-<kind> within ``home``. One that exists is not touched.
        label: what marked regions are called.
        failed: leave photos that are ok out.
        polygons: coco: polygons in the place of runs, where a region has no hole.
        prefix: labelstudio: what comes before a photo's name to make its address; None = that of files
            which Label Studio serves itself.

    Raises:
        UsageError: a format that is not known, an option that is another format's.
        DataError: a folder that predict did not write, frames that were not kept, an output that exists.
    """
    if kind not in FORMATS:
        raise UsageError(f"--to {kind}: is not one of {', '.join(FORMATS)}.")
    if not label.strip():
        raise UsageError("--label: is empty. Say what marked regions are called, such as defect.")
    if polygons and kind != "coco":
        raise UsageError(f"--polygons: is for --to coco, not {kind}. Leave it out, or choose --to coco.")
    if prefix is not None and kind != "labelstudio":
        raise UsageError(f"--prefix: is for --to labelstudio, not {kind}. Leave it out, or choose --to labelstudio.")
    source = Path(home)
    folder = source / f"labels-{kind}" if output is None else Path(output)
    if folder.exists():
        raise DataError(f"{folder}: exists already. Choose another output with -o, or remove it.")
    photos = MarkedPhotos(source, failed)
    with writing_folder(folder) as temporary:
        if kind == "coco":
            coco.write(temporary, photos, label, polygons)
        elif kind == "labelstudio":
            labelstudio.write(temporary, photos, label, prefix)
        elif kind == "cvat":
            cvat.write(temporary, photos, label)
        else:
            masks.write(temporary, photos)
    return Exported(folder, photos.root, len(photos), photos.lost)
