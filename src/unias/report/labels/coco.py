"""COCO's JSON for instance segmentation, which pycocotools, CVAT, FiftyOne and most trainers read.

One annotation a region, with COCO's run-length code (exact, holes too), or with polygons where a reader wants them and the
region has no hole. ``score`` is ours beside the standard's fields, as in COCO's own results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unias.files import write_json
from unias.maps.outlines import simplified
from unias.report.labels.marked import Marked, MarkedPhotos

FILE = "annotations.json"


def write(folder: Path, photos: MarkedPhotos, label: str, polygons: bool = False) -> None:
    """Put annotations.json into the folder.

    polygons: corners of outlines in the place of runs; the border then lies within a pixel of the mask's.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo in photos:
        height, width = photo.size
        images.append(
            {
                "id": photo.place + 1,
                "file_name": photo.name,
                "width": width,
                "height": height,
                "product": photo.product,
                "verdict": photo.verdict,
                "pred_score": photo.pred_score,
            }
        )
        for region in photo.regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": photo.place + 1,
                    "category_id": 1,
                    "segmentation": _segmentation(region, photo.size, polygons),
                    "bbox": list(region.box),
                    "area": region.area,
                    "iscrowd": 0,
                    "score": region.score,
                }
            )
    content = {
        "info": {"description": "marked by unias predict"},
        "licenses": [],
        "categories": [{"id": 1, "name": label, "supercategory": ""}],
        "images": images,
        "annotations": annotations,
    }
    write_json(folder / FILE, content, indent=None)


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (h, w) in COCO's uncompressed run-length code: down the columns, unmarked and marked in turn, unmarked first."""
    return {"size": list(mask.shape), "counts": runs(mask.reshape(-1, order="F")).tolist()}


def runs(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the runs of False and True in turn, False first (0 where there is none)."""
    changes = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    return np.diff(changes, prepend=0).astype(np.int64)


def _segmentation(region: Marked, size: tuple[int, int], polygons: bool) -> Any:
    if polygons:
        outer, holes = region.rings()
        if not holes:
            return [np.round(simplified(ring), 2).reshape(-1).tolist() for ring in outer]
    return encode(region.mask(size))
