"""One measurement in a fresh process: ``python -m unias.bench.probe`` reads a request as JSON from standard input and writes
the answer as the last line of its output. Imports are part of what is timed, so they stand inside the tasks.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unias.memory import peak_memory

Request = Mapping[str, Any]
Answer = dict[str, Any]
TENTHS = 10


def first_image(request: Request) -> Answer:
    """Open a variant of a model, run one photo, then some more, then batches.

    Request: variant, folder, images (.npy of (8, 3, S, S) float32), threads, calls. Answer: seconds of imports, opening and the
    first photo; peak memory in MiB after single photos and after batches.
    """
    began = time.perf_counter()
    import numpy as np
    import torch

    from unias.bench.variants import Variant, open_variant
    from unias.runtime import set_threads

    imported = time.perf_counter()
    set_threads(request["threads"])
    images = torch.from_numpy(np.load(request["images"]))
    opening = time.perf_counter()
    run = open_variant(Variant(**request["variant"]), Path(request["folder"]))
    opened = time.perf_counter()
    run(images[:1])
    first = time.perf_counter()
    for _ in range(request["calls"]):
        run(images[:1])
    single = _held(run.device)
    for _ in range(request["calls"]):
        run(images)
    return {
        "import_seconds": imported - began,
        "open_seconds": opened - opening,
        "first_seconds": first - opened,
        "peak_mib": {"1": single, str(len(images)): _held(run.device)},
    }


def _held(device: Any) -> float | None:
    """The processor's memory, or the GPU's where that does the work; the highest so far."""
    if device.type == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return peak_memory()


def training(request: Request) -> Answer:
    """Training steps, interleaved. Request: folder, images, threads, rounds. Answer: ``unias.bench.training.measure``'s."""
    import numpy as np
    import torch

    from unias.bench.training import measure
    from unias.runtime import set_threads

    set_threads(request["threads"])
    images = torch.from_numpy(np.load(request["images"]))
    return {**measure(Path(request["folder"]), images, request["rounds"]), "peak_mib": peak_memory()}


def predict(request: Request) -> Answer:
    """``count`` photos through ``Model.predict``, results dropped. Request: folder, photos (paths, taken in turn), count,
    threads. Answer: seconds a photo, the same of each tenth of the run, peak memory in MiB."""
    from unias.inference.predictor import Model
    from unias.runtime import set_threads

    set_threads(request["threads"])
    model = Model.load(request["folder"], "cpu")
    photos, count = request["photos"], request["count"]
    for _ in model.predict(list(itertools.islice(itertools.cycle(photos), 8))):
        pass  # what is paid once, such as choosing kernels
    opened = peak_memory()
    began = time.perf_counter()
    marks = [began]
    for number, _ in enumerate(model.predict(itertools.islice(itertools.cycle(photos), count)), start=1):
        if number * TENTHS // count >= len(marks):
            marks.append(time.perf_counter())
    ended = time.perf_counter()
    return {
        "count": count,
        "seconds_a_photo": (ended - began) / count,
        "tenths": [(b - a) * TENTHS / count for a, b in itertools.pairwise(marks)] if count >= 100 else [],
        "peak_mib": peak_memory(),
        "opened_mib": opened,
    }


def evaluate(request: Request) -> Answer:
    """``unias evaluate`` without pages. Request: folder, data, threads. Answer: seconds, peak memory in MiB."""
    from unias.inference.predictor import Model
    from unias.report.evaluation import run_evaluation
    from unias.runtime import set_threads

    set_threads(request["threads"])
    model = Model.load(request["folder"], "cpu")
    with tempfile.TemporaryDirectory(prefix="unias-bench-") as folder:
        began = time.perf_counter()
        run_evaluation(model, request["data"], Path(folder) / "report", page=False)
        seconds = time.perf_counter() - began
    return {"count": request["count"], "seconds_a_photo": seconds / request["count"], "peak_mib": peak_memory()}


TASKS: dict[str, Callable[[Request], Answer]] = {
    "first_image": first_image,
    "training": training,
    "predict": predict,
    "evaluate": evaluate,
}


def answer(request: Request) -> Answer:
    """The task's answer, or {"fault": ...} for an error that was raised on purpose."""
    from unias.errors import UniasError

    try:
        return TASKS[request["task"]](request)
    except UniasError as error:
        return {"fault": f"failed: {error}"}


def main() -> None:
    """Read, measure, write."""
    given = answer(json.loads(sys.stdin.read()))
    sys.stdout.write("\n" + json.dumps(given) + "\n")


if __name__ == "__main__":
    main()
