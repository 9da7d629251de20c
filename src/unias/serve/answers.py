"""A Result as JSON, with its mask and map in the forms that programs ask for.

Axes: h, w the photo's own rows and columns, H, W the model's.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.calibration.drift import Drift
from unias.files import json_ready
from unias.inference.products import ProductInfo
from unias.inference.result import Result

MaskForm = Literal["png", "rle", "polygon", "none"]
MapForm = Literal["png", "none"]
DEEPEST = 65535  # of a 16-bit PNG


def answer(result: Result, mask: MaskForm, anomaly_map: MapForm, number: str, model: dict[str, Any]) -> dict[str, Any]:
    """One photo's answer, in plain types."""
    content = result.to_dict()
    del content["path"]  # this machine's own affair
    polygons = [region["contour"] for region in content["regions"]]
    ready: dict[str, Any] = json_ready(
        {
            "id": number,
            "model": model,
            **content,
            "mask": mask_of(result, mask, polygons),
            "map": map_of(result.model_map) if anomaly_map == "png" else None,
        }
    )
    return ready


def mask_of(result: Result, form: MaskForm, polygons: Sequence[Any]) -> dict[str, Any] | None:
    """The mask at the photo's own size; None where none is wanted."""
    if form == "none":
        return None
    size = list(result.size)
    if form == "polygon":
        return {"format": "polygon", "size": size, "polygons": polygons}
    mask = result.pred_mask
    if form == "rle":
        return {"format": "rle", "size": size, "counts": run_lengths(mask)}
    return {"format": "png", "size": size, "data": text_of(png(mask))}


def map_of(values: NDArray[np.float32]) -> dict[str, Any]:
    """The map at the model's size as a 16-bit PNG: value = pixel x ``scale``, so within 1/131070 of its highest value."""
    highest = float(values.max())
    scale = highest / DEEPEST if highest > 0 else 1.0
    pixels = np.rint(values / np.float64(scale)).clip(0, DEEPEST).astype(np.uint16)
    return {"format": "png", "bits": 16, "size": list(values.shape), "scale": scale, "data": text_of(png(pixels))}


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed counts: runs of not marked, marked, not marked ... down the columns, the first may be 0."""
    flat = mask.reshape(-1, order="F")
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(np.concatenate([[0], borders, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def png(pixels: NDArray[Any]) -> bytes:
    """A PNG file of a mask (1 bit) or of uint16."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def text_of(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")


def product_of(info: ProductInfo, drift: Drift) -> dict[str, Any]:
    """What a model knows of one product, for people and line controllers."""
    promise = info.cut.promise
    return {
        "name": info.name,
        "cut": info.cut.value,
        "provisional": info.cut.provisional,
        "promise": {
            "false_alarm_rate": promise.rate,
            "at_most": promise.bound,
            "wished": promise.wished,
            "held_out": promise.held_out,
            "rank": promise.rank,
            "missing": promise.missing,
            "text": info.cut.describe(),
        },
        "training_photos": len(info.train),
        "held_out_photos": len(info.held_out),
        "min_area": info.min_area,
        "ignored_share": 0.0 if info.ignore is None else float(info.ignore.mean()),
        "drift": {
            "drifted": drift.drifted,
            "chance": drift.chance,
            "parts": drift.parts,
            "held_out": drift.held_out,
            "text": drift.describe(),
        },
    }


def as_json(value: Any) -> bytes:
    """Pure ASCII, so that any name can be sent."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
