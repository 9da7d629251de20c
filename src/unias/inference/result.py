"""What one photo gives: the verdict, the score, the map, the mask and its regions.

Names follow the field (anomalib's vocabulary): anomaly_map, pred_score, pred_mask.
Shapes: H x W is the model's input size; h x w the photo's own size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.calibration.verdict import enlarge_mask
from unias.maps.outlines import Outline, outer_outline
from unias.maps.regions import label_regions


@dataclass(frozen=True)
class Region:
    """One marked region, in the photo's own pixels.

    Attributes:
        box: (x, y, width, height).
        area: pixels.
        score: the map's highest value in it, on the scale of ``pred_score``.
        contour: (n, 2) x, y of its outer outline, closed: the last point is not the first again.
    """

    box: tuple[float, float, float, float]
    area: float
    score: float
    contour: Outline

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "box": [round(value, 2) for value in self.box],
            "area": round(self.area, 1),
            "score": self.score,
            "contour": [[round(float(x), 2), round(float(y), 2)] for x, y in self.contour],
        }


@dataclass(frozen=True)
class Result:
    """One photo's answer.

    Attributes:
        path: the photo's path, or None for pixels that came without one.
        product: the product it was judged as (given by the caller, or inferred); None where it is none that the model knows.
        nearest: the product whose scale and cut were used: ``product``, or the nearest one where that is None.
        ok: True where the product is known and ``raw_score`` is not above its cut.
        raw_score: what the photo is judged by, any non-negative number (``calibration.verdict``; systems beside UniAS have
            scores of their own).
        pred_score: the same on the product's scale, in [0, 1); 0.5 = the cut.
        p_value: share of good photos as unusual as this one, at most, by the product's held-out photos (``calibration.ranks``);
            None without held-out photos, or of an unknown product.
        cut: the product's cut, on the scale of ``raw_score``.
        size: the photo's own (h, w) after EXIF rotation.
        model_map: float32, H x W, higher is more anomalous.
        model_mask: bool, H x W; empty where ``ok``, and there alone, but for photos of an unknown product.
        level_maps: {level: float32 H x W}, 4 = coarsest, 1 = finest; empty unless asked for.
        image: uint8, H x W x 3, the photo as the model saw it; None unless asked for.
        timings: seconds: "decode" of this photo, "model" and "verdict" a photo of its batch.
    """

    path: Path | None
    product: str | None
    nearest: str
    ok: bool
    raw_score: float
    pred_score: float
    p_value: float | None
    cut: float
    size: tuple[int, int]
    model_map: NDArray[np.float32]
    model_mask: NDArray[np.bool_]
    level_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def product_known(self) -> bool:
        """Whether it is a product that the model knows."""
        return self.product is not None

    @property
    def verdict(self) -> str:
        """ "ok", "defect" or "unknown product"."""
        return "unknown product" if self.product is None else "ok" if self.ok else "defect"

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """``model_map`` at the photo's own size: float32, h x w, bilinear. Computed at each call."""
        if self.size == self.model_map.shape:
            return self.model_map
        height, width = self.size
        return np.asarray(Image.fromarray(self.model_map).resize((width, height), Image.Resampling.BILINEAR))

    @property
    def pred_mask(self) -> NDArray[np.bool_]:
        """``model_mask`` at the photo's own size: bool, h x w, nearest neighbour, never empty where that is not."""
        return self.model_mask if self.size == self.model_mask.shape else enlarge_mask(self.model_mask, self.size)

    @property
    def regions(self) -> list[Region]:
        """What is marked, the highest score first. Computed at each call."""
        labels = label_regions(self.model_mask)
        down, across = (own / model for own, model in zip(self.size, labels.shape, strict=True))
        found = []
        for number in range(1, int(labels.max()) + 1):
            inside = labels == number
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            top, left = rows[0], columns[0]
            box = (left * across, top * down, (columns[-1] + 1 - left) * across, (rows[-1] + 1 - top) * down)
            outline = outer_outline(inside) * np.array([across, down])
            highest = float(self.model_map[inside].max())
            found.append(
                Region(
                    (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                    float(inside.sum() * down * across),
                    pred_score(highest, self.cut),
                    outline,
                )
            )
        return sorted(found, key=lambda region: (-region.score, region.box))

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, in plain types for JSON."""
        return {
            "path": None if self.path is None else str(self.path),
            "verdict": self.verdict,
            "ok": self.ok,
            "product": self.product,
            "product_known": self.product_known,
            "nearest": self.nearest,
            "pred_score": self.pred_score,
            "p_value": self.p_value,
            "raw_score": self.raw_score,
            "cut": self.cut,
            "size": list(self.size),
            "defect_area": float(self.model_mask.mean()),
            "regions": [region.to_dict() for region in self.regions],
            "timings": {name: round(seconds, 6) for name, seconds in self.timings.items()},
        }


def pred_score(raw_score: float, cut: float) -> float:
    """Put a raw score on a scale from 0 to 1 where 0.5 is the cut: s / (s + cut); monotonic in s >= 0."""
    if raw_score <= 0:
        return 0.0
    if cut <= 0:
        return 1.0
    score = raw_score / (raw_score + cut)
    return max(score, math.nextafter(0.5, 1)) if raw_score > cut else score
