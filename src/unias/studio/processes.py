"""Processes that outlive the studio: known again by number and time of start, ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PATIENCE = 5.0  # seconds that a process has to end by itself


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by ``started``: the system's own word for when it began."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this number now."""
        return cls(pid, started_at(pid))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Process | None:
        """None where there is none in it."""
        pid, started = content.get("pid"), content.get("started")
        return cls(pid, started) if isinstance(pid, int) and isinstance(started, str) else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def alive(self) -> bool:
        """Whether it still runs; one that has ended and was not yet asked for its exit code does not."""
        return bool(self.started) and started_at(self.pid) == self.started

    def end(self) -> None:
        """End it and its whole process group: asked first, killed after ``PATIENCE`` seconds."""
        if not self.alive():
            return
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(self.pid)], capture_output=True, check=False)
            return
        _signal(self.pid, signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        while self.alive() and time.monotonic() < until:
            time.sleep(0.05)
        _signal(self.pid, signal.SIGKILL)  # those of the group that did not listen, too


def start(arguments: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process in a group of its own, deaf to this terminal's Ctrl-C; what it says is appended to ``log``."""
    windows: dict[str, Any] = {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    posix: dict[str, Any] = {"start_new_session": True}
    with open(log, "ab") as out:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            **(windows if sys.platform == "win32" else posix),
        )


def started_at(pid: int) -> str:
    """When the process of this number began, in a form of the system's own; "" where it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    if sys.platform == "win32":
        query = f"(Get-Process -Id {pid}).StartTime.Ticks"
        arguments = ["powershell", "-NoProfile", "-Command", query]
    else:
        arguments = ["ps", "-o", "lstart=", "-p", str(pid)]
    with contextlib.suppress(OSError):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
