"""Jobs: the line, progress, cancel, restarts; and one real training in a real child."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studio_running import Open, Running

from unias.errors import DataError
from unias.files import write_json
from unias.studio.jobs import Jobs
from unias.studio.processes import Process
from unias.studio.routes.jobs import events
from unias.studio.workspace import Workspace

# A child that says what it is told to, starts a child of its own, writes half a thing, and waits for the file "go".
STAND_IN = """
import json, os, subprocess, sys, time
home = sys.argv[1]
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
os.makedirs(os.path.join(home, "work", "half"))
with open(os.path.join(home, "progress.jsonl"), "a") as file:
    file.write(json.dumps({"say": "hello"}) + "\\n")
    file.write(json.dumps({"stage": "training", "done": 5, "total": 20, "seconds": 10, "note": "loss 0.250"}) + "\\n")
    file.write('{"stage": "half a li')
with open(os.path.join(home, "own"), "w") as file:
    file.write(str(own.pid))
print("started", flush=True)
while not os.path.exists(os.path.join(home, "go")):
    time.sleep(0.02)
own.kill()
with open(os.path.join(home, "outcome.json"), "w") as file:
    json.dump({"state": "done", "result": {"model": "m"}}, file)
"""
COMMAND = (sys.executable, "-c", STAND_IN)


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
    return found


@pytest.fixture
def jobs(home: Path) -> Jobs:
    return Jobs(Workspace(home), COMMAND)


def begun(jobs: Jobs, number: str) -> Path:
    """Its folder, once its child has started one of its own."""
    home = jobs.workspace / "jobs" / number
    jobs.look()
    until(lambda: (home / "own").exists() and (home / "own").read_text())
    return home


def ended(jobs: Jobs, number: str) -> dict[str, Any]:
    def look() -> bool:
        jobs.look()
        return jobs.one(number)["ended"] is not None

    until(look)
    return jobs.one(number)


def test_a_job_is_heard_and_ends_with_its_outcome(jobs: Jobs) -> None:
    first, second = jobs.add("judge", {"model": "m"})["id"], jobs.add("judge", {"model": "n"})["id"]
    home = begun(jobs, first)
    jobs.look()
    job = jobs.one(first)
    assert (job["state"], job["stage"], job["step"], job["steps"]) == ("running", "training", 5, 20)
    assert (job["message"], job["loss"], job["left"]) == ("hello", 0.25, 30.0)
    assert jobs.one(second)["state"] == "waiting", "one at a time"
    assert "started" in jobs.log(first)
    (home / "go").touch()
    job = ended(jobs, first)
    assert (job["state"], job["result"]) == ("done", {"model": "m"})
    assert not (home / "work").exists()
    begun(jobs, second)
    assert jobs.one(second)["state"] == "running"
    jobs.cancel(second)


def test_cancel_ends_the_whole_group_and_leaves_nothing_half_written(jobs: Jobs) -> None:
    number = jobs.add("judge", {})["id"]
    home = begun(jobs, number)
    child = Process.of(int((home / "own").read_text()))
    assert child.alive()
    assert jobs.cancel(number)["state"] == "cancelled"
    until(lambda: not child.alive())
    assert not (home / "work").exists()
    jobs.look()
    assert jobs.one(number)["state"] == "cancelled"
    assert Jobs(jobs.workspace).one(number)["state"] == "cancelled"


def test_a_waiting_job_is_cancelled_without_ever_starting(jobs: Jobs) -> None:
    number = jobs.add("check", {})["id"]
    assert jobs.cancel(number)["state"] == "cancelled"
    jobs.look()
    assert jobs.one(number)["started"] is None


def test_a_killed_child_is_a_lost_job(jobs: Jobs) -> None:
    number = jobs.add("judge", {})["id"]
    home = begun(jobs, number)
    content = json.loads((home / "job.json").read_text())
    os.killpg(content["process"]["pid"], 9)
    job = ended(jobs, number)
    assert job["state"] == "lost"
    assert "without a word" in job["message"]


def test_a_full_disk_holds_up_no_job(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of a job is kept when there is room again; a new one is refused, not half made; cancelling ends the process."""
    done, cancelled = jobs.add("judge", {})["id"], jobs.add("judge", {})["id"]
    home = begun(jobs, done)

    def full(path: Path, content: Any) -> None:
        raise DataError(f"{path}: the disk is full.")

    def on_disk(number: str) -> str:
        return str(json.loads((jobs.workspace / "jobs" / number / "job.json").read_text())["state"])

    with monkeypatch.context() as patch:
        patch.setattr("unias.studio.jobs.write_json", full)
        (home / "go").touch()
        assert ended(jobs, done)["state"] == "done"
        child = Process.of(int((begun(jobs, cancelled) / "own").read_text()))
        assert jobs.cancel(cancelled)["state"] == "cancelled"
        until(lambda: not child.alive())
        before = len(jobs.all())
        with pytest.raises(DataError, match="full"):
            jobs.add("judge", {})
        assert len(jobs.all()) == before
        assert [on_disk(done), on_disk(cancelled)] == ["running", "waiting"]
    jobs.look()
    assert [on_disk(done), on_disk(cancelled)] == ["done", "cancelled"]


def test_looks_go_on_after_one_that_fails(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look() -> None:
        looks.append(1)
        raise RuntimeError("something")

    monkeypatch.setattr(jobs, "look", look)
    jobs.start()
    until(lambda: len(looks) > 2)
    jobs.stop()


def test_another_start_finds_a_running_child(jobs: Jobs) -> None:
    number = jobs.add("judge", {})["id"]
    home = begun(jobs, number)
    again = Jobs(jobs.workspace, COMMAND)
    again.look()
    job = again.one(number)
    assert (job["state"], job["stage"], job["loss"]) == ("running", "training", 0.25)
    (home / "go").touch()
    until(lambda: (home / "outcome.json").exists())
    jobs._children[0].wait()  # who started it lets go of it
    assert ended(again, number)["state"] == "done"


def test_another_start_marks_what_is_gone_as_lost(home: Path) -> None:
    workspace = Workspace(home)
    process = {"pid": os.getpid(), "started": "another time"}
    job = {"id": "20260101-000000-000000-aa", "kind": "train", "state": "running", "wishes": {}, "process": process}
    write_json(home / "jobs" / job["id"] / "job.json", {**job, "made": 1.0, "started": 1.0})
    jobs = Jobs(workspace)
    jobs.look()
    assert jobs.one(job["id"])["state"] == "lost"


def test_a_broken_job_on_disk_stops_nothing(home: Path) -> None:
    workspace = Workspace(home)
    for name, text in (("a", "no json"), ("b", "{}"), ("c", '{"id": "c", "wishes": {}, "strange": 1}')):
        (home / "jobs" / name).mkdir()
        (home / "jobs" / name / "job.json").write_text(text)
    assert Jobs(workspace).all() == []


def test_events_tell_open_jobs_then_every_change(jobs: Jobs) -> None:
    number = jobs.add("check", {})["id"]

    async def watch() -> list[str]:
        stopping = False
        stream = events(jobs, lambda: stopping, ping=0.01)
        found = [await anext(stream), await anext(stream), await anext(stream)]
        jobs.cancel(number)
        found.append(await anext(stream))
        stopping = True
        found += [text async for text in stream]
        return found

    retry, opened, ping, changed = asyncio.run(watch())
    assert retry.startswith("retry:")
    assert json.loads(opened.split("data: ")[1])["state"] == "waiting"
    assert ping == ": ping\n\n"
    assert changed.startswith("event: job\ndata: ")
    assert json.loads(changed.split("data: ")[1])["state"] == "cancelled"


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"kind": "train", "name": "tiny"}, 409),
        ({"kind": "train", "name": "../x"}, 422),
        ({"kind": "train", "name": "x", "minutes": -1}, 422),
        ({"kind": "train", "name": "x", "false_alarms": 2}, 422),
        ({"kind": "export", "model": "none", "to": "onnx"}, 404),
        ({"kind": "export", "model": "tiny", "to": "onnx", "int8": True}, 422),
        ({"kind": "dance"}, 422),
        ({"kind": "judge", "model": "tiny"}, 200),
        ({"kind": "check"}, 200),
    ],
)
def test_wishes(running: Running, wish: dict[str, Any], status: int) -> None:
    answer = running.client.post("/studio/api/jobs", json=wish)
    assert answer.status_code == status, answer.text


def test_training_without_photos_is_refused(open_studio: Open, home: Path) -> None:
    with open_studio(home, still=True) as running:
        answer = running.client.post("/studio/api/jobs", json={"kind": "train", "name": "x"})
        assert answer.status_code == 422


@pytest.mark.slow
def test_a_real_training_in_a_child(open_studio: Open, full_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From photos to judged photos and an export; the settings in the folder shrink it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = full_home / "settings.yaml"
    with open_studio(full_home) as running:

        def wait(number: str) -> dict[str, Any]:
            until(lambda: running.get(f"/jobs/{number}")["ended"], 300)
            job: dict[str, Any] = running.get(f"/jobs/{number}")
            assert job["state"] == "done", running.client.get(f"/studio/api/jobs/{number}/log").text
            return job

        assert settings.is_file()
        job = wait(
            running.post("/jobs", {"kind": "train", "name": "erstes", "minutes": 0.2, "false_alarms": 0.1})["id"]
        )
        assert (job["result"]["model"], job["result"]["judged"]) == ("erstes", 12)
        assert job["loss"] is not None
        assert running.get("/models/erstes")["products"][0]["wished"] == 0.1
        assert len(running.get("/models/erstes/list")) == 12
        assert not list((full_home / "jobs" / job["id"]).glob("work/*"))
        checked = wait(running.post("/photos/check")["id"])["result"]
        assert set(checked) == {"odd", "duplicates", "errors", "warnings", "note", "compared", "few"}
        wait(running.post("/jobs", {"kind": "export", "model": "erstes", "to": "onnx"})["id"])
        (export,) = running.get("/exports")
        assert (export["model"], export["to"]) == ("erstes", "onnx")


@pytest.mark.slow
def test_a_training_that_fails_says_why(open_studio: Open, full_home: Path) -> None:
    (full_home / "settings.yaml").write_text("size: 7\n", encoding="utf-8")
    with open_studio(full_home) as running:
        number = running.post("/jobs", {"kind": "train", "name": "x", "minutes": 0.2})["id"]
        until(lambda: running.get(f"/jobs/{number}")["ended"], 120)
        job = running.get(f"/jobs/{number}")
    assert job["state"] == "failed"
    assert "size" in job["message"]
    assert not (full_home / "models" / "x").exists()
