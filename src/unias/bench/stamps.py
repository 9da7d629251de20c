"""What every table of a bench carries: date, commit, machine, load, versions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from unias.bench.rate import instructions
from unias.runtime import stamp

RUNTIMES = ("onnxruntime", "openvino", "nncf")


def bench_stamp() -> dict[str, Any]:
    """``runtime.stamp`` with the date, the runtimes' versions, the processor's instructions and the load it bears already."""
    marks = stamp()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        **marks,
        "versions": {**marks["versions"], **{name: _version(name) for name in RUNTIMES}},
        "instructions": instructions(),
        "load_before": load_average(),
    }


def load_average() -> float | None:
    """Of the last minute: processes that want a core. None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def stamp_lines(document: Mapping[str, Any]) -> list[str]:
    """For under a table."""
    has = document["instructions"]
    load = [document.get("load_before"), document.get("load_after")]
    said = " and ".join("unknown" if value is None else f"{value:g}" for value in load)
    return [
        f"- date: {document['date']}",
        f"- commit: {document['commit']}",
        f"- machine: {document['machine']}; threads: {document['threads']}; load before and after: {said}",
        f"- instructions: bfloat16 {'yes' if has['bfloat16'] else 'no'}, 8-bit products {'yes' if has['int8'] else 'no'}",
        "- versions: " + ", ".join(f"{name} {number}" for name, number in document["versions"].items()),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
