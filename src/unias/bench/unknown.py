"""Is a product that was never trained on called unknown, and are the known ones recognised? Each product left out once.

Only the frozen backbone and the statistics of its features are needed, so nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unias.backbones.timm_backbone import build_backbone
from unias.bench.stamps import bench_stamp
from unias.config import Config
from unias.data.layouts import Sample, require_test, require_training, scan
from unias.data.split import hold_out_products
from unias.errors import UsageError
from unias.files import ensure_folder, write_json, write_text
from unias.maps.statistics import ProductStatistics, pool
from unias.presets import preset
from unias.progress import Progress
from unias.training.features import Features

ASKED_RIGHT, ASKED_UNKNOWN, ALLOWED_UNKNOWN = 0.99, 0.95, 0.02


def run_unknown(
    data: Path, output: Path, seed: int = 0, progress: Progress | None = None, config: Config | None = None
) -> dict[str, Any]:
    """Measure, write unknown.json and unknown.md, and give back what unknown.json holds. Raises UsageError for fewer than three
    products: with one left out, two must remain."""
    progress = progress or Progress("silent")
    chosen = config or preset("small")
    dataset = scan(data)
    require_training(dataset)
    require_test(dataset)
    if len(dataset.products) < 3:
        raise UsageError(f"{data}: {len(dataset.products)} products; three are needed, since each is left out once.")
    backbone = build_backbone(chosen.backbone)
    split = hold_out_products(dataset.train(), seed, chosen.train.hold_out, chosen.train.hold_out_least)

    def pooled(samples: Sequence[Sample], word: str) -> Tensor:
        with torch.inference_mode():
            features = Features(samples, backbone, chosen, torch.device("cpu"), progress)
            return torch.cat([pool(batch) for batch in features.batches(word)])

    trained = {name: pooled(split[name][0], f"training photos of {name}") for name in split}
    tests = {name: pooled(dataset.test(name), f"test photos of {name}") for name in split if dataset.test(name)}
    reach = chosen.calibration.unknown_reach

    def fitted(names: Sequence[str]) -> ProductStatistics:
        statistics = ProductStatistics(names, backbone.channels)
        rows = torch.cat([trained[name] for name in names])
        index = torch.cat([torch.full((len(trained[name]),), place) for place, name in enumerate(names)])
        statistics.fit_prototypes(rows, index, reach)
        return statistics

    whole = fitted(list(split))
    rows: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(split):
        if name not in tests:
            continue
        product, novelty = whole.recognise(tests[name])
        without = fitted([other for other in split if other != name])
        strange = without.recognise(torch.cat([tests[name], trained[name]]))[1]
        rows[name] = {
            "photos": len(product),
            "right": float((product == place).float().mean()),
            "known_called_unknown": float((novelty > 1).float().mean()),
            "novelty_98": float(np.quantile(novelty.numpy(), 0.98)),
            "left_out_photos": len(strange),
            "left_out_called_unknown": float((strange > 1).float().mean()),
            "left_out_novelty_5": float(np.quantile(strange.numpy(), 0.05)),
        }
    total = sum(row["photos"] for row in rows.values())
    mixed = {
        key: sum(row[key] * row["photos"] for row in rows.values()) / total for key in ("right", "known_called_unknown")
    }
    document = {
        "products": rows,
        "mixed": mixed,
        "limit": reach,
        "bars": {
            "right": mixed["right"] >= ASKED_RIGHT,
            "left_out_unknown": all(row["left_out_called_unknown"] >= ASKED_UNKNOWN for row in rows.values()),
            "known_unknown": mixed["known_called_unknown"] <= ALLOWED_UNKNOWN,
        },
        "stamp": bench_stamp(),
    }
    ensure_folder(output)
    write_json(output / "unknown.json", document)
    write_text(output / "unknown.md", markdown(document))
    return document


def markdown(document: dict[str, Any]) -> str:
    """unknown.md."""
    lines = [
        "# What is no known product",
        "",
        "Frozen features alone, each product left out of the statistics once. Novelty above 1 = no known product.",
        "",
        "| product | photos | recognised | called unknown | novelty, 98% below | left out: called unknown | novelty, 5% below |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in document["products"].items():
        lines.append(
            f"| {name} | {row['photos']} | {row['right']:.1%} | {row['known_called_unknown']:.1%} | {row['novelty_98']:.2f} | "
            f"{row['left_out_called_unknown']:.1%} | {row['left_out_novelty_5']:.2f} |"
        )
    mixed = document["mixed"]
    lines.append(f"| **all mixed** | | {mixed['right']:.1%} | {mixed['known_called_unknown']:.1%} | | | |")
    lines += ["", f"Commit {document['stamp']['commit']}, {document['stamp']['machine']}."]
    return "\n".join(lines) + "\n"
