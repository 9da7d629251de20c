"""``unias bench speed``: every form of the model side by side against the yardstick, in one run.

models and exports -> a fresh process each: first photo, peak memory -> all opened here: maps compared, multiply-adds counted
-> rounds in turn -> training steps, start of the command line -> pAP of trained rows -> bars, table
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unias.bench.accuracy import pap_of_row, read_keys
from unias.bench.bars import kept_scale_bars, speed_bars
from unias.bench.fresh import fault_of, in_fresh_process
from unias.bench.pages import speed_page
from unias.bench.rate import MULTIPLY_ADDS, Convolution
from unias.bench.rounds import ONCE, Block, Call, Round, count, interleave, percentile, ratio, typical
from unias.bench.stamps import bench_stamp, load_average
from unias.bench.startup import measure_startup
from unias.bench.subjects import PHOTOS, Subject, export_subject, load_trained, random_subject, trained_subject, work_of
from unias.bench.training import rows_of
from unias.bench.variants import (
    PARTS,
    SMALL_EAGER,
    YARDSTICK,
    Runner,
    Variant,
    lacking,
    open_variant,
    overlap_of,
    parts_of,
    pick,
    prepare,
    reference,
)
from unias.config import Config
from unias.data.layouts import scan
from unias.files import claimed_folder, write_json, write_text
from unias.maps.detector import Detector
from unias.presets import preset
from unias.progress import Progress
from unias.runtime import half_of, set_threads

BATCHES = (1, PHOTOS)
BLOCKS = {1: Block(3, 0.5, 50), PHOTOS: Block(1, 0.5, 20)}
AUPRO = "AUPRO"
LEFT_OUT = "not measured: left out by --rows-only"
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds, training_rounds: of the interleaved loops.
        probes: fresh processes a row.
        calls: after the first photo in each of them, and as many batches.
        blocks: {batch: how often a row is called in one round}.
        rows_only: training steps and the start of the command line are left out.
    """

    threads: int
    rounds: int
    training_rounds: int
    probes: int
    calls: int
    blocks: Mapping[int, Block]
    quick: bool = False
    rows_only: bool = False


def make_plan(threads: int, rounds: int, quick: bool, probes: int | None = None, rows_only: bool = False) -> Plan:
    """``quick``: everything once."""
    if quick:
        return Plan(threads, 1, 1, 1, 1, dict.fromkeys(BATCHES, ONCE), quick, rows_only)
    return Plan(threads, rounds, max(1, rounds // 3), probes or min(rounds, 3), 3, BLOCKS, rows_only=rows_only)


def run_speed(
    output: Path | str,
    *,
    model: Path | str | None = None,
    data: Path | str | None = None,
    subset: Path | None = None,
    threads: int = 2,
    rounds: int = 9,
    only: Sequence[str] = (),
    quick: bool = False,
    probes: int | None = None,
    rows_only: bool = False,
    progress: Progress | None = None,
    configs: Mapping[str, Config] | None = None,
) -> dict[str, Any]:
    """Measure, write ``speed.md`` and ``speed.json`` into ``output``, and give back what the latter holds.

    Args:
        model: a trained model's folder, measured as ``small``; without it that has random weights.
        data: photos to measure on; of a trained model also to calibrate 8 bits on and to read pAP on.
        subset: a file that lists the test photos that pAP is read on.
        only: names of rows; the yardstick is always among them. All where empty.
        quick: one round, one call each: shows that everything runs, its figures are noise.
        probes: fresh processes a row, for first photo and peak memory; None = as many as rounds, at most 3.
        rows_only: leave out training steps and the start of the command line, which no row touches.
        configs: settings of ``paper`` and ``small`` in place of the presets (tests).

    Raises:
        UsageError, DataError: a model, data folder, list or row that cannot be used.
    """
    progress = progress or Progress("silent")
    variants = pick(only)
    source = Path(data) if data is not None else None
    keys = read_keys(subset, source)
    if source is not None:
        scan(source)
    set_threads(threads)
    settings = {"paper": preset("paper"), "small": preset("small"), **(configs or {})}
    with (
        claimed_folder(output) as out,
        tempfile.TemporaryDirectory(prefix="unias-bench-", ignore_cleanup_errors=True) as place,
    ):
        home = Path(place)
        progress.say("making the models")
        subjects = {}
        if any(variant.model == "small" for variant in variants):
            subjects["small"] = (
                trained_subject("small", Path(model), source)
                if model is not None
                else random_subject("small", settings["small"], home, source)
            )
        subjects["paper"] = random_subject("paper", settings["paper"], home, source)
        document = Speed(
            make_plan(threads, rounds, quick, probes, rows_only), home, variants, subjects, keys, progress
        ).measure()
        document["subset"] = subset.name if subset is not None else None
        document["bars"] = [*speed_bars(document), *kept_scale_bars(out / "scale.json")]
        write_json(out / "speed.json", document)
        write_text(out / "speed.md", speed_page(document))
    return document


class Speed:
    """One run of the bench; temporary files go to ``home``."""

    def __init__(
        self,
        plan: Plan,
        home: Path,
        variants: Sequence[Variant],
        subjects: Mapping[str, Subject],
        keys: Sequence[str] | None,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self.home = home
        self.variants = tuple(variants)
        self.subjects = subjects
        self.keys = keys
        self.progress = progress
        self.rows: dict[str, Row] = {}
        self.folders: dict[str, Path] = {}
        self.runners: dict[str, Runner] = {}
        self.arrays = {name: home / f"{name}.npy" for name in subjects}

    def measure(self) -> dict[str, Any]:
        """Everything but the bars."""
        marks = bench_stamp()
        for name, subject in self.subjects.items():
            np.save(self.arrays[name], subject.photos.images)
        self._make()
        self._probe()
        self._open()
        done = self._rounds()
        for name in self.runners:
            self._fill(name, done)
        parts = self._parts(done)
        rates = {name: 2 * MULTIPLY_ADDS / typical(done, name) for name in done[0] if "@" not in name}
        self.runners.clear()
        training, startup = self._training(), self._startup()
        self._accuracy()
        return {
            **marks,
            "load_after": load_average(),
            "rounds": self.plan.rounds,
            "quick": self.plan.quick,
            "models": {name: subject.about for name, subject in self.subjects.items()},
            "convolution_flops": rates,
            "rows": list(self.rows.values()),
            "parts": parts,
            "training": training,
            "startup": startup,
        }

    def _make(self) -> None:
        """Rows, and the folder that each of them runs; or why there is none."""
        for variant in self.variants:
            subject = self.subjects[variant.model]
            row: Row = {**dataclasses.asdict(variant), "weights": subject.weights, "fault": lacking(variant), "why": {}}
            self.rows[variant.name] = row
            if row["fault"] is not None:
                continue
            folder: Path | str = subject.folder
            if variant.engine != "eager":
                self.progress.say(f"export: {variant.title}")
                folder = export_subject(subject, variant.engine, self.home, self.progress)
            if isinstance(folder, str):
                row["fault"] = folder
            else:
                self.folders[variant.name] = folder

    def _probe(self) -> None:
        """First photo and peak memory, in fresh processes, in turn."""
        waiting = [variant for variant in self.variants if variant.name in self.folders]
        answers: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in waiting}
        with self.progress.stage("fresh processes", self.plan.probes * len(waiting)) as advance:
            for _ in range(self.plan.probes):
                for variant in waiting:
                    answer = in_fresh_process(
                        "first_image",
                        variant=dataclasses.asdict(variant),
                        folder=self.folders[variant.name],
                        images=self.arrays[variant.model],
                        threads=self.plan.threads,
                        calls=self.plan.calls,
                    )
                    answers[variant.name].append(answer)
                    advance(1, variant.name)
        for name, given in answers.items():
            fill_probe(self.rows[name], given)

    def _open(self) -> None:
        """All of them in this process; maps against float32 of the same model; multiply-adds."""
        maps: dict[str, Tensor] = {}
        work: dict[tuple[str, str], int] = {}
        for variant in self.variants:
            if variant.name not in self.folders:
                continue
            row = self.rows[variant.name]
            try:
                runner = open_variant(variant, self.folders[variant.name])
                maps[variant.name] = runner(self.subjects[variant.model].images)
            except (RuntimeError, OSError) as error:  # out of a GPU's memory, no compiler
                if variant.name == reference(variant):
                    raise
                row["fault"] = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                continue
            self.runners[variant.name] = runner
            kind = (variant.model, variant.form)
            if kind not in work:
                detector = runner.detector if isinstance(runner.detector, Detector) else self._fused(variant.model)
                work[kind] = work_of(detector, self.subjects[variant.model].images.to(detector.device))
            row["multiply_adds"] = work[kind]
            whole = maps[reference(variant)]
            row["map_difference"] = float((maps[variant.name] - whole).abs().max() / whole.abs().max())

    def _fused(self, model: str) -> Detector:
        """What an export of the model holds."""
        detector = load_trained(self.subjects[model].folder).detector
        assert isinstance(detector, Detector)
        return prepare(detector, "fused")

    def _rates(self) -> dict[str, Call]:
        """The machine's own rate, for every kind of number that a row computes in."""
        kinds = {("cpu", "float32")}
        for name in self.runners:
            row = self.rows[name]
            kinds.add((row["device"], "bfloat16" if row["precision"] == "bfloat16" else "float32"))
        found: dict[str, Call] = {}
        for device, kind in sorted(kinds):
            place = torch.device(device)
            found[f"{device} {kind}"] = Convolution(place, (kind == "bfloat16" and half_of(place)) or torch.float32)
        return found

    def _rounds(self) -> list[Round]:
        calls: dict[str, Call] = {}
        blocks: dict[str, Block] = {}
        for batch in BATCHES:
            for name, runner in self.runners.items():
                calls[f"{name}@{batch}"] = _bound(runner, self.subjects[self.rows[name]["model"]].images[:batch])
            if SMALL_EAGER in self.runners:
                images = self.subjects["small"].images[:batch]
                parts = parts_of(self.runners[SMALL_EAGER], images)
                calls |= {f"{part}@{batch}": call for part, call in parts.items()}
            blocks |= {name: self.plan.blocks[batch] for name in calls if name not in blocks}
        if SMALL_EAGER in self.runners:
            name = f"{AUPRO}@{PHOTOS}"
            calls[name], blocks[name] = (
                overlap_of(PHOTOS, self.subjects["small"].images.shape[-1]),
                self.plan.blocks[PHOTOS],
            )
        for name, call in self._rates().items():
            calls[name], blocks[name] = call, self.plan.blocks[1]
        return interleave(calls, self.plan.rounds, blocks, self.progress)

    def _fill(self, name: str, done: Sequence[Round]) -> None:
        """One row's times."""
        row = self.rows[name]
        kind = row["precision"] if row["precision"] == "bfloat16" else "float32"
        row["batches"] = {}
        for batch in BATCHES:
            key = f"{name}@{batch}"
            seconds, of_rate = typical(done, key), ratio(done, key, f"{row['device']} {kind}")
            row["batches"][str(batch)] = {
                "images_a_second": batch / seconds,
                "milliseconds_an_image": 1000 * seconds / batch,
                "p50_milliseconds": 1000 * percentile(done, key, 0.5),
                "p99_milliseconds": 1000 * percentile(done, key, 0.99),
                "calls": count(done, key),
                "times_yardstick": ratio(done, key, f"{YARDSTICK}@{batch}"),
                "share_of_rate": row["multiply_adds"] * batch / MULTIPLY_ADDS * of_rate,
            }

    def _parts(self, done: Sequence[Round]) -> dict[str, Any]:
        """``small``: backbone and the rest alone, milliseconds an image, and how they compare round by round."""
        if SMALL_EAGER not in self.runners:
            return {}
        found: dict[str, Any] = {
            str(batch): {
                "milliseconds": {part: 1000 * typical(done, f"{part}@{batch}") / batch for part in PARTS},
                "rest_over_backbone": ratio(done, f"backbone@{batch}", f"the rest@{batch}"),
                "rest_over_backbone_nchw": ratio(done, f"backbone, NCHW@{batch}", f"the rest@{batch}"),
            }
            for batch in BATCHES
        }
        maps, aupro = f"{SMALL_EAGER}@{PHOTOS}", f"{AUPRO}@{PHOTOS}"
        found[str(PHOTOS)]["milliseconds"][AUPRO] = 1000 * typical(done, aupro) / PHOTOS
        found[str(PHOTOS)]["aupro_over_maps"] = ratio(done, maps, aupro)
        return found

    def _startup(self) -> dict[str, Any]:
        """Of the command line."""
        if self.plan.rows_only:
            return {"fault": LEFT_OUT}
        self.progress.say("start of the command line")
        return {"fault": None, **measure_startup(1 if self.plan.quick else 5)}

    def _training(self) -> dict[str, Any]:
        """Steps of ``paper`` in a process of its own."""
        if self.plan.rows_only:
            return {"fault": LEFT_OUT}
        self.progress.say("training steps of paper")
        answer = in_fresh_process(
            "training",
            folder=self.subjects["paper"].folder,
            images=self.arrays["paper"],
            threads=self.plan.threads,
            rounds=self.plan.training_rounds,
        )
        fault = fault_of(answer)
        return {"fault": fault} if fault is not None else rows_of(answer)

    def _accuracy(self) -> None:
        """pAP of trained rows, by ``unias evaluate`` with each engine; what is lost against float32."""
        base: dict[str, float] | None = None
        for name, row in self.rows.items():
            if row["fault"] is not None:
                continue
            found = pap_of_row(row, self.subjects[row["model"]], self.folders[name], self.keys, self.progress)
            if isinstance(found, str):
                row["why"]["pap_lost"] = found
                continue
            base = base or found  # the first of them is float32 eager
            row["pap"], row["pap_lost"] = found, base["mean"] - found["mean"]


def fill_probe(row: Row, answers: Sequence[Mapping[str, Any]]) -> None:
    """First photo: medians of the fresh processes; memory: the highest of them. Or why there is none."""
    good = [answer for answer in answers if fault_of(answer) is None]
    if not good:
        fault = fault_of(answers[0]) or "failed"
        row["why"] |= {"first_image": fault, "peak_mib": fault}
        return
    for key in ("import_seconds", "open_seconds", "first_seconds"):
        row[key] = statistics.median(answer[key] for answer in good)
    row["first_image_seconds"] = statistics.median(answer["open_seconds"] + answer["first_seconds"] for answer in good)
    if any(value is None for value in good[0]["peak_mib"].values()):
        row["why"]["peak_mib"] = "not measured: this system does not tell"
        return
    row["peak_mib"] = {batch: max(answer["peak_mib"][batch] for answer in good) for batch in good[0]["peak_mib"]}


def _bound(runner: Runner, images: Tensor) -> Call:
    return lambda: runner(images)
