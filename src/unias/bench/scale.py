"""``unias bench scale``: what more photos and more products cost, in time, memory and accuracy."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unias.bench.accuracy import read_keys
from unias.bench.bars import scale_bars
from unias.bench.fresh import fault_of, in_fresh_process
from unias.bench.growth import COUNTS, GROWN, Budget, forget, measure_growth, pick_watched
from unias.bench.products import folder_bytes, many_products, statistics_bytes, widen
from unias.bench.rounds import ONCE, Block, Call, interleave, ratio, typical
from unias.bench.scale_page import scale_page
from unias.bench.stamps import bench_stamp, load_average
from unias.bench.subjects import Subject, load_trained, random_subject, trained_subject
from unias.bench.variants import Runner, prepare
from unias.config import Config
from unias.data.demo import make_demo_data
from unias.data.layouts import Dataset, scan
from unias.errors import MissingError, UsageError
from unias.files import claimed_folder, write_json, write_text
from unias.inference.store import save_model
from unias.maps.detector import Detector
from unias.presets import preset
from unias.progress import Progress
from unias.runtime import set_threads

IMAGES = (100, 500, 1000, 10_000)
PRODUCTS = (5, 300)
FEW_IMAGES = 500  # what the largest count is compared with
PHOTOS = 8  # that each of many products is fitted to
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class ScalePlan:
    """How much is measured.

    Attributes:
        images: counts of photos through ``predict``.
        products: few and many.
        growth: numbers of products that models are trained on; none without minutes or steps.
        rounds: of the interleaved loop over few and many products.
        probes, probe_photos: fresh processes for each of them, and photos in each.
        evaluation: also ``unias evaluate`` on as many photos.
    """

    images: tuple[int, ...]
    products: tuple[int, int]
    growth: tuple[int, ...]
    photos: int
    threads: int
    rounds: int
    probes: int
    probe_photos: int
    block: Block
    evaluation: bool
    quick: bool


def run_scale(
    output: Path | str,
    data: Path | str,
    *,
    model: Path | str | None = None,
    subset: Path | None = None,
    images: Sequence[int] = IMAGES,
    products: Sequence[int] = PRODUCTS,
    growth: Sequence[int] = COUNTS,
    watch: Sequence[str] = (),
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    threads: int = 2,
    rounds: int = 9,
    evaluation: bool = False,
    quick: bool = False,
    progress: Progress | None = None,
    config: Config | None = None,
) -> dict[str, Any]:
    """Measure, write ``scale.md`` and ``scale.json`` into ``output``, and give back what the latter holds.

    Args:
        data: photos in MVTec-AD layout: taken in turn, made products of, trained on.
        model: a trained model's folder; without it one with random weights, which costs the same time and memory.
        subset: a file that lists the test photos that pAP is read on.
        images: how many photos go through ``predict``.
        products: few and many.
        growth, watch, minutes, steps, seed: accuracy on the products ``watch`` as so many are trained, each model for these
            minutes or steps; not measured without either.
        evaluation: also run ``unias evaluate`` on so many photos.
        quick: everything once, on few photos, without the demo's products: shows that it runs.
        config: settings in place of the preset ``small`` (tests).

    Raises:
        UsageError, DataError: a model, data folder, list or number that cannot be used.
    """
    progress = progress or Progress("silent")
    plan = make_plan(images, products, growth, threads, rounds, evaluation, quick)
    if minutes is not None and steps is not None:
        raise UsageError("give one of --minutes and --steps, not both.")
    dataset = scan(data)
    keys = read_keys(subset, Path(data))
    watched = pick_watched(dataset, watch)
    set_threads(threads)
    settings = config or preset("small")
    with (
        claimed_folder(output) as out,
        tempfile.TemporaryDirectory(prefix="unias-bench-", ignore_cleanup_errors=True) as place,
    ):
        home = Path(place)
        marks = bench_stamp()
        subject = (
            trained_subject("small", Path(model), Path(data))
            if model is not None
            else random_subject("small", settings, home, Path(data))
        )
        more, missing = _demo(home / "demo", seed, quick)
        datasets = [dataset, *more]
        budget = Budget(minutes, steps, seed, threads)
        grown: dict[str, Any] = {"fault": "not measured: give --minutes, for each of the models that are trained"}
        document: dict[str, Any] = {
            **marks,
            "quick": quick,
            "model": subject.about,
            "data": dataset.root.name,
            "subset": subset.name if subset is not None else None,
            "not_installed": missing,
            "images": measure_images(plan, subject.folder, dataset, home, progress),
            "products": measure_products(plan, subject, datasets, home, progress),
            "growth": measure_growth(
                datasets, watched, plan.growth, settings, budget, keys, home / "growth", progress, out / GROWN
            )
            if minutes is not None or steps is not None
            else grown,
        }
        document["load_after"] = load_average()
        document["bars"] = scale_bars(document)
        write_json(out / "scale.json", document)
        write_text(out / "scale.md", scale_page(document))
        forget(out / GROWN, document["growth"].get("rows", []))
    return document


def make_plan(
    images: Sequence[int],
    products: Sequence[int],
    growth: Sequence[int],
    threads: int,
    rounds: int,
    evaluation: bool,
    quick: bool,
) -> ScalePlan:
    """Checked. ``quick``: everything once, on tens of photos and products."""
    if not images or min(images) < 1 or not growth or min(growth) < 1:
        raise UsageError("--images and --growth: numbers from 1 up are needed.")
    if len(products) != 2 or not 1 <= products[0] < products[1]:
        raise UsageError("--few and --many: two numbers are needed, the first smaller and at least 1.")
    few, many = products
    counts = tuple(sorted(set(images)))
    if quick:
        return ScalePlan(
            (8, 16), (min(few, 2), min(many, 6)), tuple(growth), 2, threads, 1, 1, 8, ONCE, evaluation, True
        )
    return ScalePlan(
        counts, (few, many), tuple(growth), PHOTOS, threads, rounds, 9, 64, Block(3, 0.5, 20), evaluation, False
    )


def _demo(folder: Path, seed: int, quick: bool) -> tuple[list[Dataset], str | None]:
    """Solar cells and textures from the packages of ``unias[demo]``, or what is missing."""
    if quick:
        return [], None
    try:
        return [scan(make_demo_data(folder, seed=seed))], None
    except MissingError:
        return [], 'elpv-dataset and scikit-image are not installed: pip install "unias[demo]"'


# --- more photos ------------------------------------------------------------------------------------------


def measure_images(plan: ScalePlan, folder: Path, dataset: Dataset, home: Path, progress: Progress) -> dict[str, Any]:
    """Every count in a process of its own, ascending; all but the largest once more after it, since machines drift."""
    photos = mixed([sample.path for sample in dataset.test() or list(dataset.samples)])
    order = [*plan.images, *plan.images[-2::-1]]
    answers: dict[int, list[dict[str, Any]]] = {count: [] for count in plan.images}
    with progress.stage("photos", sum(order)) as advance:
        for count in order:
            answer = in_fresh_process("predict", folder=folder, photos=photos, count=count, threads=plan.threads)
            fault = fault_of(answer)
            if fault is not None:
                return {"fault": fault, "rows": []}
            answers[count].append(answer)
            advance(count, f"{count} photos")
    rows = [_images_row(count, given) for count, given in answers.items()]
    found: dict[str, Any] = {"fault": None, "photos": len(photos), "rows": rows, "comparison": _comparison(rows)}
    if plan.evaluation:
        found["evaluation"] = _evaluations(plan, folder, dataset, home, progress)
    return found


def mixed(photos: Sequence[Path]) -> list[Path]:
    """In one random order: photos lie product by product and differ in what it takes to decode them, so that few of them in
    their own order would be others than many."""
    return [photos[place] for place in np.random.default_rng(0).permutation(len(photos))]


def _images_row(count: int, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    peaks = [answer["peak_mib"] for answer in answers]
    return {
        "count": count,
        "milliseconds_an_image": 1000 * statistics.mean(answer["seconds_a_photo"] for answer in answers),
        "runs": [1000 * answer["seconds_a_photo"] for answer in answers],
        "tenths": [1000 * seconds for seconds in answers[0]["tenths"]],
        "peak_mib": None if None in peaks else max(peaks),
        "opened_mib": answers[0]["opened_mib"],
    }


def _comparison(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The largest count against 500, or against the smallest where 500 is not among them."""
    if len(rows) < 2:
        return None
    many, few = rows[-1], next((row for row in rows[:-1] if row["count"] == FEW_IMAGES), rows[0])
    memory = None if many["peak_mib"] is None or few["peak_mib"] is None else many["peak_mib"] / few["peak_mib"]
    time = many["milliseconds_an_image"] / few["milliseconds_an_image"]
    return {"many": many["count"], "few": few["count"], "time_ratio": time, "memory_ratio": memory}


def _evaluations(plan: ScalePlan, folder: Path, dataset: Dataset, home: Path, progress: Progress) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for count in plan.images:
        progress.say(f"evaluating {count} photos")
        try:
            tests = linked_tests(dataset, count, home / f"tests-{count}")
        except OSError as error:
            return {"fault": f"not measured: links cannot be made here ({error.strerror})", "rows": []}
        answer = in_fresh_process("evaluate", folder=folder, data=tests, count=count, threads=plan.threads)
        fault = fault_of(answer)
        if fault is not None:
            return {"fault": fault, "rows": rows}
        rows.append(
            {"count": count, "milliseconds_an_image": 1000 * answer["seconds_a_photo"], "peak_mib": answer["peak_mib"]}
        )
    return {"fault": None, "rows": rows}


def linked_tests(dataset: Dataset, count: int, target: Path) -> Path:
    """A data folder of ``count`` test photos: links to those that are there, in turn. Raises OSError where links are refused."""
    samples = dataset.test()
    if not samples:
        raise UsageError(f"--evaluation: {dataset.root} has no test photos.")
    for number in range(count):
        sample = samples[number % len(samples)]
        links = {target / sample.product / "test" / sample.defect / f"{number:06}{sample.path.suffix}": sample.path}
        if sample.mask is not None and not sample.is_good:
            name = f"{number:06}" if sample.mask.is_dir() else f"{number:06}_mask{sample.mask.suffix}"
            mask = target / sample.product / "ground_truth" / sample.defect / name
            links[mask] = sample.mask
        for link, path in links.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return target


# --- more products ----------------------------------------------------------------------------------------


def measure_products(
    plan: ScalePlan, subject: Subject, datasets: Sequence[Dataset], home: Path, progress: Progress
) -> dict[str, Any]:
    """The model with few and with many products: files, memory of fresh processes, time in turn in this one."""
    listed = many_products(datasets, subject.config.size, plan.products[1])
    folders: dict[str, Path] = {}
    found: dict[str, Any] = {"fault": None, "photos_a_product": plan.photos}
    calls: dict[str, Call] = {}
    for name, count in zip(("few", "many"), plan.products, strict=True):
        wide = widen(load_trained(subject.folder), listed[:count], plan.photos, progress)
        folders[name] = home / f"products-{count}"
        save_model(folders[name], wide.stored)
        detector = load_trained(folders[name]).detector
        assert isinstance(detector, Detector)
        calls[name] = _judge(prepare(detector, "fused"), subject.images)
        found[name] = {
            "products": count,
            "kinds": wide.kinds,
            "recognised": wide.recognised,
            "disk_bytes": folder_bytes(folders[name]),
            "statistics_bytes": statistics_bytes(detector),
        }
    done = interleave(calls, plan.rounds, plan.block, progress, "few and many products")
    for name in calls:
        found[name]["milliseconds_an_image"] = 1000 * typical(done, name) / len(subject.images)
    found["time_ratio"] = 1 / ratio(done, "many", "few")
    photos = [sample.path for sample in datasets[0].samples][: plan.probe_photos]
    fault = _memory(plan, folders, photos, found)
    if fault is not None:
        return {**found, "fault": fault}
    more = plan.products[1] - plan.products[0]
    few, many = found["few"], found["many"]
    found["disk_mb_a_product"] = (many["disk_bytes"] - few["disk_bytes"]) / more / MEGABYTE
    found["statistics_mb_a_product"] = (many["statistics_bytes"] - few["statistics_bytes"]) / more / MEGABYTE
    known = few["peaks_mib"] and many["peaks_mib"]
    mib = 2**20 / more / MEGABYTE
    noise = 2 * math.hypot(*(median_error(one["peaks_mib"]) for one in (few, many))) if known else 0.0
    found["memory_mb_a_product"] = (many["peak_mib"] - few["peak_mib"]) * mib if known else None
    found["memory_noise_mb_a_product"] = noise * mib if known else None
    return found


def median_error(values: Sequence[float]) -> float:
    """The standard error of a median of normal figures: 1.2533 * deviation / sqrt(n); the whole of a single figure."""
    if len(values) < 2:
        return abs(values[0])
    return 1.2533 * statistics.stdev(values) / math.sqrt(len(values))


def _judge(detector: Detector, images: torch.Tensor) -> Call:
    """A batch whose products are not known: each photo is compared with every product."""
    runner = Runner(detector, torch.device("cpu"))
    return lambda: runner(images)


def _memory(plan: ScalePlan, folders: Mapping[str, Path], photos: Sequence[Path], found: dict[str, Any]) -> str | None:
    """Peak memory of fresh processes, the median of some in turn; gives back what went wrong."""
    peaks: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(plan.probes):
        for name, folder in folders.items():
            answer = in_fresh_process(
                "predict", folder=folder, photos=photos, count=plan.probe_photos, threads=plan.threads
            )
            fault = fault_of(answer)
            if fault is not None:
                return fault
            peaks[name] += [] if answer["peak_mib"] is None else [answer["peak_mib"]]
    for name, given in peaks.items():
        found[name]["peaks_mib"] = given
        found[name]["peak_mib"] = statistics.median(given) if given else None
    return None
