"""``unias bench serve``: a server under load against the bare predictor, in one run.

bare predictor at several batch sizes -> the server in a process of its own, warmed up -> stretches of load, the bare predictor
before and after each, since machines drift -> latencies, throughput, memory, bars, table
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unias.bench.bars import serve_bars
from unias.bench.serve_page import serve_page
from unias.bench.stamps import bench_stamp, load_average
from unias.errors import DataError, UniasError
from unias.files import claimed_folder, write_json, write_text
from unias.inference.predictor import Model
from unias.inference.sources import photos_below
from unias.progress import Progress
from unias.runtime import set_threads

PHOTOS = 64  # of the folder, taken in turn
BATCHES = (1, 2, 4, 8, 16)  # that the bare predictor's best is looked for among
STRETCHES = 5
BARE_SHARE, BARE_MOST = 0.2, 20.0  # of a stretch's seconds, and seconds at most, that the bare predictor is timed for
WARM_SHARE, WARM_MOST = 0.1, 60.0  # of all seconds, and seconds at most, before anything is counted
WAIT = 120.0  # seconds that a client waits for an answer


@dataclass
class Load:
    """What clients saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Photos a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


def run_serve(
    output: Path | str,
    model: Path | str,
    data: Path | str,
    *,
    clients: int = 8,
    minutes: float = 10.0,
    batch: int = 8,
    threads: int = 2,
    quick: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure, write ``serve.md`` and ``serve.json`` into ``output``, and give back what the latter holds.

    Args:
        data: folder of photos, of which the first 64 are sent in turn.
        clients: each sends its next photo when it has the answer to the last one.
        minutes: of load, in five stretches.
        batch: of the server. threads: of tensor operations, in the server and of the bare predictor.
        quick: two short stretches: shows that everything runs, its figures are noise.

    Raises:
        DataError: a model or data folder that cannot be used. UniasError: the server did not start.
    """
    progress = progress or Progress("silent")
    folder = Path(model)
    files = photos_below(Path(data))[:PHOTOS]
    if not files:
        raise DataError(f"{data}: no photos here. Give a folder of photos.")
    photos = [file.read_bytes() for file in files]
    stretches, total = (2, 2.0) if quick else (STRETCHES, minutes * 60)
    stretch = total / stretches
    bare_seconds = min(BARE_MOST, BARE_SHARE * stretch)
    set_threads(threads)
    opened = Model.load(folder, "cpu")
    with claimed_folder(output) as home:
        document: dict[str, Any] = {"quick": quick, **bench_stamp()}
        with progress.stage("bare predictor", len(BATCHES)) as advance:
            rates = {}
            for size in BATCHES:
                rates[size] = bare_rate(opened, photos, size, bare_seconds)
                advance(1, f"batches of {size}: {rates[size]:.1f} photos a second")
        best = max(rates, key=lambda size: rates[size])
        rows, memory, whole = [], [], Load()
        with running_server(folder, threads, batch, 2 * clients) as address:
            send(address, photos, clients, min(WARM_MOST, WARM_SHARE * total))
            memory.append(resident_memory(address))
            bare = bare_rate(opened, photos, best, bare_seconds)
            with progress.stage("load", stretches) as advance:
                for _ in range(stretches):
                    load = send(address, photos, clients, stretch)
                    after = bare_rate(opened, photos, best, bare_seconds)
                    memory.append(resident_memory(address))
                    rows.append(_row(load, (bare + after) / 2))
                    whole.latencies += load.latencies
                    whole.errors += load.errors
                    bare = after
                    advance(1, f"{load.rate:.1f} photos a second")
            sizes = mean_batch(address)
        document |= {
            "model": {
                "name": folder.name,
                "record": {key: opened.record.get(key) for key in ("commit", "steps", "seed")},
            },
            "preset": opened.config.preset,
            "size": opened.config.size,
            "data": Path(data).name,
            "photos": len(photos),
            "mean_bytes": round(statistics.fmean(len(photo) for photo in photos)),
            "clients": clients,
            "minutes": total / 60,
            "batch": batch,
            "threads": threads,
            "bare": {"photos_a_second": rates, "best": best},
            "stretches": rows,
            "answers": len(whole.latencies),
            "seconds": {
                name: percentile(whole.latencies, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
            },
            "share_of_bare": statistics.median(row["share_of_bare"] for row in rows),
            "errors": dict(whole.errors),
            "memory_mib": memory,
            "mean_batch": sizes,
            "load_after": load_average(),
        }
        document["bars"] = serve_bars(document)
        write_json(home / "serve.json", document)
        write_text(home / "serve.md", serve_page(document))
    return document


def bare_rate(model: Model, photos: Sequence[bytes], batch: int, seconds: float) -> float:
    """Photos a second of ``Model.predict`` on files in memory, decoding included, in batches of this size."""
    turn, count, began = itertools.cycle(photos), 0, time.perf_counter()
    while count == 0 or time.perf_counter() - began < seconds:
        count += len(list(model.predict(list(itertools.islice(turn, batch)), batch_size=batch)))
    return count / (time.perf_counter() - began)


@contextlib.contextmanager
def running_server(folder: Path, threads: int, batch: int, queue: int) -> Iterator[tuple[str, int]]:
    """``unias serve`` in a process of its own: (host, port). Raises UniasError where it does not start or end well."""
    command = [sys.executable, "-m", "unias", "serve", str(folder), "--port", "0", "--device", "cpu"]
    command += ["--threads", str(threads), "--batch", str(batch), "--queue", str(queue)]
    environment = {name: value for name, value in os.environ.items() if name != "UNIAS_TOKEN"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment | {"PYTHONIOENCODING": "utf-8"}, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", line)
        if found is None:
            raise UniasError(f"bench: unias serve {folder} did not start; its own message is above.")
        yield found[1], int(found[2])
        process.terminate()
        if code := process.wait(WAIT):
            raise UniasError(f"bench: unias serve {folder} ended with exit code {code}.")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def send(address: tuple[str, int], photos: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Every client sends photos, one after the other, until the time is over; the last answers are waited for."""
    loads = [Load() for _ in range(clients)]
    began = time.perf_counter()
    threads = [
        threading.Thread(target=_client, args=(address, photos, number, began + seconds, load))
        for number, load in enumerate(loads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Load(time.perf_counter() - began)
    for load in loads:
        whole.latencies += load.latencies
        whole.errors += load.errors
    return whole


def _client(address: tuple[str, int], photos: Sequence[bytes], number: int, until: float, load: Load) -> None:
    """One client on one connection; it starts at another photo than its neighbours."""
    connection = http.client.HTTPConnection(*address, timeout=WAIT)
    for place in itertools.count(number * len(photos) // 8):
        began = time.perf_counter()
        if began >= until:
            break
        try:
            connection.request(
                "POST", "/v1/inspect", photos[place % len(photos)], {"Content-Type": "application/octet-stream"}
            )
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            load.errors[type(error).__name__] += 1
            connection.close()
            continue
        if answer.status == 200:
            load.latencies.append(time.perf_counter() - began)
        else:
            load.errors[f"status {answer.status}"] += 1
    connection.close()


def metric(address: tuple[str, int], name: str) -> float | None:
    """A number without labels from /metrics; None where it is not there."""
    connection = http.client.HTTPConnection(*address, timeout=WAIT)
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode("utf-8")
    finally:
        connection.close()
    found = re.search(rf"^{name} (\S+)$", page, flags=re.MULTILINE)
    return None if found is None else float(found[1])


def resident_memory(address: tuple[str, int]) -> float | None:
    """MiB that the server holds; None where the system does not tell."""
    found = metric(address, "process_resident_memory_bytes")
    return None if found is None else found / 2**20


def mean_batch(address: tuple[str, int]) -> float:
    """Photos that the server judged together, on average."""
    photos, batches = metric(address, "unias_batch_size_sum"), metric(address, "unias_batch_size_count")
    return (photos or 0.0) / (batches or 1.0)


def percentile(times: Sequence[float], share: float) -> float:
    """Seconds that ``share`` of the answers do not exceed (nearest rank); NaN without answers."""
    ordered = sorted(times)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def _row(load: Load, bare: float) -> dict[str, float]:
    return {
        "photos_a_second": load.rate,
        "bare": bare,
        "share_of_bare": load.rate / bare,
        "p50": percentile(load.latencies, 0.5),
        "p99": percentile(load.latencies, 0.99),
    }
