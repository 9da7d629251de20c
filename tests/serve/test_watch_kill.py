"""``kill -9`` at any moment: no photo is lost and none comes to two rows, on disk or among what a receiver has seen."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import watch_stand_in
from watch_office import rows_of
from watch_stand_in import photo
from webhook_stand_in import Receiver

CHILD = str(Path(watch_stand_in.__file__))


class Camera(threading.Thread):
    """Drops photos in every way that happens: whole under another name and then renamed, in halves, over an older one."""

    def __init__(self, folder: Path, count: int, pause: float, seed: int) -> None:
        super().__init__()
        self.folder = folder
        self.count = count
        self.pause = pause
        self.chance = random.Random(seed)
        self.dropped: dict[
            str, list[str]
        ] = {}  # {path below the folder: contents that lay there whole, one after the other}
        self.enough = threading.Event()

    def run(self) -> None:
        for number in range(self.count):
            self.drop(number)
            if self.enough.wait(self.pause):
                return

    def drop(self, number: int) -> None:
        chance = self.chance
        again = self.dropped and chance.random() < 0.2
        name = chance.choice(sorted(self.dropped)) if again else f"{chance.choice(['', 'left/', 'right/'])}{number}.png"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        data = photo(f"number {number}" + (" scratch" if chance.random() < 0.3 else "") + " ." * chance.randrange(50))
        self.dropped.setdefault(name, []).append(hashlib.sha256(data).hexdigest())
        if chance.random() < 0.5:
            whole = path.with_name(f"{path.name}.part")
            whole.write_bytes(data)
            whole.replace(path)
        else:
            with open(path, "wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                self.enough.wait(chance.choice([0, 0.005, 0.03]))  # longer than the watcher takes a file to settle
                file.write(data[len(data) // 2 :])


def start(folder: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, CHILD, str(folder), str(out), *options], stderr=subprocess.PIPE)


def finish(folder: Path, out: Path, *options: str) -> None:
    process = start(folder, out, "--once", *options)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()


def check(camera: Camera, out: Path, after: str, receiver: Receiver | None) -> None:
    """Rows against files."""
    assert (out / "results.jsonl").read_bytes().endswith(b"\n")
    rows = rows_of(out)
    assert {row["verdict"] for row in rows} <= {"ok", "defect"}
    counted: Counter[tuple[str, str]] = Counter(
        (Path(row["path"]).relative_to(camera.folder).as_posix(), row["sha256"]) for row in rows
    )
    assert set(counted.values()) == {1}  # no second row
    there = {(name, contents[-1]) for name, contents in camera.dropped.items()}
    ever = {(name, content) for name, contents in camera.dropped.items() for content in contents}
    assert there <= set(counted)  # none is lost; what was written over before it was read is no photo on disk any more
    assert set(counted) <= ever  # and none is half of one
    for row in rows:
        assert hashlib.sha256((out / row["mask"]).read_bytes()).hexdigest() == row["sha256"]
    assert {path.relative_to(out).as_posix() for path in (out / "masks").rglob("*.png")} >= {
        row["mask"] for row in rows
    }
    assert list(out.rglob(".*.part*")) == []
    if after == "move":
        assert [path for path in camera.folder.rglob("*") if path.is_file()] == []
        kept = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "done").rglob("*.png")}
        wished = {Path(row["moved_to"]): row for row in rows}
        assert all(wished[path]["sha256"] == content for path, content in kept.items())
        for path in wished.keys() - kept.keys():  # only where the camera wrote over it before it was moved
            name = Path(wished[path]["path"]).relative_to(camera.folder).as_posix()
            assert wished[path]["sha256"] in camera.dropped[name][:-1]
    if receiver is not None:
        assert set(receiver.taken) == {row["id"] for row in rows}
        assert receiver.faults == []


def lines_of_a_run(folder: Path, out: Path) -> int:
    """How many lines of the watcher's code a whole run takes, found by killing at more and more of them."""
    few, many = 0, 1
    while True:
        process = start(folder, out / str(many), "--once", "--lines", str(many))
        process.communicate(timeout=60)
        if process.returncode == 0:
            return (few + many) // 2
        few, many = many, many * 2


def test_killed_five_times(tmp_path: Path) -> None:
    """At lines spread over the run; the slow tests below do it fifty times and with everything else going on."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    camera = Camera(folder, 12, 0, seed=1)
    camera.run()
    killed = 0
    for lines in (900, 1300, 1900, 2500, 2900):
        process = start(folder, out, "--lines", str(lines), "--after", "move")
        process.communicate(timeout=60)
        killed += process.returncode == -9
    assert killed == 5
    finish(folder, out, "--after", "move")
    check(camera, out, "move", None)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["keep", "move"])
def test_killed_at_fifty_lines_of_code(tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kill falls on a line of the watcher's own code: before and after every write, commit and rename in turn."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    receiver = Receiver()
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    chance = random.Random(after)
    camera = Camera(folder, 6, 0, seed=2)
    camera.run()
    longest = lines_of_a_run(folder, tmp_path / "probe")
    wishes = ["--after", after, "--webhook", receiver.url]
    for round_ in range(50):
        camera.drop(100 + round_)  # there is always something new
        process = start(folder, out, "--lines", str(chance.randrange(1, longest)), *wishes)
        process.communicate(timeout=60)
        assert process.returncode == -9
    finish(folder, out, *wishes)
    receiver.close()
    check(camera, out, after, receiver)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["keep", "move"])
def test_killed_at_fifty_moments_while_photos_come(tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random times, in the middle of whatever the process, the database or the system is doing; the receiver fails now and
    then as well."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    chance = random.Random(seed)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    failing = random.Random(seed + 1)
    receiver = Receiver(lambda _letter: 200 if failing.random() < 0.8 else failing.choice([500, None, 429]))
    camera = Camera(folder, 10_000, 0.02, seed)
    camera.start()
    wishes = ["--after", after, "--webhook", receiver.url]
    try:
        for _ in range(50):
            process = start(folder, out, *wishes)
            with pytest.raises(subprocess.TimeoutExpired):  # it does not end by itself
                process.wait(chance.uniform(0.05, 0.9))
            process.kill()
            process.communicate()
        camera.enough.set()
        camera.join()
        receiver.answer = lambda _letter: 200
        finish(folder, out, *wishes)
    finally:
        camera.enough.set()
        receiver.close()
    check(camera, out, after, receiver)
    rows = rows_of(out)
    print(
        len(rows),
        "rows,",
        sum(map(len, camera.dropped.values())),
        "photos dropped,",
        sum(receiver.asked.values()),
        "posts",
    )
    assert len(rows) > 100
