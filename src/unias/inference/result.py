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
from unias.data.decode import read_photo, to_display
from unias.errors import DataError
from unias.files import write_json, writing, writing_folder
from unias.inference import pictures
from unias.maps.outlines import Outline, outer_outline
from unias.maps.regions import label_regions

LONGEST_SIDE = 1600  # of a heat map, in pixels; masks keep the photo's own size


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
        name: what the photo is called: its path, or such as clip.mp4#000123 for a frame; "" for pixels without a name.
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
        image: uint8, H x W x 3, the photo as the model saw it; of a photo with a path None unless asked for.
        bits: real depth of photos kept in 16-bit files, for reading the photo again; None = the full range.
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
    name: str = ""
    bits: int | None = None

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

    def photo(self) -> NDArray[np.uint8] | None:
        """The photo for people: uint8, h x w x 3 where its file can still be read, else as the model saw it (H x W x 3), or
        None where that was not kept."""
        if self.path is not None:
            try:
                return to_display(read_photo(self.path, self.bits))
            except DataError:
                pass
        return self.image

    def heatmap(self, longest: int | None = LONGEST_SIDE, photo: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The map in colour over the photo, uint8 x 3 in the photo's proportions: dark blue normal, dark red twice the cut.

        longest: edge in pixels at most; None = the photo's own size. photo: in place of ``photo()``.
        """
        shown = self._shown(longest, photo)
        return pictures.overlay(shown, pictures.resized_map(self.model_map, shown.shape[:2]), 2 * self.cut)

    def plot(self, side: int | None = 512) -> Image.Image:
        """Photo, map over the photo, and the photo with what is marked outlined in red, side by side.

        side: longest edge of each of the three in pixels; None = the photo's own size. A photo that is gone is a pale panel.
        """
        photo = self._shown(side, None, enlarge=True)
        values = pictures.resized_map(self.model_map, photo.shape[:2])
        mask = self.pred_mask
        if mask.shape != photo.shape[:2]:
            mask = pictures.fit_mask(mask, max(photo.shape[:2]))
        panels = [photo, pictures.overlay(photo, values, 2 * self.cut), pictures.contour(photo, mask)]
        return Image.fromarray(pictures.strip(panels))

    def save(self, target: Path | str) -> Path:
        """Write what the photo gave, whole or not at all.

        target: a folder to make, which gets heatmap.png, mask.png (0 and 255, the photo's own size) and result.json; or a file:
        .png or .jpg for ``plot()``, .json for ``to_dict()`` alone. A file of that name is replaced, a folder is not.

        Returns where it is. Raises DataError where a folder exists already or the operating system refuses.
        """
        place = Path(target)
        kind = place.suffix.lower()
        if kind == ".json":
            write_json(place, self.to_dict())
        elif kind in (".png", ".jpg", ".jpeg"):
            with writing(place) as temporary:
                self.plot().save(temporary, "PNG" if kind == ".png" else "JPEG")
        else:
            with writing_folder(place) as temporary:
                Image.fromarray(self.heatmap()).save(temporary / "heatmap.png")
                Image.fromarray(self.pred_mask.astype(np.uint8) * 255).save(temporary / "mask.png")
                write_json(temporary / "result.json", self.to_dict())
        return place

    def _shown(self, longest: int | None, photo: NDArray[np.uint8] | None, enlarge: bool = False) -> NDArray[np.uint8]:
        """The photo in its own proportions, ``longest`` pixels at most, or exactly where it may be enlarged."""
        side = max(self.size) if longest is None else longest if enlarge else min(longest, max(self.size))
        size = pictures.fitted(self.size, side)
        found = self.photo() if photo is None else photo
        return pictures.blank(*size) if found is None else pictures.resized(found, size)

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, in plain types for JSON."""
        return {
            "path": str(self.path) if self.path is not None else self.name or None,
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
