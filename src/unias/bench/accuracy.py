"""pAP of a model folder on test photos, by ``unias evaluate`` itself."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unias.bench.subjects import Subject
from unias.data.layouts import scan
from unias.errors import DataError, UsageError
from unias.inference.predictor import Model
from unias.progress import Progress
from unias.report.evaluation import run_evaluation

PART = "chosen"


def read_keys(path: Path | None, data: Path | None) -> list[str] | None:
    """Test photos by path below the data folder, one a line; None = all.

    Raises UsageError for a file that cannot be read, or without ``data``; DataError for a photo that is not there.
    """
    if path is None:
        return None
    if data is None:
        raise UsageError("--subset: names test photos of --data, which is missing. Give --data FOLDER.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--subset: {path} cannot be read. Give a text file with one photo a line.") from error
    keys = [line.strip() for line in lines if line.strip()]
    missing = sorted(set(keys) - {sample.key for sample in scan(data).test()})
    if missing or not keys:
        fault = f"{missing[0]} is no test photo of {data}" if missing else "names no photo"
        raise DataError(f"--subset: {path}: {fault}. Check the list.")
    return keys


def pap(
    folder: Path,
    data: Path,
    keys: Sequence[str] | None = None,
    precision: str = "float32",
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, float]:
    """{product: pAP in per cent} of those that have masks, and "mean" of them; on the photos ``keys``, or on all.

    Photos are judged as in use: the product is found, never told.
    """
    model = Model.load(folder, device, precision)
    with tempfile.TemporaryDirectory(prefix="unias-bench-") as place:
        document = run_evaluation(
            model,
            data,
            Path(place) / "report",
            subsets=None if keys is None else {PART: list(keys)},
            page=False,
            progress=progress,
        )
    part = document if keys is None else document["subsets"][PART]
    found = {name: 100 * values["pap"] for name, values in part["classes"].items() if not math.isnan(values["pap"])}
    return {**found, "mean": 100 * part["mean"]["pap"]} if found else {}


def pap_of_row(
    row: Mapping[str, Any], subject: Subject, folder: Path, keys: Sequence[str] | None, progress: Progress
) -> dict[str, float] | str:
    """``pap`` of a row of ``bench speed``, or why it has none."""
    if row["model"] == "paper":
        return "not trained here"
    if not subject.trained:
        return "random weights"
    if subject.data is None:
        return "not measured: no --data"
    if row["compiled"]:
        return "not measured: see the row before"
    if not scan(subject.data).test():
        return "not measured: no test photos in --data"
    progress.say(f"pAP: {row['title']}")
    precision = "auto" if row["engine"] == "eager" and row["precision"] == "bfloat16" else "float32"
    found = pap(folder, subject.data, keys, precision, row["device"], progress)
    return found or "not measured: no masks in --data"
