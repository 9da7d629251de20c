"""The protocol run on a model and a folder: metrics.json, table.md, table.csv, index.html (``unias evaluate``).

Photos are judged as in use: the product is found by the model, never told. Maps of one class at a time are in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from unias.config import to_dict
from unias.data.layouts import Dataset, Sample, require_test, scan
from unias.data.masks import load_mask, resize_mask
from unias.errors import DataError, UsageError
from unias.evaluation.metrics import PixelRanking, above, dice_per_sample
from unias.evaluation.protocol import evaluate_class, mean_metrics, metrics_document
from unias.files import claimed_folder, write_json, write_text
from unias.inference.predictor import Model
from unias.progress import Progress
from unias.report.page import Case, ProductReport, Report, select_cases, write_report
from unias.report.tables import to_csv, to_markdown
from unias.runtime import stamp

CURVE_POINTS = 1000


@dataclass(frozen=True)
class ClassData:
    """Everything predicted for one class, N photos of H x W."""

    samples: list[Sample]
    maps: NDArray[np.float32]
    masks: NDArray[np.bool_] | None
    scores: NDArray[np.float64]
    recognised: NDArray[np.bool_]
    valid: NDArray[np.bool_] | None = None  # where photos of several original sizes were padded: False

    @property
    def is_defect(self) -> NDArray[np.bool_]:
        return np.array([not sample.is_good for sample in self.samples])

    def rows(self, chosen: NDArray[np.bool_]) -> ClassData:
        """The photos where ``chosen``."""
        return ClassData(
            [s for s, take in zip(self.samples, chosen, strict=True) if take],
            self.maps[chosen],
            None if self.masks is None else self.masks[chosen],
            self.scores[chosen],
            self.recognised[chosen],
            None if self.valid is None else self.valid[chosen],
        )


def run_evaluation(
    model: Model,
    data: Path | str,
    output: Path | str,
    size: str = "model",
    subsets: Mapping[str, Sequence[str]] | None = None,
    page: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate, write, and give back what ``metrics.json`` holds.

    Args:
        size: "model" = maps and masks at the model's input size; "original" = at each photo's own size.
        subsets: {name: keys}: also the figures of the photos named (paths below ``data``), and of the "rest".
        page: write ``index.html`` with pictures.

    Raises:
        DataError: no test photos, unreadable ones, a subset that names a photo which is not there.
        UsageError: another ``size``.
    """
    if size not in ("model", "original"):
        raise UsageError(f"--size: {size!r} is neither model nor original.")
    progress = progress or Progress("silent")
    dataset = scan(data)
    require_test(dataset)
    for warning in dataset.warnings:
        progress.say(f"warning: {warning}")
    parts = _parts(dataset, subsets or {})
    with claimed_folder(output) as home:
        return _evaluate_into(home, model, dataset, size, parts, page, progress)


def _evaluate_into(
    home: Path,
    model: Model,
    dataset: Dataset,
    size: str,
    parts: Mapping[str, frozenset[str]],
    page: bool,
    progress: Progress,
) -> dict[str, Any]:
    cuts = {product.name: product.cut.value for product in model.products}
    classes: dict[str, dict[str, float]] = {}
    figures: dict[str, dict[str, dict[str, float]]] = {name: {} for name in parts}
    products: list[ProductReport] = []
    recognised: dict[str, float] = {}
    for name in dataset.products:
        if not dataset.test(name):
            continue
        if name not in cuts:
            progress.say(f"warning: the model was not trained on {name}: it has no cut of its own.")
        content = predict_class(model, dataset, name, size, progress)
        cut = cuts.get(name)
        classes[name] = evaluate_class(
            content.maps, content.masks, content.is_defect, content.scores, cut, content.valid
        )
        recognised[name] = float(content.recognised.mean())
        for part, keys in parts.items():
            chosen = np.array([sample.key in keys for sample in content.samples])
            if chosen.any():
                half = content.rows(chosen)
                figures[part][name] = evaluate_class(
                    half.maps, half.masks, half.is_defect, half.scores, cut, half.valid
                )
        if page:
            products.append(_product_report(model, name, content, classes[name], cut))
    info = _info(model, dataset, recognised)
    shown = f"{model.config.size} x {model.config.size}" if size == "model" else "original"
    document = metrics_document(classes, shown, info, figures or None)
    marks = _stamp_lines(info)
    write_json(home / "metrics.json", document)
    write_text(home / "table.md", _tables(classes, figures, marks))
    write_text(home / "table.csv", to_csv(classes, document["mean"], marks))
    if page:
        notes = [f"Figures of the photos in subset {part!r} are in metrics.json and table.md." for part in figures]
        write_report(
            home,
            Report(
                f"{dataset.root.name}: one model, {len(classes)} products", products, document["mean"], marks, notes
            ),
        )
    return document


def predict_class(model: Model, dataset: Dataset, name: str, size: str, progress: Progress) -> ClassData:
    """Maps, masks and scores of every test photo of a class; several original sizes are padded (``ClassData.valid``)."""
    samples = dataset.test(name)
    side = model.config.size
    has_masks = dataset.has_masks(name)
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    scores = np.zeros(len(samples))
    recognised = np.zeros(len(samples), dtype=bool)
    with progress.stage(f"evaluating {name}", len(samples)) as advance:
        results = model.predict([sample.path for sample in samples])
        for place, (sample, result) in enumerate(zip(samples, results, strict=True)):
            target = (side, side) if size == "model" else result.size
            maps.append(result.anomaly_map if size == "model" else _enlarged(result.anomaly_map, target))
            if has_masks:
                mask = load_mask(sample.mask, result.size) if sample.mask is not None else None
                if mask is not None and not mask.any() and not sample.is_good:
                    progress.say(f"warning: {sample.mask}: the mask of a defect photo is empty.")
                masks.append(np.zeros(target, dtype=bool) if mask is None else resize_mask(mask, target))
            scores[place] = result.raw_score
            recognised[place] = result.product == name
            advance()
    valid = None
    if len({one.shape for one in maps}) > 1:  # several original sizes: padded to one, the padding counts nowhere
        shape = tuple(np.max([one.shape for one in maps], axis=0))
        valid = np.stack([_padded(np.ones(one.shape, dtype=bool), shape, False) for one in maps])
        masks = [_padded(one, shape, False) for one in masks]
        maps = [_padded(one, shape, -np.inf) for one in maps]
    return ClassData(samples, np.stack(maps), np.stack(masks) if has_masks else None, scores, recognised, valid)


def _padded(array: NDArray[Any], shape: tuple[int, ...], value: float) -> NDArray[Any]:
    ends = [(0, whole - part) for whole, part in zip(shape, array.shape, strict=True)]
    return np.pad(array, ends, constant_values=value)


def _enlarged(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    values = torch.from_numpy(anomaly_map)[None, None]
    return F.interpolate(values, size=size, mode="bilinear", align_corners=True)[0, 0].numpy()


def _parts(dataset: Dataset, subsets: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """{name: keys}, and "rest" = test photos in none of them."""
    tests = {sample.key for sample in dataset.test()}
    parts: dict[str, frozenset[str]] = {}
    for name, keys in subsets.items():
        missing = sorted(set(keys) - tests)
        if missing:
            raise DataError(f"subset {name}: {missing[0]} is no test photo of {dataset.root}. Check the list.")
        parts[name] = frozenset(keys)
    if parts:
        parts["rest"] = frozenset(tests - set().union(*parts.values()))
    return parts


def _product_report(
    model: Model, name: str, content: ClassData, metrics: dict[str, float], cut: float | None
) -> ProductReport:
    limit = cut if cut is not None else float("nan")
    dice = None if content.masks is None else dice_per_sample(content.masks, above(content.maps, limit))
    picks = select_cases(content.is_defect, content.scores, limit, dice)
    chosen = [content.samples[pick.index] for pick in picks]
    results = model.predict([sample.path for sample in chosen], levels=True, image=True)
    cases = []
    for pick, sample, result in zip(picks, chosen, results, strict=True):
        mask = None
        if content.masks is not None:
            own = load_mask(sample.mask, result.size) if sample.mask is not None else None
            shape = result.anomaly_map.shape
            mask = np.zeros(shape, dtype=bool) if own is None else resize_mask(own, (shape[0], shape[1]))
        cases.append(
            Case(
                key=sample.key,
                defect=sample.defect,
                image=result.image,
                anomaly_map=result.anomaly_map,
                mask=mask,
                pred_mask=result.pred_mask,
                raw_score=result.raw_score,
                pred_score=result.pred_score,
                cut=result.cut,
                level_maps=result.level_maps,
                note=pick.note,
                dice=None if dice is None else float(dice[pick.index]),
            )
        )
    high = 2 * cut if cut is not None else float(np.quantile(content.maps, 0.999))
    return ProductReport(
        name,
        metrics,
        cases,
        content.scores[~content.is_defect],
        content.scores[content.is_defect],
        limit,
        _curve(content),
        (0.0, high),
    )


def _curve(content: ClassData) -> tuple[NDArray[Any], ...] | None:
    """Precision, recall and thresholds over all pixels, thinned."""
    if content.masks is None or not content.masks.any():
        return None
    masks, maps = content.masks, content.maps
    ranking = (
        PixelRanking(masks, maps) if content.valid is None else PixelRanking(masks[content.valid], maps[content.valid])
    )
    return ranking.curve(CURVE_POINTS)


def _info(model: Model, dataset: Dataset, recognised: dict[str, float]) -> dict[str, Any]:
    return {
        "data": dataset.root.name,
        "product_recognised": recognised,
        "model": {key: value for key, value in model.record.items() if key != "versions"},
        "config": to_dict(model.config),
        "evaluated_by": stamp(model.detector.device),
    }


def _stamp_lines(info: Mapping[str, Any]) -> dict[str, str]:
    """What stands under every table."""
    model, config = info["model"], info["config"]
    lines = {
        "commit": model.get("commit", "unknown"),
        "preset": config["preset"],
        "backbone": config["backbone"]["name"],
        "input": f"{config['size']} x {config['size']}",
        "data": info["data"],
    }
    for key in ("seed", "steps", "minutes", "threads", "machine"):
        if key in model:
            lines[key] = str(model[key])
    return lines


def _tables(
    classes: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, Mapping[str, Mapping[str, float]]],
    marks: Mapping[str, str],
) -> str:
    text = "## All test photos\n\n" + to_markdown(classes, mean_metrics(classes), marks if not figures else None)
    for place, (name, part) in enumerate(figures.items()):
        last = place == len(figures) - 1
        text += f"\n## Subset: {name}\n\n" + to_markdown(part, mean_metrics(part), marks if last else None)
    return text
