"""Label Studio's tasks with predictions: one brush stroke a region, and the verdict as a choice.

Its brush has a run-length code of its own, which is not COCO's: that of the package rle-pack over the mask as an RGBA picture,
row by row, four values a pixel. A stream of bits, highest first:

    32 bits   number of values
     5 bits   bits of a value, less 1
     4 x 4    the four widths in which run lengths are written, less 1
    then blocks: 1 bit: 1 = one value many times, 0 = as many values as follow; 2 bits: which width; that many bits: length,
    less 1; then the value, or the values.

A marked pixel is 255 in all four: with less alpha than that Label Studio shows little or nothing.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from unias.files import write_json, write_text
from unias.report.labels.marked import Marked, MarkedPhotos

FILE, SETUP_FILE = "tasks.json", "labeling.xml"
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its own machine
BRUSH, VERDICT, IMAGE = "brush", "verdict", "image"  # names in the labelling setup that results refer to
CHANNELS = 4
WIDTHS = (3, 4, 8, 16)
WORD = 8
VERDICTS = ("ok", "defect", "unknown product")


def write(folder: Path, photos: MarkedPhotos, label: str, prefix: str | None = None) -> None:
    """Put tasks.json (to import) and labeling.xml (the setup of the project it belongs to) into the folder.

    prefix: what comes before a photo's name to make the address that Label Studio loads it from; None = that of files which it
    serves itself, its document root being the folder above the one common to all photos: it serves nothing from the root itself.
    """
    if prefix is None:
        prefix = LOCAL_FILES + (f"{quote(photos.root.name)}/" if photos.root.name else "")
    tasks = []
    for photo in photos:
        height, width = photo.size
        common = {"original_width": width, "original_height": height, "image_rotation": 0, "to_name": IMAGE}
        results: list[dict[str, Any]] = [
            {**common, "id": "verdict", "from_name": VERDICT, "type": "choices", "value": {"choices": [photo.verdict]}}
        ]
        results += [
            _stroke(common, region, photo.size, number, label) for number, region in enumerate(photo.regions, 1)
        ]
        tasks.append(
            {
                "data": {
                    "image": prefix + quote(photo.name),
                    "product": photo.product,
                    "verdict": photo.verdict,
                    "pred_score": photo.pred_score,
                },
                "predictions": [{"model_version": "unias", "score": photo.pred_score, "result": results}],
            }
        )
    write_json(folder / FILE, tasks, indent=None)
    write_text(folder / SETUP_FILE, setup(label))


def setup(label: str) -> str:
    """The labelling setup that the tasks' results belong to."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=IMAGE, value="$image", zoom="true", zoomControl="true")
    brush = ElementTree.SubElement(view, "BrushLabels", name=BRUSH, toName=IMAGE)
    ElementTree.SubElement(brush, "Label", value=label, background="#ff283c")
    choices = ElementTree.SubElement(view, "Choices", name=VERDICT, toName=IMAGE, choice="single")
    for verdict in VERDICTS:
        ElementTree.SubElement(choices, "Choice", value=verdict)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _stroke(common: dict[str, Any], region: Marked, size: tuple[int, int], number: int, label: str) -> dict[str, Any]:
    return {
        **common,
        "id": f"region-{number}",
        "from_name": BRUSH,
        "type": "brushlabels",
        "origin": "prediction",
        "score": region.score,
        "value": {"format": "rle", "rle": encode(region.mask(size)), "brushlabels": [label]},
    }


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (h, w) as the bytes of Label Studio's run-length code."""
    flat = mask.reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, len(flat))
    lengths = (CHANNELS * np.diff(ends, prepend=0)).tolist()
    values = np.where(flat[ends - 1], 255, 0).tolist()
    bits = [f"{CHANNELS * len(flat):032b}{WORD - 1:05b}", *(f"{width - 1:04b}" for width in WIDTHS)]
    for length, value in zip(lengths, values, strict=True):
        left = length
        while left:
            part = min(left, 1 << WIDTHS[-1])
            place = next(place for place, width in enumerate(WIDTHS) if part <= 1 << width)
            bits.append(f"1{place:02b}{part - 1:0{WIDTHS[place]}b}{value:0{WORD}b}")
            left -= part
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def decode(code: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (h, w) back from the bytes: True where alpha is above 0. Raises ValueError where they are not a whole mask."""
    stream = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def read(width: int) -> int:
        nonlocal place
        if place + width > len(stream):
            raise ValueError("the run-length code ends too early")
        place += width
        return int(stream[place - width : place], 2)

    count, word = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    if count != CHANNELS * size[0] * size[1]:
        raise ValueError(f"the run-length code holds {count} values, not those of {size[1]} x {size[0]} pixels")
    values = np.zeros(count, dtype=np.uint32)
    done = 0
    while done < count:
        repeated = read(1)
        length = read(widths[read(2)]) + 1
        if done + length > count:
            raise ValueError("a run is longer than the mask")
        values[done : done + length] = read(word) if repeated else [read(word) for _ in range(length)]
        done += length
    alpha: NDArray[np.bool_] = values.reshape(*size, CHANNELS)[..., -1] > 0
    return alpha
