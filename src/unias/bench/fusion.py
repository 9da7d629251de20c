"""Do the fusions chosen without labels hold on real defects? Every rule of the list, on labelled photos, product by product.

Maps are compared at half the model's input, where they are made. Labels choose nothing that is kept: the best rule by labels is
only the yardstick of what a choice could have reached.

Legend: n photos of one product, h x h the size of level maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.bench.stamps import bench_stamp
from unias.data.decode import load_input
from unias.data.layouts import Dataset, Sample, require_test, scan
from unias.data.masks import load_mask, resize_mask
from unias.errors import DataError, UsageError
from unias.evaluation.metrics import PixelRanking
from unias.files import ensure_folder, read_lines, write_json, write_text
from unias.inference.predictor import Model
from unias.maps.detector import Detector
from unias.maps.fusion import Rule, usable
from unias.maps.levels import product_fusion
from unias.progress import Progress

BATCH = 8
ASKED_SHARE, ASKED_POINTS, ALLOWED_LOSS = 0.6, 2.0, 1.0  # of the gain; points of mean pAP; points of one class


def run_fusion(
    model: Model, data: Path, output: Path, subset: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure, write fusion.json and fusion.md, and give back what fusion.json holds.

    Args:
        subset: file with the test photos that count, one a line; None = all.

    Raises UsageError for a model that has no fusions to choose, DataError for photos or a list that cannot be used.
    """
    detector = model.detector
    if not isinstance(detector, Detector) or detector.config.fusion != "mean":
        raise UsageError(
            "the model fuses its levels by the paper's product, or is an export: there is no choice to measure."
        )
    progress = progress or Progress("silent")
    dataset = scan(data)
    require_test(dataset)
    keys = None if subset is None else set(read_lines(subset))
    rows = {}
    for place, product in enumerate(model.products):
        samples = (
            [s for s in dataset.test(product.name) if keys is None or s.key in keys]
            if _has(dataset, product.name)
            else []
        )
        if any(not sample.is_good for sample in samples):
            rows[product.name] = _product(model, detector, place, samples, progress)
    if not rows:
        raise DataError(f"{data}: no test photos with masks of the model's products. Give the data it was trained on.")
    document = {
        "subset": None if subset is None else subset.name,
        "products": rows,
        **_summary(rows),
        "stamp": bench_stamp(),
    }
    document["model"] = {key: model.record.get(key) for key in ("commit", "seed", "steps", "minutes", "data")}
    ensure_folder(output)
    write_json(output / "fusion.json", document)
    write_text(output / "fusion.md", markdown(document))
    return document


def _has(dataset: Dataset, name: str) -> bool:
    return name in dataset.products and dataset.has_masks(name)


@torch.inference_mode()
def _product(
    model: Model, detector: Detector, place: int, samples: Sequence[Sample], progress: Progress
) -> dict[str, Any]:
    """{"product": pAP of the paper's fusion, "default", "chosen", "best", "best_rule", "rule"} of one product."""
    rules = usable(detector.unias.levels, detector.wide is not None)
    chosen = detector.statistics.rule(place)
    kinds = [detector.default_rule, chosen, *rules]
    maps: list[list[NDArray[np.float32]]] = [[] for _ in ("product", *kinds)]
    masks = []
    with progress.stage(f"rules on {model.products[place].name}", len(samples)) as advance:
        for start in range(0, len(samples), BATCH):
            some = samples[start : start + BATCH]
            images = np.stack([load_input(s.path, detector.size, model.config.bits)[0] for s in some])
            features = detector.features(torch.from_numpy(images).to(detector.device))
            levels = detector.levels_of(detector.reconstruct(features))
            product = torch.full((len(some),), place, device=detector.device)
            ratios = detector.ratios(levels, product)
            fused = (product_fusion(levels), *detector.maps_by(ratios, kinds))
            for kept, one in zip(maps, fused, strict=True):
                kept.append(one.float().cpu().numpy())
            half = detector.size // 2
            masks += [
                np.zeros((half, half), bool) if s.mask is None else resize_mask(load_mask(s.mask), half) for s in some
            ]
            advance(len(some))
    truth = np.stack(masks)
    found = [PixelRanking(truth, np.concatenate(kept)).average_precision() for kept in maps]
    best = int(np.argmax(found[3:]))
    return {
        "photos": len(samples),
        "product": found[0],
        "default": found[1],
        "chosen": found[2],
        "best": found[3 + best],
        "rule": _words(chosen),
        "best_rule": _words(rules[best]),
    }


def _words(rule: Rule) -> str:
    return (
        f"{' '.join(f'{weight:.2g}' for weight in rule.weights)}, power {rule.power:.2g}"
        f"{f', {rule.wide:.0%} blurred' if rule.wide else ''}"
    )


def _summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    mean = {
        key: float(np.mean([row[key] for row in rows.values()])) for key in ("product", "default", "chosen", "best")
    }
    possible = mean["best"] - mean["product"]
    gained = mean["chosen"] - mean["product"]
    worst = min(row["chosen"] - row["product"] for row in rows.values())
    return {
        "mean": mean,
        "share_of_gain": gained / possible if possible > 0 else float("nan"),
        "points_gained": 100 * gained,
        "worst_change": 100 * worst,
        "bars": {
            "share": bool(possible > 0 and gained / possible >= ASKED_SHARE),
            "points": bool(100 * gained >= ASKED_POINTS),
            "no_class_worse": bool(100 * worst >= -ALLOWED_LOSS),
        },
    }


def markdown(document: dict[str, Any]) -> str:
    """fusion.md."""
    lines = [
        "# Fusions chosen without labels, on real defects",
        "",
        "pAP in per cent at half the model's input. *product*: the paper's fusion; *settings*: one rule for all; *chosen*: by "
        "defects drawn into training photos, what the model uses; *best*: of the same list, by the labels of these photos.",
        "",
        "| product | photos | product | settings | chosen | best | chosen rule (levels 4 3 2 1) | best rule |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for name, row in document["products"].items():
        figures = " | ".join(f"{100 * row[key]:.1f}" for key in ("product", "default", "chosen", "best"))
        lines.append(f"| {name} | {row['photos']} | {figures} | {row['rule']} | {row['best_rule']} |")
    mean = " | ".join(f"{100 * document['mean'][key]:.1f}" for key in ("product", "default", "chosen", "best"))
    lines.append(f"| **mean** | | {mean} | | |")
    lines += [
        "",
        f"Of the gain that the best rules have over the product, {document['share_of_gain']:.0%} is reached "
        f"({document['points_gained']:+.1f} points); the class that changes worst: {document['worst_change']:+.1f} points.",
        "",
        f"Photos: {document['subset'] or 'all test photos'}. Model: "
        + ", ".join(f"{key} {value}" for key, value in document["model"].items())
        + f". Measured at commit {document['stamp']['commit']}, {document['stamp']['machine']}.",
    ]
    return "\n".join(lines) + "\n"
