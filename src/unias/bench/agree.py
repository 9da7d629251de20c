"""``unias bench agree``: does every way to use a model come to the same answers?

the trained model on the processor (the reference) -> its exports to ONNX and OpenVINO, ``unias serve`` in a process of its own
over HTTP, ``unias watch`` in one over a folder that fills -> verdicts, scores, maps and masks beside the reference's

What the figures mean, for each photo:

- Relative difference of a map: the largest absolute difference from the reference's map over the largest absolute value of the
  reference's map of the same photo, both at the model's size. A table holds the worst photo's.
- Relative difference of a score: |raw_score - the reference's| over the reference's.
- Distance to the cut: the reference's |raw_score - cut| over the cut. A novelty of 1 is a line too, beyond which a photo is of an
  unknown product: |novelty - 1| where that is less, and for photos of unknown products, which no score can pass. 0 = on the line.
- Answer: verdict and product. A photo nearer to the cut than 1e-3 may get another one, and is listed.

The server sends maps as 16-bit PNG, which adds at most 1/131070. The watcher writes no maps: its scores (for UniAS the map's
highest value) and its masks are compared.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unias.bench.agree_page import agree_bars, agree_page
from unias.bench.serve import running_server
from unias.bench.stamps import bench_stamp, load_average
from unias.data.layouts import Sample, scan
from unias.data.split import spaced
from unias.errors import ExportError, MissingError, UniasError, UsageError
from unias.export.run import export_model
from unias.files import claimed_folder, write_json, write_text
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.progress import Advance, Progress
from unias.runtime import set_threads

NEAR = 1e-3  # distance to the cut below which another answer is no fault
BATCH = 8  # photos of the reference and the exports
CLIENTS = 4  # of the server: photos of several requests are judged together
WAIT = 120.0  # seconds for one answer of the server, or the watcher's next row
LOOK = 0.05  # seconds between looks at the watcher's rows
TINY = 1e-12
HOW = {
    "onnx": "ONNX Runtime, float",
    "openvino": "OpenVINO, float",
    "server": "unias serve, a process of its own, over HTTP",
    "watch": "unias watch, a process of its own, over a folder",
    "openvino-int8": "OpenVINO, 8 bits, with cuts of its own",
}


@dataclass(frozen=True)
class Given:
    """What one way of using the model said of one photo. ``map`` (H, W) and ``mask`` (h, w); None where it gives none."""

    verdict: str
    product: str | None
    raw_score: float
    cut: float
    map: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None


Answers = Sequence[Given]
Way = Callable[[Sequence[Sample], Advance], Answers]


def run_agree(
    output: Path | str,
    model: Path | str,
    data: Path | str,
    *,
    photos: int = 200,
    int8: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare, write ``agree.md`` and ``agree.json`` into ``output``, and give back what the latter holds.

    Args:
        model: a trained model's folder. data: photos of its products; test photos are taken where there are any.
        photos: so many at most, as many of each product, evenly spaced.
        int8: also an export in 8 bits, which takes minutes and needs the training photos in ``data``; it is held to no limit of
            the maps, but its cuts must be ranks of its own scores.
        threads: of tensor operations, in every process.

    Raises:
        DataError: a model or data folder that cannot be used. UsageError: an export in place of a trained model.
        UniasError: the server or the watcher did not start, refused a photo, or stood still.
    """
    progress = progress or Progress("silent")
    folder = Path(model)
    samples = chosen(data, photos)
    set_threads(threads)
    trained = Model.load(folder, "cpu")
    if trained.exported is not None:
        raise UsageError(f"{folder}: is an export. Give the trained model that it was made from.")
    with (
        claimed_folder(output) as home,
        tempfile.TemporaryDirectory(prefix="unias-", ignore_cleanup_errors=True) as place,
    ):
        scratch = Path(place)
        document: dict[str, Any] = bench_stamp()
        with progress.stage("trained model", len(samples)) as advance:
            reference, distances = judged(trained, samples, advance)
        ways: dict[str, Callable[[], Way]] = {
            "onnx": lambda: exported(folder, "onnx", scratch, data),
            "openvino": lambda: exported(folder, "openvino", scratch, data),
            "server": lambda: served(folder, threads),
            "watch": lambda: watched(folder, scratch, threads),
        }
        if int8:
            ways["openvino-int8"] = lambda: exported(folder, "openvino", scratch, data, int8=True)
        rows = []
        for name, way in ways.items():
            about: dict[str, Any] = {"engine": name, "how": HOW[name]}
            try:
                answer = way()
            except (MissingError, UsageError, ExportError) as error:
                rows.append({**about, "why_not": str(error), "differs": isinstance(error, ExportError)})
                continue
            with progress.stage(name, len(samples)) as advance:
                rows.append({**about, **compared(samples, reference, distances, answer(samples, advance))})
        if int8 and "why_not" not in rows[-1]:
            rows[-1]["own_ranks"] = own_ranks(scratch / "openvino-int8", Path(data))
        near = [
            {"photo": sample.key, **_said(one), "raw_score": one.raw_score, "cut": one.cut, "distance": distance}
            for sample, one, distance in zip(samples, reference, distances, strict=True)
            if distance <= NEAR
        ]
        document |= {
            "model": {
                "name": folder.name,
                "system": trained.config.system,
                "record": {key: trained.record.get(key) for key in ("commit", "steps", "seed")},
            },
            "preset": trained.config.preset,
            "size": trained.config.size,
            "products": len(trained.products),
            "data": Path(data).name,
            "photos": len(samples),
            "bench_threads": threads,
            "verdicts": {word: sum(one.verdict == word for one in reference) for word in _words(reference)},
            "near": near,
            "rows": rows,
            "load_after": load_average(),
        }
        document["bars"] = agree_bars(document)
        write_json(home / "agree.json", document)
        write_text(home / "agree.md", agree_page(document))
    return document


def chosen(data: Path | str, count: int) -> list[Sample]:
    """At most ``count`` photos, as many of each product, evenly spaced; of the test photos, or of all where there are none."""
    dataset = scan(data)
    groups = [
        dataset.test(name) or [one for one in dataset.samples if one.product == name] for name in dataset.products
    ]
    left, found = count, []
    for number, group in enumerate(sorted(groups, key=len)):  # what a small product lacks, the others give
        share = left // (len(groups) - number)
        found += [group[place] for place in spaced(len(group), share)] if share else []
        left = count - len(found)
    return sorted(found, key=lambda sample: sample.key)


@torch.inference_mode()
def judged(model: Model, samples: Sequence[Sample], advance: Advance) -> tuple[list[Given], list[float]]:
    """The reference: answers, and each photo's distance to the cut."""
    answers: list[Given] = []
    distances: list[float] = []
    for start in range(0, len(samples), BATCH):
        decoded = [model.decode(sample.path) for sample in samples[start : start + BATCH]]
        results = model.predict_decoded(decoded, [None] * len(decoded))
        novelty = model.detector(torch.from_numpy(np.stack([photo.pixels for photo in decoded]))).novelty
        assert novelty is not None  # no product was told
        answers += [given(one) for one in results]
        distances += [distance(one, float(new)) for one, new in zip(results, novelty, strict=True)]
        advance(len(decoded))
    return answers, distances


def distance(result: Result, novelty: float) -> float:
    """To the cut, or to the line of unknown products where that is nearer (see the head of this file)."""
    to_cut = abs(result.raw_score - result.cut) / max(result.cut, TINY)
    return min(to_cut, abs(novelty - 1)) if result.product_known else abs(novelty - 1)


def given(result: Result) -> Given:
    """A Result as it is compared."""
    return Given(result.verdict, result.product, result.raw_score, result.cut, result.model_map, result.pred_mask)


def exported(folder: Path, engine: str, scratch: Path, data: Path | str, int8: bool = False) -> Way:
    """An export made into ``scratch``, at work in this process. Raises what ``export_model`` raises."""
    home = scratch / f"{engine}{'-int8' if int8 else ''}"
    model = Model.load(export_model(folder, engine, home, int8=int8, data=data).folder, "cpu")

    def answer(samples: Sequence[Sample], advance: Advance) -> Answers:
        found = []
        for result in model.predict([sample.path for sample in samples], batch_size=BATCH):
            found.append(given(result))
            advance()
        return found

    return answer


def served(folder: Path, threads: int) -> Way:
    """The trained model over HTTP, asked by several clients at once."""

    def ask(address: tuple[str, int], sample: Sample) -> Given:
        connection = http.client.HTTPConnection(*address, timeout=WAIT)
        try:
            connection.request(
                "POST",
                "/v1/inspect?mask=png&map=png",
                sample.path.read_bytes(),
                {"Content-Type": "application/octet-stream"},
            )
            answer = connection.getresponse()
            body = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise UniasError(f"bench: unias serve answered {sample.path} with {answer.status}: {body['error']}")
        anomaly_map = _picture(body["map"]["data"]).astype(np.float64) * body["map"]["scale"]
        return Given(
            body["verdict"],
            body["product"],
            body["raw_score"],
            body["cut"],
            anomaly_map.astype(np.float32),
            _picture(body["mask"]["data"]).astype(bool),
        )

    def answer(samples: Sequence[Sample], advance: Advance) -> Answers:
        found = []
        with running_server(folder, threads, BATCH, 2 * CLIENTS) as address, ThreadPoolExecutor(CLIENTS) as clients:
            for one in clients.map(lambda sample: ask(address, sample), samples):
                found.append(one)
                advance()
        return found

    return answer


def watched(folder: Path, scratch: Path, threads: int) -> Way:
    """The trained model over a folder into which the photos are moved one after the other while it is watched."""
    hot, out = scratch / "hot", scratch / "watched"

    def answer(samples: Sequence[Sample], advance: Advance) -> Answers:
        hot.mkdir()
        command = [sys.executable, "-m", "unias", "watch", str(folder), str(hot), "-o", str(out), "-q"]
        command += ["--settle", "0", "--poll", str(LOOK), "--device", "cpu", "--threads", str(threads)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for number, sample in enumerate(samples):
                half = hot / f"{number}.part"
                shutil.copyfile(sample.path, half)
                half.rename(hot / f"{number}{sample.path.suffix}")
            rows = _rows(process, out / "results.jsonl", len(samples), advance)
            process.terminate()
            code = process.wait(WAIT)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code and os.name == "posix":
            raise UniasError(f"bench: unias watch ended with exit code {code}.")
        by_number = {int(Path(row["path"]).stem): row for row in rows}
        return [_of_row(by_number[number], out) for number in range(len(samples))]

    return answer


def _rows(process: subprocess.Popen[bytes], file: Path, count: int, advance: Advance) -> list[dict[str, Any]]:
    """All rows, once they are there."""
    found, since = 0, time.monotonic()
    while True:
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) > found:
            advance(len(whole) - found)
            found, since = len(whole), time.monotonic()
        if found >= count:
            return [json.loads(line) for line in whole]
        if process.poll() is not None:
            raise UniasError("bench: unias watch ended early; its own message is above.")
        if time.monotonic() - since > WAIT:
            raise UniasError(f"bench: unias watch wrote no row for {WAIT:g} s; {found} of {count} are there.")
        time.sleep(LOOK)


def _of_row(row: dict[str, Any], out: Path) -> Given:
    if row["verdict"] == "unreadable":
        raise UniasError(f"bench: unias watch could not read a photo that predict reads: {row['error']}")
    mask = np.asarray(Image.open(out / row["mask"])) > 0
    return Given(row["verdict"], row["product"] or None, row["raw_score"], row["cut"], None, mask)


def _picture(text: str) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))))


def compared(
    samples: Sequence[Sample], reference: Answers, distances: Sequence[float], answers: Answers
) -> dict[str, Any]:
    """How far the answers are from the reference's.

    map_difference, score_difference: relative, of the worst photo, None where there are no maps. masks_differ: photos whose mask
    is not the same, to the pixel. answers_differ: every photo of another verdict or product, ``near`` where that is allowed.
    """
    maps = [map_difference(one.map, own.map) for one, own in zip(answers, reference, strict=True)]
    scores = [
        abs(one.raw_score - own.raw_score) / max(own.raw_score, TINY)
        for one, own in zip(answers, reference, strict=True)
    ]
    worst = None if maps[0] is None else int(np.argmax([value or 0.0 for value in maps]))
    differ = [
        {
            "photo": sample.key,
            "reference": _said(own),
            "answer": _said(one),
            "raw_scores": [own.raw_score, one.raw_score],
            "cuts": [own.cut, one.cut],
            "distance": far,
            "near": far <= NEAR,
        }
        for sample, own, one, far in zip(samples, reference, answers, distances, strict=True)
        if _said(one) != _said(own)
    ]
    masks = [not np.array_equal(one.mask, own.mask) for one, own in zip(answers, reference, strict=True)]  # type: ignore[arg-type]
    return {
        "photos": len(answers),
        "map_difference": None if worst is None else maps[worst],
        "map_photo": None if worst is None else samples[worst].key,
        "score_difference": max(scores),
        "masks_differ": sum(masks),
        "answers_differ": differ,
    }


def map_difference(one: NDArray[np.float32] | None, reference: NDArray[np.float32] | None) -> float | None:
    """Largest absolute difference over the reference's largest absolute value; infinite where a map has no numbers or another
    size, None where there is no map to compare."""
    if one is None or reference is None:
        return None
    if one.shape != reference.shape or not np.isfinite(one).all():
        return float("inf")
    apart = np.abs(one.astype(np.float64) - reference).max()
    return float(apart / max(float(np.abs(reference).max()), TINY))


def own_ranks(folder: Path, data: Path) -> float:
    """Largest relative difference between an export's stored held-out scores and those that it gives these photos now: about 0
    where its cuts are ranks of its own scores."""
    model = Model.load(folder, "cpu")
    worst = 0.0
    for info in model.products:
        paths = [data / key for key in info.held_out]
        found = [one.raw_score for one in model.predict(paths, product=info.name)] if paths else []
        for score, stored in zip(found, info.held_out_scores, strict=True):
            worst = max(worst, abs(score - stored) / max(abs(stored), TINY))
    return worst


def _said(one: Given) -> dict[str, Any]:
    return {"verdict": one.verdict, "product": one.product}


def _words(answers: Answers) -> list[str]:
    return sorted({one.verdict for one in answers})
