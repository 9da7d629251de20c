"""CVAT's XML, "CVAT for images 1.1": polygons, and masks for regions that have holes, which polygons cannot say.

Fields as https://docs.cvat.ai/docs/manual/advanced/xml_format/ lists them. A mask's runs go along the rows of its box, unmarked
first.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from unias.files import write_json, write_text
from unias.maps.outlines import Outline, simplified
from unias.report.labels.coco import runs
from unias.report.labels.marked import Marked, MarkedPhotos

FILE, LABELS_FILE = "annotations.xml", "labels.json"
COLOUR = "#ff283c"


def write(folder: Path, photos: MarkedPhotos, label: str) -> None:
    """Put annotations.xml (to upload) and labels.json (for the label constructor's Raw page of a new task) into the folder."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    for name, text in (("name", "unias"), ("size", str(len(photos))), ("mode", "annotation"), ("overlap", "0")):
        ElementTree.SubElement(task, name).text = text
    entry = ElementTree.SubElement(ElementTree.SubElement(task, "labels"), "label")
    for name, text in (("name", label), ("color", COLOUR), ("type", "any"), ("attributes", "")):
        ElementTree.SubElement(entry, name).text = text
    for photo in photos:
        height, width = photo.size
        image = ElementTree.SubElement(
            root, "image", id=str(photo.place), name=photo.name, width=str(width), height=str(height)
        )
        for group, region in enumerate(photo.regions, 1):
            _shapes(image, region, label, group)
    ElementTree.indent(root)
    write_text(
        folder / FILE, f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
    )
    write_json(folder / LABELS_FILE, [{"name": label, "color": COLOUR, "type": "any", "attributes": []}])


def _shapes(image: ElementTree.Element, region: Marked, label: str, group: int) -> None:
    common = {"label": label, "source": "auto", "occluded": "0", "z_order": "0"}
    outer, holes = region.rings()
    if holes:
        left, top, width, height = region.box
        place = {"left": str(left), "top": str(top), "width": str(width), "height": str(height)}
        counts = ", ".join(str(count) for count in runs(region.inside.reshape(-1)).tolist())
        ElementTree.SubElement(image, "mask", {**common, "rle": counts, **place})
        return
    together = {"group_id": str(group)} if len(outer) > 1 else {}  # parts of one region that touch at corners alone
    for ring in outer:
        ElementTree.SubElement(image, "polygon", {**common, "points": _points(simplified(ring)), **together})


def _points(ring: Outline) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in np.asarray(ring).tolist())
