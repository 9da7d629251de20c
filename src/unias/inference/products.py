"""What a model knows of one product beside its statistics: the cut, what the cut rests on, what is marked and what ignored.

Axes: S x S the model's input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unias.calibration.cuts import Cut
from unias.calibration.ranks import Promise


@dataclass(frozen=True)
class ProductInfo:
    """One product of a model.

    Attributes:
        name: as people call it.
        cut: a photo whose score is above it fails.
        train, held_out: keys of its photos (path below the data folder).
        held_out_scores: of the held-out photos, in their order; what the cut and p-values are ranks among.
        lower: the lower cut, that marked regions are grown down to; infinite = no further than the cut.
        min_area: pixels of the model's map that a region must have to count.
        ignore: (S, S), True where nothing counts; None = nowhere.
        blurred: share of its fused map that is blurred once more (``maps.fusion``), 0 to 1: its defects are large.
        missed_scores: of defective photos that passed once: the cut is kept below them, where good photos allow it.
    """

    name: str
    cut: Cut
    train: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    held_out_scores: tuple[float, ...] = ()
    lower: float = math.inf
    min_area: int = 1
    ignore: NDArray[np.bool_] | None = field(default=None, compare=False)
    missed_scores: tuple[float, ...] = ()
    blurred: float = 0.0

    @property
    def folded(self) -> bool:
        """Whether its cut rests on scores of other models (``--folds``): this one learned from the held-out photos."""
        return not set(self.held_out).isdisjoint(self.train)

    def promised(self) -> str:
        """What the cut promises, for people."""
        text = self.cut.describe()
        if self.folded:
            text += "; from folds: on average at most about twice that rate"
        return text

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the ignore-zone is kept apart."""
        content = dataclasses.asdict(dataclasses.replace(self, ignore=None))
        content.pop("ignore")
        return {**content, "lower": self.lower if math.isfinite(self.lower) else None}


def product_from_dict(entry: dict[str, Any], zone: NDArray[np.bool_] | None = None) -> ProductInfo:
    """Raises KeyError, TypeError or ValueError where the entry is of another form."""
    cut = entry["cut"]
    return ProductInfo(
        name=str(entry["name"]),
        cut=Cut(float(cut["value"]), Promise(**cut["promise"]), bool(cut["provisional"])),
        train=tuple(entry["train"]),
        held_out=tuple(entry["held_out"]),
        held_out_scores=tuple(entry["held_out_scores"]),
        lower=math.inf if entry["lower"] is None else float(entry["lower"]),
        min_area=int(entry["min_area"]),
        ignore=zone,
        missed_scores=tuple(entry["missed_scores"]),
        blurred=float(entry.get("blurred", 0.0)),
    )


def zones(products: Sequence[ProductInfo]) -> dict[str, Tensor]:
    """{product's place: its ignore-zone (S, S) uint8}, for safetensors; empty where none ignores anything."""
    return {
        str(place): torch.from_numpy(np.ascontiguousarray(product.ignore, dtype=np.uint8))
        for place, product in enumerate(products)
        if product.ignore is not None
    }
