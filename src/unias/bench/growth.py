"""Accuracy on some products as more are trained beside them: one model for 1, 2, 5, 10 products, each with the same minutes.

Each model's figures are kept as soon as they are there, so that a bench which was stopped goes on with the next one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unias.api import train
from unias.bench.accuracy import pap
from unias.config import Config
from unias.data.layouts import Dataset
from unias.errors import UsageError
from unias.files import write_json
from unias.progress import Progress

WATCHED = ("bottle", "screw")
COUNTS = (1, 2, 5, 10)
GROWN = "growth.json"  # beside the report, until that is written


@dataclass(frozen=True)
class Budget:
    """What each model is trained with."""

    minutes: float | None
    steps: int | None
    seed: int
    threads: int


def pick_watched(dataset: Dataset, wished: Sequence[str]) -> tuple[str, ...]:
    """The products whose accuracy is read: those wished for, else bottle and screw, else the first two that have masks.

    Raises UsageError for one that is not there, or without training or test photos.
    """
    able = [name for name in product_folders(dataset) if dataset.test(name) and dataset.has_masks(name)]
    for name in wished:
        if name not in able:
            raise UsageError(
                f"--watch: {name!r} has no training photos, or no test photos with masks, in {dataset.root} (MVTec-AD layout)."
            )
    known = tuple(name for name in WATCHED if name in able)
    return tuple(wished) or (known if len(known) == len(WATCHED) else tuple(able[:2]))


def groups(watched: Sequence[str], others: Sequence[str], counts: Sequence[int]) -> list[tuple[str, ...]]:
    """The products of each model: every watched one alone, then all of them with as many others as make up the count."""
    found: list[tuple[str, ...]] = []
    for count in sorted(set(counts)):
        if count == 1:
            found += [(name,) for name in watched]
        elif count >= len(watched) and count - len(watched) <= len(others):
            found.append((*watched, *others[: count - len(watched)]))
    return found


def measure_growth(
    datasets: Sequence[Dataset],
    watched: Sequence[str],
    counts: Sequence[int],
    config: Config,
    budget: Budget,
    keys: Sequence[str] | None,
    home: Path,
    progress: Progress,
    kept: Path,
) -> dict[str, Any]:
    """Train and evaluate. The first of ``datasets`` is read for accuracy; counts that there are too few products for say so.

    Args:
        home: where photos and models lie while they are needed.
        kept: file of the rows that are done: those of the same photos, settings and budget are taken from it.
    """
    if not watched:
        return {
            "fault": f"not measured: no product of {datasets[0].root.name} has training photos, test photos and masks"
        }
    folders = {name: folder for dataset in datasets for name, folder in product_folders(dataset).items()}
    others = [name for name in folders if name not in watched]
    chosen = groups(watched, others, counts)
    done = rows_done(kept)
    rows: list[dict[str, Any]] = []
    for products in chosen:
        wish = _wish(datasets, products, config, budget, keys)
        if wish in done:
            progress.say(f"kept from before: one model on {', '.join(products)}")
            rows.append(done[wish])
            continue
        progress.say(f"training one model on {', '.join(products)}")
        place = home / f"{len(rows)}"
        data = gathered({name: folders[name] for name in products}, place / "photos")
        read = [name for name in watched if name in products]
        tests = gathered({name: folders[name] for name in read}, place / "tests")
        model = train(
            data,
            place / "model",
            config=config,
            minutes=budget.minutes,
            steps=budget.steps,
            seed=budget.seed,
            threads=budget.threads,
            device="cpu",
            progress=progress,
        )
        own = None if keys is None else [key for key in keys if key.split("/")[0] in read]
        found = pap(place / "model", tests, own, progress=progress)
        found.pop("mean", None)
        record = model.record
        rows.append(
            {
                "count": len(products),
                "products": list(products),
                "pap": found,
                "steps": record["steps"],
                "minutes": record["minutes"],
                "commit": record["commit"],
                "wish": wish,
            }
        )
        done[wish] = rows[-1]
        write_json(kept, list(done.values()))
        shutil.rmtree(place)
    short = [count for count in sorted(set(counts)) if count > len(folders)]
    faults = {str(count): f"not measured: {len(folders)} products are here" for count in short}
    return {"watched": list(watched), "rows": rows, "faults": faults, "seed": budget.seed}


def rows_done(kept: Path) -> dict[str, dict[str, Any]]:
    """{wish: row} of a file that an earlier bench left; nothing where there is none, or one that cannot be read."""
    try:
        rows = json.loads(kept.read_text(encoding="utf-8"))
        return {str(row["wish"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def forget(kept: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Take the rows of a report that is written out of the file; the file goes with the last of them."""
    left = rows_done(kept)
    for row in rows:
        left.pop(row["wish"], None)
    if left:
        write_json(kept, list(left.values()))
    else:
        kept.unlink(missing_ok=True)


def _wish(
    datasets: Sequence[Dataset], products: Sequence[str], config: Config, budget: Budget, keys: Sequence[str] | None
) -> str:
    """What a row rests on, in one short word: photos, settings, budget and the test photos that count."""
    samples = [sample for dataset in datasets for sample in dataset.samples if sample.product in products]
    photos = sorted((sample.key, sample.path.stat().st_size) for sample in samples)
    whole = repr((list(products), photos, config, budget, None if keys is None else sorted(keys)))
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def product_folders(dataset: Dataset) -> dict[str, Path]:
    """Where each trainable product lies, in a data set of MVTec-AD layout; nothing for other layouts."""
    if dataset.layout != "mvtec":
        return {}
    top = {name: dataset.root / name for name in dataset.products if dataset.train(name)}
    return {name: folder if folder.is_dir() else dataset.root for name, folder in top.items()}


def gathered(folders: dict[str, Path], target: Path) -> Path:
    """A data folder of these products: links where the system lets us, else copies."""
    target.mkdir(parents=True)
    for name, folder in folders.items():
        try:
            (target / name).symlink_to(folder, target_is_directory=True)
        except OSError:
            shutil.copytree(folder, target / name)
    return target
