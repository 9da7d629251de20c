"""Many trainings one after the other, each in processes of its own, so that a killed study goes on where it was.

One folder a run: ``model/``, ``evaluation/`` and ``result.json``, which alone says that the run is done and holds all that the
tables need: models may be removed, or left on the machine that made them. An unfinished training is resumed. Every run starts
from an empty feature cache, so that each pays for its own features. A study's folder is one process's at a time, and that of the
run that it started: where the study is killed, its run may live on, and a second beside it would spoil both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unias.data.layouts import Dataset
from unias.errors import DataError, Interrupted, TrainingError, UsageError
from unias.files import ensure_folder, read_lines, write_json
from unias.progress import Progress

REQUEST = "request.json"
RUNS = "runs"
RESULT = "result.json"
LOCK = ".lock"
_held: list[int] = []  # descriptors of locks, handed on to what is started


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: of its folder.
        train: arguments of the command that makes the model, beside its output.
        command: the command and what it reads; None = ``unias train`` on the study's data.
        tests: folder that the model is evaluated on; None = the study's data.
    """

    name: str
    train: tuple[str, ...]
    command: tuple[str, ...] | None = None
    tests: Path | None = None


@dataclass(frozen=True)
class Done:
    """What a run came to. record: of the model. metrics: of the evaluation. model_mib: of the model folder."""

    name: str
    folder: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    model_mib: float

    @property
    def model(self) -> Path:
        """The model's folder, which may be gone."""
        return self.folder / "model"

    def part(self, name: str | None) -> Mapping[str, Any]:
        """{"classes", "mean"} of a subset of the test photos, or of all."""
        found: Mapping[str, Any] = self.metrics if name is None else self.metrics["subsets"][name]
        return found


def identity(dataset: Dataset, subsets: Mapping[str, Path], common: Sequence[str]) -> dict[str, Any]:
    """What runs of one table must share: photos, lists of test photos, device and threads; not how much they say."""
    keys = "\n".join(sorted(f"{sample.split} {sample.key}" for sample in dataset.samples))
    lists = {name: _hash("\n".join(read_lines(file))) for name, file in subsets.items()}
    return {
        "data": dataset.root.resolve().name,
        "photos": _hash(keys),
        "subsets": lists,
        "common": [word for word in common if word != "-q"],
    }


def check_subsets(dataset: Dataset, subsets: Mapping[str, Path]) -> None:
    """Raises DataError for a line that is no test photo: now, and not after the first training."""
    tests = {sample.key for sample in dataset.test()}
    for name, file in subsets.items():
        missing = [line for line in read_lines(file) if line not in tests]
        if missing:
            raise DataError(f"subset {name}: {missing[0]} is no test photo of {dataset.root}. Check {file}.")


def length(preset: str, minutes: float | None, epochs: int | None, usual: float) -> tuple[float | None, int | None]:
    """(minutes, epochs) of each run, one of them None, both where the preset's own epochs count: ``small`` is trained for
    ``usual`` minutes where nothing is asked, others as published. Raises UsageError for both."""
    if minutes is not None and epochs is not None:
        raise UsageError("--minutes and --epochs: give one of the two.")
    if minutes is None and epochs is None and preset == "small":
        return usual, None
    return minutes, epochs


def length_words(minutes: float | None, epochs: int | None) -> list[str]:
    """Of ``unias train``."""
    found = [] if minutes is None else ["--minutes", f"{minutes:g}"]
    return found if epochs is None else [*found, "--epochs", str(epochs)]


def length_told(minutes: float | None, epochs: int | None) -> str:
    """In words, for the tables."""
    if minutes is not None:
        return f"{minutes:g} minutes, photos to model on disk"
    return "the epochs of its preset" if epochs is None else f"{epochs} epochs"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def claim(home: Path, request: Mapping[str, Any]) -> None:
    """Make the study's folder, or go on with it. Raises UsageError where it was begun with other data or settings, DataError
    for a folder that holds something else."""
    file = home / REQUEST
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read. Remove {home} and begin anew.") from error
        if isinstance(before.get("common"), list):
            before["common"] = [word for word in before["common"] if word != "-q"]
        other = [key for key in {**request, **before} if before.get(key) != request.get(key)]
        if other:
            raise UsageError(
                f"{home}: was begun with {other[0]} {before.get(other[0])!r}, not {request.get(other[0])!r}. Go on with the "
                "same, or choose another output with -o."
            )
        return
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise DataError(f"{home}: exists and is no study to go on with. Choose another output with -o.")
    ensure_folder(home)
    write_json(file, dict(request))


def perform(
    jobs: Sequence[Job], data: Path, home: Path, evaluate: Sequence[str], progress: Progress, common: Sequence[str] = ()
) -> list[Done]:
    """Run what is not done yet, in order. ``evaluate``: arguments of ``unias evaluate`` beside model, data and output;
    ``common``: of both commands.

    Raises TrainingError naming the run that failed, with its last line; Interrupted at Ctrl-C and SIGTERM; UsageError where
    the study, or a run that it left, is still at work.
    """
    with alone(home):
        return _perform(jobs, data, home, evaluate, progress, common)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold ``home`` for this process and those that it starts meanwhile, even where they outlive it. Raises UsageError where
    another holds it. Where the system or the disk knows no such locks, nothing is held."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (ensure_folder(home) / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{home}: is being worked on, by another command or by a run that a killed one left behind. Wait for it, or "
                "end it, and run the same command again."
            ) from error
        except OSError:
            pass
        _held.append(file.fileno())
        try:
            yield
        finally:
            _held.remove(file.fileno())


def _perform(
    jobs: Sequence[Job], data: Path, home: Path, evaluate: Sequence[str], progress: Progress, common: Sequence[str]
) -> list[Done]:
    done = []
    for left in home.glob("cache-*"):  # of a study that was killed
        shutil.rmtree(left, ignore_errors=True)
    for place, job in enumerate(jobs, 1):
        folder = home / RUNS / job.name
        model, evaluation = folder / "model", folder / "evaluation"
        if (folder / RESULT).is_file():
            done.append(read(job.name, folder))
            continue
        if not (model / "manifest.json").is_file():
            progress.say(f"{job.name} ({place} of {len(jobs)}): training")
            resume = ["--resume"] if (model / "train_state").is_dir() else []
            command = job.command or ("train", str(data))
            _child(job.name, home, [*command, "-o", str(model), *job.train, *common, *resume])
        if not (evaluation / "metrics.json").is_file():
            progress.say(f"{job.name} ({place} of {len(jobs)}): evaluating")
            shutil.rmtree(evaluation, ignore_errors=True)
            tests = str(job.tests or data)
            _child(job.name, home, ["evaluate", str(model), tests, "-o", str(evaluation), *evaluate, *common])
        write_json(folder / RESULT, _result(folder))
        done.append(read(job.name, folder))
    return done


def _result(folder: Path) -> dict[str, Any]:
    """What result.json holds, from the model and its evaluation."""
    try:
        record = json.loads((folder / "model" / "products.json").read_text(encoding="utf-8"))["record"]
        metrics = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in (folder / "model").iterdir() if file.is_file())
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(folder) from error
    return {"record": record, "metrics": metrics, "model_mib": size / 2**20}


def read(name: str, folder: Path) -> Done:
    """A run that is done. Raises DataError where its result.json cannot be read."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return Done(name, folder, dict(found["record"]), dict(found["metrics"]), float(found["model_mib"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder) from error


def _unreadable(folder: Path) -> DataError:
    return DataError(f"{folder}: cannot be read as a finished run. Remove it and run the same command again.")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C: handed on, waited for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _let_finish(child: subprocess.Popen[str]) -> None:
    """Hand one Ctrl-C on, and wait until the child has kept its state. A second one ends it."""
    try:
        if os.name != "nt" and child.poll() is None:
            child.send_signal(signal.SIGINT)
        for _ in child.stderr or ():  # read on, or it would wait for room in the pipe
            pass
        child.wait()
    except KeyboardInterrupt:
        child.kill()
        child.wait()


def _child(name: str, home: Path, arguments: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="cache-", dir=home) as cache:
        environment = {**os.environ, "UNIAS_CACHE": cache}
        last = ""
        with (
            _terminated_as_interrupted(),
            subprocess.Popen(
                [sys.executable, "-m", "unias", *arguments],
                env=environment,
                pass_fds=tuple(_held),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                # So that it gets Ctrl-C from here, once, however this process got it.
                start_new_session=os.name != "nt",
            ) as child,
        ):
            try:
                for line in child.stderr or ():
                    last = line.rstrip() or last
                    print(f"  {line.rstrip()}", file=sys.stderr, flush=True)
                code = child.wait()
            except KeyboardInterrupt as error:
                _let_finish(child)
                raise Interrupted(f"{name} was interrupted; run the same command to go on.") from error
    if code == 130:
        raise Interrupted(f"{name} was interrupted; run the same command to go on.")
    if code != 0:
        said = last.removeprefix("error: ").rstrip(".")
        raise TrainingError(
            f"{name}: unias {arguments[0]} ended with exit code {code}: {said}. Mend it and run the same command."
        )
