"""A study's folder is one process's at a time, and that of the run that it started; what ends the one ends the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unias.errors import UsageError
from unias.progress import Progress
from unias.studies import runs
from unias.studies.runs import Job, alone, perform

pytestmark = pytest.mark.skipif(os.name == "nt", reason="neither such locks nor such signals")

RUN = """#!{python}
import pathlib, signal, sys, time

def asked(*_):
    pathlib.Path("kept").touch()
    sys.exit(130)

signal.signal(signal.SIGINT, asked)
pathlib.Path("at_work").write_text(str(__import__("os").getpid()))
time.sleep(60)
"""
STUDY = """
import pathlib, signal, sys
from unias.errors import Interrupted
from unias.progress import Progress
from unias.studies import runs

signal.signal(signal.SIGINT, signal.default_int_handler)  # even where pytest ignores it
sys.executable = str(pathlib.Path("run").resolve())
try:
    runs.perform([runs.Job("a", ())], pathlib.Path("photos"), pathlib.Path("study"), [], Progress("silent"))
except Interrupted as error:
    print(error)
"""


@pytest.fixture
def study(tmp_path: Path) -> subprocess.Popen[str]:
    """A study in a process of its own, whose run is a stand-in that is at work."""
    run = tmp_path / "run"
    run.write_text(RUN.format(python=sys.executable), encoding="utf-8")
    run.chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", STUDY], cwd=tmp_path, stdout=subprocess.PIPE, encoding="utf-8")
    end = time.monotonic() + 60
    while not (tmp_path / "at_work").is_file():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.1)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_run_is_asked_to_keep_its_state(study: subprocess.Popen[str], tmp_path: Path, number: int) -> None:
    study.send_signal(number)
    out, _ = study.communicate(timeout=30)
    assert "a was interrupted; run the same command to go on." in out
    assert (tmp_path / "kept").is_file()


def test_a_run_that_outlives_its_study_keeps_the_folder(study: subprocess.Popen[str], tmp_path: Path) -> None:
    """A second training beside it would write the same model and spoil the minutes of both."""
    study.kill()
    study.communicate()
    with pytest.raises(UsageError, match="being worked on"):
        perform([Job("a", ())], tmp_path, tmp_path / "study", [], Progress("silent"))
    os.kill(int((tmp_path / "at_work").read_text(encoding="utf-8")), signal.SIGINT)
    end = time.monotonic() + 30
    while True:
        try:
            with alone(tmp_path / "study"):
                break
        except UsageError:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_one_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path):
        assert len(runs._held) == 1
        with pytest.raises(UsageError, match="being worked on"), alone(tmp_path):
            pass
    assert runs._held == []
    with alone(tmp_path):
        pass
