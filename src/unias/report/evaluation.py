"""The protocol run on a model and a folder: metrics.json, table.md, table.csv, index.html (``unias evaluate``).

Photos are judged as in use: the product is found by the model, never told. Memory is flat: the maps of one class at a time
are kept, beyond 64 MiB in a temporary file in the output folder, and pictures are made for one product at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
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
from unias.evaluation.promises import mixed_figures, promise_figures, promise_rows, promises_markdown
from unias.evaluation.protocol import mean_metrics, metrics_document
from unias.evaluation.spool import MEMORY
from unias.evaluation.streaming import ClassFigures, ClassStream
from unias.files import claimed_folder, write_json, write_text
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.progress import Progress
from unias.report.failures import Failure, Trace, failures, traced
from unias.report.page import Case, Pick, ProductReport, Report, select_cases, write_report
from unias.report.tables import to_csv, to_markdown
from unias.runtime import stamp

CURVE_POINTS = 1000


@dataclass
class Clock:
    """How long photos took from file to map."""

    seconds: float = 0.0
    photos: int = 0

    def timed(self, results: Iterator[Result]) -> Iterator[Result]:
        """The same results; only the time to make them counts, not what is done with them."""
        while True:
            began = time.monotonic()
            result = next(results, None)
            self.seconds += time.monotonic() - began
            if result is None:
                return
            self.photos += 1
            yield result


@dataclass(frozen=True)
class Cases:
    """The photos to show of one product, predicted when they are gone through, so that no picture waits in memory."""

    model: Model
    samples: Sequence[Sample]
    picks: Sequence[Pick]
    masked: bool
    dice: Sequence[float] | None

    def __iter__(self) -> Iterator[Case]:
        results = self.model.predict([sample.path for sample in self.samples], levels=True, image=True)
        for place, (pick, sample, result) in enumerate(zip(self.picks, self.samples, results, strict=True)):
            mask = _mask(sample, result.size, result.model_map.shape) if self.masked else None
            yield Case(
                key=sample.key,
                defect=sample.defect,
                image=result.image,
                anomaly_map=result.model_map,
                mask=mask,
                pred_mask=result.model_mask,
                ok=result.ok,
                verdict=result.verdict,
                pred_score=result.pred_score,
                level_maps=result.level_maps,
                note=pick.note,
                dice=None if self.dice is None else self.dice[place],
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
    known = {product.name: product.cut for product in model.products}
    folded = {product.name for product in model.products if product.folded}
    classes: dict[str, dict[str, float]] = {}
    figures: dict[str, dict[str, dict[str, float]]] = {name: {} for name in parts}
    products: list[ProductReport] = []
    recognised: dict[str, float] = {}
    unknown: dict[str, float] = {}
    kept: dict[str, dict[str, Any]] = {}
    ranking: dict[str, str] = {}
    failed: dict[str, list[dict[str, Any]]] = {}
    clock = Clock()
    for name in dataset.products:
        samples = dataset.test(name)
        if not samples:
            continue
        if name not in known:
            progress.say(f"warning: the model was not trained on {name}: it has no cut of its own.")
        cut = known[name].value if name in known else None
        with ClassStream(cut, home, _enlarged) as stream:
            traces: list[Trace] = []
            recognised[name], unknown[name] = predict_class(model, dataset, name, size, stream, progress, clock, traces)
            found = stream.figures(curve=CURVE_POINTS if page else 0)
            classes[name], ranking[name] = found.values, found.ranking
            for part, keys in parts.items():
                chosen = np.array([sample.key in keys for sample in samples])
                if chosen.any():
                    figures[part][name] = stream.figures(chosen).values
            limit = stream.cut if stream.cut is not None else float("nan")
            worst = failures(stream.is_defect, stream.image_scores, limit, traces, stream.failed)
            failed[name] = [{"photo": samples[one.place].key, "why": one.why, "badness": one.badness} for one in worst]
            if name in known:
                kept[name] = promise_figures(
                    known[name], stream.is_defect, stream.failed, stream.image_scores, name in folded
                )
            if page:
                masked = dataset.has_masks(name)
                products.append(_product_report(model, name, samples, stream, found, masked, worst))
    info = (
        _info(model, dataset, recognised, ranking)
        | {"product_unknown": unknown}
        | {"seconds_an_image": clock.seconds / max(1, clock.photos)}
    )
    shown = f"{model.config.input_size} x {model.config.input_size}" if size == "model" else "original"
    document = metrics_document(classes, shown, info, figures or None) | {"failures": failed}
    mixed = mixed_figures(kept)
    document["calibration"] = {"products": kept, "mixed": mixed}
    marks = _stamp_lines(info)
    write_json(home / "metrics.json", document)
    told = f"\n## False alarms and misses\n\n{promises_markdown(kept, mixed)}" if kept else ""
    write_text(home / "table.md", _tables(classes, figures, marks) + told)
    write_text(home / "table.csv", to_csv(classes, document["mean"], marks))
    if page:
        notes = [f"Figures of the photos in subset {part!r} are in metrics.json and table.md." for part in figures]
        write_report(
            home,
            Report(
                f"{dataset.root.name}: one model, {len(classes)} products",
                products,
                document["mean"],
                marks,
                notes,
                promise_rows(kept, mixed) if kept else (),
            ),
        )
    return document


def predict_class(
    model: Model,
    dataset: Dataset,
    name: str,
    size: str,
    stream: ClassStream,
    progress: Progress,
    clock: Clock | None = None,
    traces: list[Trace] | None = None,
) -> tuple[float, float]:
    """Put map, mask, score and verdict of every test photo of a class into ``stream``; gives back which share of them was
    recognised, and which was taken for no known product.

    Photos of several original sizes keep each its own. Maps are kept at the model's size and enlarged when they are read.
    """
    samples = dataset.test(name)
    side = model.config.input_size
    masked = dataset.has_masks(name)
    recognised = unknown = vanished = 0
    need = 4 * side * side * len(samples)
    if need > MEMORY:
        progress.say(f"{name}: {need / 1e9:.1f} GB of maps lie in a temporary file in the output folder for the while.")
    with progress.stage(f"evaluating {name}", len(samples)) as advance:
        results = model.predict([sample.path for sample in samples])
        timed = results if clock is None else clock.timed(results)
        for sample, result in zip(samples, timed, strict=True):
            mask = None
            if masked:
                mask = _mask(sample, result.size, (side, side) if size == "model" else result.size)
                if sample.mask is not None and not sample.is_good and not mask.any():
                    if _mask(sample, result.size, result.size).any():  # too small, not empty
                        vanished += 1
                    else:
                        progress.say(f"warning: {sample.mask}: the mask of a defect photo is empty.")
            stream.add(
                result.model_map[None],
                None if mask is None else mask[None],
                np.array([not sample.is_good]),
                np.array([result.raw_score]),
                np.array([not result.ok]),
                None if mask is None else (result.model_mask if size == "model" else result.pred_mask)[None],
            )
            if traces is not None:
                same = mask is None or mask.shape == result.model_map.shape
                small = mask if same else _mask(sample, result.size, result.model_map.shape)
                traces.append(traced(result.model_map, small))
            recognised += result.product == name
            unknown += not result.product_known
            advance()
    if vanished:
        progress.say(
            f"warning: {name}: the marked defects of {vanished} photos are too small to be seen at {side} pixels: these photos "
            "are in no Dice of defective photos. --size original counts them."
        )
    return recognised / len(samples), unknown / len(samples)


def _mask(sample: Sample, photo: tuple[int, int], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The truth of a photo of h x w at ``size``: empty where there is no mask."""
    shape = (size[0], size[1])
    if sample.mask is None:
        return np.zeros(shape, dtype=bool)
    return resize_mask(load_mask(sample.mask, photo), shape)


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
    model: Model,
    name: str,
    samples: list[Sample],
    stream: ClassStream,
    found: ClassFigures,
    masked: bool,
    worst: Sequence[Failure],
) -> ProductReport:
    limit = stream.cut if stream.cut is not None else float("nan")
    is_defect, scores, dice = stream.is_defect, stream.image_scores, stream.dice_at_cut

    def cases(picks: Sequence[Pick]) -> Cases:
        shown = None if dice is None else [float(dice[pick.index]) for pick in picks]
        return Cases(model, [samples[pick.index] for pick in picks], picks, masked, shown)

    return ProductReport(
        name,
        found.values,
        cases(select_cases(is_defect, scores, stream.failed, dice)),
        scores[~is_defect],
        scores[is_defect],
        limit,
        found.curve,
        (0.0, 2 * stream.cut if stream.cut is not None else stream.quantile(0.999)),
        cases([Pick(one.place, one.why) for one in worst]),
    )


def _info(model: Model, dataset: Dataset, recognised: dict[str, float], ranking: dict[str, str]) -> dict[str, Any]:
    return {
        "data": dataset.root.name,
        "product_recognised": recognised,
        "ranking": ranking,
        "model": {key: value for key, value in model.record.items() if key != "versions"},
        "config": to_dict(model.config),
        "evaluated_by": stamp(model.detector.device),
    }


def _stamp_lines(info: Mapping[str, Any]) -> dict[str, str]:
    """What stands under every table."""
    model, config = info["model"], info["config"]
    lines = {
        "commit": model.get("commit", "unknown"),
        **({"system": config["system"]} if config["system"] != "unias" else {}),
        "preset": config["preset"],
        **{key: str(value) for key, value in config["settings"].items() if value != ""},
        "backbone": config["backbone"]["name"],
        "input": f"{config['size']} x {config['size']}",
        "data": info["data"],
    }
    for key in ("textures", "seed", "steps", "minutes", "threads", "machine"):
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
