"""What one photo gives: the verdict, the score, the map and the mask.

Names follow the field (anomalib's vocabulary): anomaly_map, pred_score, pred_mask.
Shapes: H x W is the model's input size; h x w the photo's own size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Result:
    """One photo's answer.

    Attributes:
        path: the photo's path, or None for pixels that came without one.
        product: the product it was judged as (given by the caller, or the nearest class mean of pooled features).
        raw_score: highest value of ``anomaly_map`` (spec section 8), any non-negative number. Systems beside UniAS have scores
            of their own.
        pred_score: the same on the product's scale, in [0, 1); 0.5 = the cut.
        ok: True where ``raw_score`` is not above the product's cut.
        cut: the product's cut, on the scale of ``raw_score``.
        anomaly_map: float32, H x W, higher is more anomalous.
        pred_mask: bool, H x W; empty where ``ok``, and there alone where the score is the map's highest value.
        size: the photo's own (height, width) after EXIF rotation.
        level_maps: {level: float32 H x W}, 4 = coarsest, 1 = finest; empty unless asked for.
        image: uint8, H x W x 3, the photo as the model saw it; None unless asked for.
    """

    path: Path | None
    product: str
    raw_score: float
    pred_score: float
    ok: bool
    cut: float
    anomaly_map: NDArray[np.float32]
    pred_mask: NDArray[np.bool_]
    size: tuple[int, int]
    level_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None

    def full_mask(self) -> NDArray[np.bool_]:
        """``pred_mask`` at the photo's own size (h x w), nearest neighbour, so it is empty exactly where ok."""
        height, width = self.size
        mask = Image.fromarray(self.pred_mask.astype(np.uint8) * 255)
        resized = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)) > 0
        if self.pred_mask.any() and not resized.any():  # a photo smaller than the model's input may skip the pixel
            rows, columns = np.nonzero(self.pred_mask)
            row, column = (
                int(rows[0]) * height // len(self.pred_mask),
                int(columns[0]) * width // self.pred_mask.shape[1],
            )
            resized = resized.copy()
            resized[row, column] = True
        return resized


def pred_score(raw_score: float, cut: float) -> float:
    """Put a raw score on a scale from 0 to 1 where 0.5 is the cut: s / (s + cut); monotonic in s >= 0."""
    if raw_score <= 0:
        return 0.0
    if cut <= 0:
        return 1.0
    score = raw_score / (raw_score + cut)
    return max(score, math.nextafter(0.5, 1)) if raw_score > cut else score
