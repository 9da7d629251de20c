"""8 bits where they do not hurt: the OpenVINO graph quantised by NNCF, calibrated on good training photos alone.

    training photos, some set aside -> ranges
    those set aside -> every layer alone in 8 bits, on them and with drawn defects -> layers that may, layers that stay in float
    held-out photos -> cuts             by the 8-bit graph (``cuts``); then the comparison with the trained model

No labels, no test photos. Each product's statistics stay those of the trained model: measured again with the 8-bit graph they
gain nothing, and rounding noise hides how little alike some products' parts are, which cost printed boards half of their
precision (docs/LOG.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.calibration.cuts import lower_cut
from unias.data.layouts import Sample
from unias.errors import ExportError
from unias.export import layers as parts
from unias.export.cuts import Moved, median_ratio, moved, require_same
from unias.export.graph import quiet
from unias.export.layers import Layer
from unias.export.openvino import to_openvino
from unias.export.photos import Photos, held_out_photos, read_inputs, set_aside, spread, training_photos, with_defects
from unias.export.verify import Difference, compare, drawn_precision, maps_of
from unias.inference.engines import ExportedDetector, ExportInfo, compile_openvino, output_names, to_pixels
from unias.inference.predictor import score_of
from unias.inference.products import ProductInfo
from unias.inference.store import StoredModel
from unias.maps.detector import Detector
from unias.progress import Progress

CALIBRATION = 120  # training photos that ranges are read off
MEASURED = 20  # training photos set aside, and as many with a defect, that layers are measured on
COMPARED = 24  # held-out photos, and as many with a defect, that the result is compared on
STATISTICS = 60  # training photos a product, at most, that its lower cut is measured on (as in training)
SAME = 8  # held-out photos a product, at most, that are looked at for being what they were
RATIO = 20  # training photos a product, at most, that tell how scores move where held-out photos do not
FEW = 5  # held-out photos at hand below which training photos tell it too
BATCH = 8  # photos, or views of them
PRECISION_LIMIT = 0.5  # points of pixel average precision on drawn defects that 8 bits may cost
MEAN_LIMIT = 0.15  # mean difference of the maps over their mean


@dataclass(frozen=True)
class Quantised:
    """What came of it."""

    model: Any
    products: tuple[ProductInfo, ...]
    report: dict[str, Any]
    difference: Difference


class Quantizer:
    """One model on its way to 8 bits."""

    def __init__(self, stored: StoredModel, pixels: str, data: Path, progress: Progress) -> None:
        assert isinstance(stored.detector, Detector)
        self.stored = stored
        self.original = stored.detector
        self.info = ExportInfo("openvino", pixels, stored.detector.unias.levels)
        self.progress = progress
        self.at_once = max(1, BATCH // stored.detector.tiling.views)
        self.training = training_photos(data, stored.products)
        self.held_out = held_out_photos(data, stored.products)
        self.rest, aside = set_aside(self.training, MEASURED)
        self.aside = [group for group in aside if group]
        self.measured = spread(self.aside or self.training, MEASURED)
        self.source = data.name

    def run(self) -> Quantised:
        """Raises ExportError where even the layers that bear it best cost more than is allowed, DataError where a held-out photo
        is another than it was."""
        self._require_same()
        calibration = self._calibration()
        model = to_openvino(self.original, self.info.pixels)
        chosen, measured = self._choose(model, calibration)
        quantised = self._quantise(model, calibration, chosen)
        detector = self._detector(quantised)
        cuts = self._cuts(detector)
        self.progress.say("comparing it with the trained model on held-out photos")
        held = with_defects(
            spread([held or own for held, own in zip(self.held_out, self.training, strict=True)], COMPARED),
            self.stored.products,
            self.stored.config,
            f"{'held-out' if all(self.held_out) else 'held-out or, where none is there, training'} photos of {self.source}, each "
            "also with a defect drawn in",
        )
        difference = compare(self.original, detector, held)
        require_close(difference)
        report = self._report(chosen, measured, len(calibration), cuts)
        return Quantised(quantised, tuple(cut.product for cut in cuts), report, difference)

    # --- which layers -------------------------------------------------------------------------------------

    def _calibration(self) -> list[dict[str, NDArray[Any]]]:
        return [
            {"pixels": self._pixels(read_inputs([sample], self.stored.config)), "product": np.array([-1])}
            for sample in spread(self.rest, CALIBRATION)
        ]

    def _pixels(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return to_pixels(torch.from_numpy(images), self.info.pixels)

    def _choose(self, model: Any, calibration: Sequence[Any]) -> tuple[list[str], list[Layer]]:
        """Layers by what they cost for the time that they take; as many of them as stay within half of what is allowed."""
        names = list(parts.weighted_layers(model))
        self.progress.say(f"calibrating {len(names)} layers on {len(calibration)} good training photos")
        if not self.aside:
            self.progress.say(
                "warning: no product has 3 training photos, so layers are measured on those that they are calibrated on"
            )
        with quiet():
            fake = parts.with_fake_quantisers(model, calibration, names)
        photos = with_defects(self.measured, self.stored.products, self.stored.config, "training photos")
        whole = self._maps(model, photos)
        times = parts.float_times(model, self._pixels(photos.images[: self.at_once]))
        measured = []
        with self.progress.stage("layers in 8 bits, one by one", len(names)) as advance:
            for name in names:
                error, lost = self._cost(parts.only(fake, [name]), photos, whole)
                measured.append(Layer(name, times.get(name, 0.0), error, lost))
                advance(note=name)
        ranked = sorted(measured, key=lambda layer: layer.error / max(layer.milliseconds, 1e-3))
        few, many = 0, len(ranked)
        while few < many:  # the largest number that is allowed
            middle = (few + many + 1) // 2
            error, lost = self._cost(parts.only(fake, [layer.name for layer in ranked[:middle]]), photos, whole)
            if error <= MEAN_LIMIT / 2 and lost <= PRECISION_LIMIT / 2:
                few = middle
            else:
                many = middle - 1
        return [layer.name for layer in ranked[:few]], measured

    def _maps(self, model: Any, photos: Photos) -> NDArray[Any]:
        return maps_of(self._detector(model), photos, known=True, views=self.original.tiling.views)[0]

    def _cost(self, model: Any, photos: Photos, whole: NDArray[Any]) -> tuple[float, float]:
        """(mean difference over the mean, points of precision on drawn defects lost)."""
        maps = self._maps(model, photos)
        before, after = (drawn_precision(values, photos.masks, photos.product) for values in (whole, maps))
        return float(np.abs(maps - whole).mean() / whole.mean()), before - after

    def _quantise(self, model: Any, calibration: Sequence[Any], chosen: Sequence[str]) -> Any:
        self.progress.say(f"quantising {len(chosen)} layers")
        with quiet():
            return parts.quantise(model, calibration, chosen)

    def _detector(self, model: Any) -> ExportedDetector:
        return ExportedDetector(compile_openvino(model, output_names(self.info.levels)), self.info)

    # --- what good parts look like in 8 bits --------------------------------------------------------------

    @torch.inference_mode()
    def _cuts(self, detector: ExportedDetector) -> list[Moved]:
        """Cuts by the graph that will be used (``cuts.moved``), and lower cuts."""
        found = []
        for place, (product, samples) in enumerate(zip(self.stored.products, self.held_out, strict=True)):
            scores = self._scores(detector, place, samples, f"cut of {product.name}")
            at_hand = {sample.key: score for sample, score in zip(samples, scores, strict=True)}
            known = dict(zip(product.held_out, product.held_out_scores, strict=True))
            pairs = [(known[key], score) for key, score in at_hand.items()]
            if len(pairs) < FEW and (product.missed_scores or not pairs or len(pairs) < len(known)):
                some = spread([self.training[place]], RATIO)
                before = self._scores(self.original, place, some, f"{product.name} by the trained model")
                pairs += zip(before, self._scores(detector, place, some, f"{product.name} in 8 bits"), strict=True)
            cut = moved(product, at_hand, median_ratio(pairs))
            for line in cut.lines():
                self.progress.say(line)
            good = [
                detector(images, torch.full((len(images),), place)).anomaly_map.numpy()
                for _, images in self._batches(
                    spread([self.training[place]], STATISTICS), f"usual maps of {product.name}"
                )
            ]
            lower = lower_cut(np.concatenate(good), self.stored.config.calibration.lower_quantile)
            found.append(dataclasses.replace(cut, product=dataclasses.replace(cut.product, lower=lower)))
        return found

    def _require_same(self) -> None:
        """Held-out photos are looked at before the minutes that layers take."""
        for place, (product, samples) in enumerate(zip(self.stored.products, self.held_out, strict=True)):
            some = spread([samples], SAME)
            require_same(product, some, self._scores(self.original, place, some, f"held-out {product.name}"))

    @torch.inference_mode()
    def _scores(
        self, detector: Detector | ExportedDetector, place: int, samples: Sequence[Sample], name: str
    ) -> list[float]:
        """What a product's photos are judged by, in their order."""
        scores: list[float] = []
        for _, images in self._batches(samples, name) if samples else ():
            maps = detector(images, torch.full((len(images),), place))
            arrays = maps.anomaly_map.float().numpy()
            scores += [score_of(maps, row, one, self.stored.products[place]) for row, one in enumerate(arrays)]
        return scores

    def _batches(self, samples: Sequence[Sample], name: str) -> Iterator[tuple[Sequence[Sample], torch.Tensor]]:
        with self.progress.stage(name, len(samples)) as advance:
            for start in range(0, len(samples), self.at_once):
                some = samples[start : start + self.at_once]
                yield some, torch.from_numpy(read_inputs(some, self.stored.config))
                advance(len(some))

    def _report(
        self, chosen: Sequence[str], measured: Sequence[Layer], calibrated: int, cuts: Sequence[Moved]
    ) -> dict[str, Any]:
        return {
            "calibration_photos": calibrated,
            "measured_photos": 2 * len(self.measured),
            "moved": [line for cut in cuts for line in cut.lines()],
            "int8": [dataclasses.asdict(layer) for layer in measured if layer.name in chosen],
            "float": [dataclasses.asdict(layer) for layer in measured if layer.name not in chosen],
        }


def require_close(difference: Difference) -> None:
    """Raise ExportError where 8 bits changed the maps by more than is allowed."""
    faults = []
    if not difference.mean <= MEAN_LIMIT:
        faults.append(f"maps differ by {difference.mean:.3f} of their mean, {MEAN_LIMIT:g} is allowed")
    if not difference.precision_lost <= PRECISION_LIMIT:
        faults.append(
            f"pixel average precision on drawn defects falls from {difference.precision[0]:.2f} to "
            f"{difference.precision[1]:.2f}, {PRECISION_LIMIT:g} points are allowed"
        )
    if difference.products:
        faults.append(f"{difference.products} of {difference.photos} photos are taken for another product")
    if faults:
        raise ExportError(f"--int8: {'; '.join(faults)}. The export was not kept; export without --int8.")


def describe(report: dict[str, Any]) -> list[str]:
    """The card's lines."""
    lines = [
        "## 8 bits",
        "",
        f"{len(report['int8'])} layers compute in 8 bits, calibrated on {report['calibration_photos']} good training photos. "
        "Cuts were measured again with the 8-bit graph.",
        "",
        *(f"- {line}" for line in report.get("moved", [])),
        *([""] if report.get("moved") else []),
    ]
    if report["float"]:
        lines += [
            f"{len(report['float'])} layers stay in float: alone in 8 bits, each changes maps by more than its time is worth "
            f"(mean difference over the maps' mean, on {report['measured_photos']} training photos, half of them with a drawn "
            "defect).",
            "",
            "| layer kept in float | ms a photo | maps change by | precision lost on drawn defects |",
            "| --- | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {layer['name']} | {layer['milliseconds']:.2f} | {layer['error']:.2%} | {layer['precision_lost']:+.2f} |"
            for layer in sorted(report["float"], key=lambda layer: -float(layer["error"]))
        ]
    return [
        *lines,
        "",
        "Norms, attention's own products, interpolation, fusion and statistics are always in float.",
        "",
    ]
