"""Jobs: one child process at a time, the others wait in line. All that is known of a job lies in its folder, so that a reload of
the page or another start of the studio loses none.

    job.json        what was asked for, its state, its process     outcome.json  written by the child as its last act
    progress.jsonl  what its commands report (``progress.Progress``)     log.txt  what they said      work/  unfinished output
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unias.errors import DataError
from unias.files import write_json
from unias.progress import RECORD
from unias.serve.refusals import Refusal
from unias.studio.processes import Process, start
from unias.studio.workspace import JOBS, Workspace, read_json, read_lines_of

LOG_OF_STUDIO = logging.getLogger("unias.studio")
POLL = 0.25  # seconds between looks at the running child
MOST_WAITING = 20
OPEN = ("waiting", "running")
JOB, OUTCOME, PROGRESS, LOG, WORK = "job.json", "outcome.json", "progress.jsonl", "log.txt", "work"


@dataclass
class Job:
    """One job.

    Attributes:
        kind: train, judge, check or export.
        state: waiting, running, done, failed, cancelled, or lost (the studio was not there when its process went away).
        stage: what it does now; step of steps (None = nobody knows); loss of a training.
        message: the last line of information, or why it failed.
        started, ended: seconds since 1970, None where it is not so far.
        wishes: what was asked for.  result: what it came to.
    """

    id: str
    kind: str
    wishes: dict[str, Any]
    state: str = "waiting"
    stage: str = ""
    step: int = 0
    steps: int | None = None
    stage_seconds: float = 0.0
    loss: float | None = None
    message: str = ""
    made: float = 0.0
    started: float | None = None
    ended: float | None = None
    result: dict[str, Any] | None = None
    process: Process | None = None
    version: int = field(default=0, compare=False)
    offset: int = field(default=0, compare=False)

    def view(self) -> dict[str, Any]:
        """For the page."""
        now = time.time() if self.ended is None else self.ended
        seconds = 0.0 if self.started is None else max(0.0, now - self.started)
        names = "id kind state stage step steps loss message made started ended wishes result"
        shown = {name: getattr(self, name) for name in names.split()}
        return {**shown, "seconds": round(seconds, 1), "left": self.left(seconds)}

    def left(self, seconds: float) -> float | None:
        """Seconds until it is done: what is left of the minutes asked for, else what this stage will still take."""
        if self.state != "running":
            return None
        minutes = self.wishes.get("minutes")
        if self.kind == "train" and minutes and seconds < minutes * 60:
            return round(float(minutes) * 60 - seconds, 1)
        if not self.steps or not self.step:
            return None
        return round(self.stage_seconds / self.step * max(0, self.steps - self.step), 1)

    def kept(self) -> dict[str, Any]:
        """For job.json; what progress.jsonl says is not repeated."""
        names = "id kind state message made started ended wishes result"
        process = None if self.process is None else self.process.to_dict()
        return {**{name: getattr(self, name) for name in names.split()}, "process": process}

    def hear(self, line: dict[str, Any]) -> None:
        """One line of progress.jsonl."""
        if isinstance(line.get("say"), str):
            self.message = line["say"]
        elif isinstance(line.get("stage"), str):
            self.stage, self.step, self.steps = line["stage"], int(line.get("done") or 0), line.get("total")
            self.stage_seconds = float(line.get("seconds") or 0)
            word, _, value = str(line.get("note") or "").partition(" ")
            with contextlib.suppress(ValueError):
                self.loss = float(value) if word == "loss" else self.loss


class Jobs:
    """The line of jobs and the thread that looks after it.

    Args:
        command: arguments that start a job's child; its folder is appended.
        ended: called with each job that has come to its end, from that thread.
    """

    def __init__(
        self,
        workspace: Workspace,
        command: tuple[str, ...] = (sys.executable, "-m", "unias.studio.child"),
        ended: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.workspace = workspace
        self.command = command
        self.ended = ended
        self.version = 0  # goes up with every change of any job
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._unkept: set[str] = set()  # jobs whose job.json is behind
        self._ending = 0  # cancelled ones whose processes are still there
        self._jobs = {job.id: job for job in self._found()}

    # -- what the page asks for

    def all(self) -> list[dict[str, Any]]:
        """Every job, the newest first."""
        with self._lock:
            return [job.view() for job in sorted(self._jobs.values(), key=lambda job: job.id, reverse=True)]

    def one(self, number: str) -> dict[str, Any]:
        """A job. Raises Refusal 404 for none."""
        with self._lock:
            return self._get(number).view()

    def changed(self, since: int) -> tuple[int, list[dict[str, Any]]]:
        """(the newest version, jobs that changed after version ``since``, oldest first)."""
        with self._lock:
            found = [job for job in self._jobs.values() if job.version > since]
            return self.version, [job.view() for job in sorted(found, key=lambda job: job.id)]

    def log(self, number: str, most: int = 1 << 20) -> str:
        """The end of what a job's commands said."""
        with self._lock:
            home = self._home(self._get(number))
        try:
            with open(home / LOG, "rb") as file:
                file.seek(max(0, (home / LOG).stat().st_size - most))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def add(self, kind: str, wishes: dict[str, Any]) -> dict[str, Any]:
        """A job more, at the end of the line. Raises Refusal 429 where too many wait."""
        with self._lock:
            if sum(job.state == "waiting" for job in self._jobs.values()) >= MOST_WAITING:
                raise Refusal(429, "queue_full", f"{MOST_WAITING} jobs are waiting already.", "Cancel one, or wait.")
            now = time.time()
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
            job = Job(f"{stamp}-{round(now % 1 * 1e6) % 1_000_000:06}-{secrets.token_hex(2)}", kind, wishes, made=now)
            # Its child reads it: where it cannot be written, there is no job.
            write_json(self._home(job) / JOB, job.kept())
            self._jobs[job.id] = job
            self._touch(job)
        self._wake.set()
        return job.view()

    def cancel(self, number: str) -> dict[str, Any]:
        """End a job; what it had half written is taken away. Raises Refusal 404 for none; one that has ended stays as it is."""
        with self._lock:
            job = self._get(number)
            if job.state in OPEN:
                process = job.process
                job.message = "cancelled"
                self._end(job, "cancelled")
                self._ending += 1
            else:
                return job.view()
        try:
            if process is not None:
                process.end()
                self._reap()
            self._clear(job)
        finally:
            with self._lock:
                self._ending -= 1
        self._wake.set()
        return self.one(number)

    # -- the thread

    def start(self) -> None:
        """Look after the jobs from now on."""
        self._thread = threading.Thread(target=self._run, name="studio-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look after them no more; a running child goes on and is found again by the next studio."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.look()
            except Exception:  # whatever it was: the next look may do, and without looks no job would ever end
                LOG_OF_STUDIO.exception("looking after the jobs failed; trying again")
            self._wake.wait(POLL)
            self._wake.clear()

    def look(self) -> None:
        """Hear what the running job says, see whether it has ended, start the next one."""
        finished: Job | None = None
        with self._lock:
            for job in [self._jobs[number] for number in sorted(self._unkept)]:
                self._write(job)
            running = next((job for job in self._jobs.values() if job.state == "running"), None)
            if running is not None:
                self._hear(running)
                self._reap()
                if running.process is None or not running.process.alive():
                    self._finish(running)
                    finished = running
            elif not self._ending:  # one that is being ended still has the processor
                waiting = sorted((job for job in self._jobs.values() if job.state == "waiting"), key=lambda job: job.id)
                if waiting:
                    self._begin(waiting[0])
        if finished is not None:
            self._clear(finished)
            self.ended(finished)

    def _begin(self, job: Job) -> None:
        home = self._home(job)
        environment = os.environ | {RECORD: str(home / PROGRESS), "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
        job.state, job.started = "running", time.time()
        try:
            child = start([*self.command, str(home)], home / LOG, environment)
        except OSError as error:
            job.message = f"its process could not be started: {error}"
            self._end(job, "failed")
            return
        job.process = Process.of(child.pid)
        self._children.append(child)
        self._keep(job)

    def _finish(self, job: Job) -> None:
        """Its process is gone: take over what it left as its outcome."""
        self._hear(job)
        outcome = read_json(self._home(job) / OUTCOME)
        state = outcome.get("state")
        if state in ("done", "failed"):
            job.message = str(outcome.get("message") or job.message)
            job.result = outcome.get("result")
            self._end(job, state)
        else:
            job.message = "its process ended without a word: killed, out of memory, or the machine was restarted"
            self._end(job, "lost")

    def _hear(self, job: Job) -> None:
        """Lines that came since the last look."""
        file = self._home(job) / PROGRESS
        try:
            with open(file, "rb") as handle:
                handle.seek(job.offset)
                text = handle.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        if not whole:
            return
        job.offset += len(whole)
        for line in _objects(whole):
            job.hear(line)
        self._touch(job)

    def _reap(self) -> None:
        """Ask for the exit codes of children that have ended, or they stay in the system's table."""
        self._children = [child for child in self._children if child.poll() is None]

    def _end(self, job: Job, state: str) -> None:
        job.state, job.ended = state, time.time()
        self._keep(job)

    def _clear(self, job: Job) -> None:
        shutil.rmtree(self._home(job) / WORK, ignore_errors=True)

    def _keep(self, job: Job) -> None:
        """On disk; on a full one at a later look, while the studio goes on."""
        self._touch(job)
        self._write(job)

    def _write(self, job: Job) -> None:
        try:
            write_json(self._home(job) / JOB, job.kept())
            self._unkept.discard(job.id)
        except DataError:
            if job.id not in self._unkept:
                LOG_OF_STUDIO.exception("what became of a job cannot be kept; trying again")
            self._unkept.add(job.id)

    def _touch(self, job: Job) -> None:
        self.version += 1
        job.version = self.version

    def _home(self, job: Job) -> Path:
        return self.workspace / JOBS / job.id

    def _get(self, number: str) -> Job:
        if number not in self._jobs:
            raise Refusal(
                404, "missing", f"there is no job {number[:80]!r}.", "Reload the page: it lists what is there."
            )
        return self._jobs[number]

    def _found(self) -> list[Job]:
        """Jobs on disk, of this studio's earlier starts."""
        found = []
        for home in sorted((self.workspace / JOBS).iterdir()):
            content = read_json(home / JOB)
            if content.get("id") != home.name or not isinstance(content.get("wishes"), dict):
                continue
            content["process"] = Process.from_dict(content.get("process") or {})
            try:
                job = Job(**content)
            except TypeError:
                continue
            said = job.message
            for line in read_lines_of(home / PROGRESS):
                job.hear(line)
            if job.state not in OPEN:
                job.message = said
            with contextlib.suppress(OSError):
                job.offset = (home / PROGRESS).stat().st_size if job.state != "running" else 0
            self._touch(job)
            found.append(job)
        return found


def _objects(text: bytes) -> list[dict[str, Any]]:
    import json

    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                found.append(content)
    return found
