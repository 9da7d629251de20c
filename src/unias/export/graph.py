"""The one graph that every export holds: pixels in, maps out, by the trained detector itself.

Axes: N photos, S side of the model's input.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from unias.config import LEVELS
from unias.maps.detector import Detector
from unias.maps.statistics import pool
from unias.systems.base import Seen
from unias.systems.detector import SystemDetector

INPUTS = ("pixels", "product")


class PixelGraph(nn.Module):
    """pixels (N, S, S, 3), product (N,) int64 with -1 = not known -> (product_index (N,), anomaly_map (N, S, S),
    raw_score (N,), novelty (N,), one level map (N, S/2, S/2) a level, coarse to fine).

    raw_score is the map's highest value; of systems beside UniAS their own score, and they have no levels.

    Args:
        pixels: "uint8", or "float32" for values in [0, 1] where photos have more than 8 bits.
    """

    def __init__(self, detector: Detector | SystemDetector, pixels: str) -> None:
        super().__init__()
        self.detector = detector
        self.pixels = pixels

    def forward(self, pixels: Tensor, product: Tensor) -> tuple[Tensor, ...]:
        images = pixels.permute(0, 3, 1, 2)
        if self.pixels == "uint8":
            images = images.to(torch.float32) / 255
        if isinstance(self.detector, SystemDetector):
            return self._of_a_system(self.detector, images, product)
        features = self.detector.features(images)
        nearest, novelty = self.detector.statistics.recognise(self.detector.pooled(features))
        maps = self.detector.from_features(features, torch.where(product < 0, nearest, product))
        highest = maps.anomaly_map.amax(dim=(1, 2))
        return maps.product, maps.anomaly_map, highest, novelty, *maps.levels.values()

    @staticmethod
    def _of_a_system(detector: SystemDetector, images: Tensor, product: Tensor) -> tuple[Tensor, ...]:
        features = detector.backbone(images)
        nearest, novelty = detector.statistics.recognise(pool(features))
        maps = detector.judge(Seen(images, features, torch.where(product < 0, nearest, product)))
        return maps.product, maps.anomaly_map, maps.scores(), novelty


def levels_of(detector: Detector | SystemDetector) -> tuple[int, ...]:
    """The level maps that its graph gives, coarse to fine."""
    if isinstance(detector, SystemDetector):
        return ()
    return tuple(level for level in LEVELS if level in detector.unias.levels)


@overload
def inference_form(detector: Detector) -> Detector: ...
@overload
def inference_form(detector: SystemDetector) -> SystemDetector: ...
def inference_form(detector: Detector | SystemDetector) -> Detector | SystemDetector:
    """A copy on the processor in the form that is exported, exact to rounding: UniAS's linear stretches composed where the model
    offers that, systems without what graphs cannot hold."""
    copied = copy.deepcopy(detector).cpu().eval()
    if isinstance(copied, SystemDetector):
        copied.system.graph_form()
    else:
        fuse = getattr(copied.unias, "fuse", None)
        if fuse is not None:
            fuse()
    return copied.requires_grad_(False)


def capture(detector: Detector | SystemDetector, pixels: str) -> Any:
    """torch's ExportedProgram of the detector's inference form, for any number of photos."""
    kind = torch.uint8 if pixels == "uint8" else torch.float32
    example = torch.zeros((2, detector.size, detector.size, 3), dtype=kind), torch.full((2,), -1)
    count = torch.export.Dim("count", min=1)
    with quiet(), torch.no_grad():
        return torch.export.export(
            PixelGraph(inference_form(detector), pixels).eval(), example, dynamic_shapes=({0: count}, {0: count})
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress, logs or warnings of exporters: what matters is whether the result equals the original."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), silent[0], silent[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
