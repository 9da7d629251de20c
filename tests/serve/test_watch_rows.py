"""The hot folder: which files are photos, when they are read, and that each comes to one row, run after run."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watch_office import Heard, Rows, rows_of
from watch_stand_in import StandIn, photo

from unias.errors import DataError, UsageError
from unias.progress import Progress
from unias.serve.away import ASIDE
from unias.serve.folder import Folder
from unias.serve.ledger import Ledger
from unias.serve.watch import Watch, check_places, picture_name


class Line:
    """A watched folder with its watcher, and a clock that the test moves."""

    def __init__(self, home: Path, **wishes: Any) -> None:
        self.folder, self.out = home / "in", home / "out"
        self.folder.mkdir(exist_ok=True)
        self.now = 0.0
        self.wishes = {"settle": 1.0, "patience": 60.0, **wishes}
        self.heard = Heard()
        self.start()

    def start(self) -> None:
        settle, patience = self.wishes["settle"], self.wishes["patience"]
        self.ledger = Ledger(self.out, self.folder)
        self.inspect = StandIn(self.out)
        after, done = self.wishes.get("after", "keep"), self.wishes.get("done")
        place = Folder(self.folder, (self.out, done or self.out / "done"), settle, patience, clock=lambda: self.now)
        self.watch = Watch(self.ledger, place, self.inspect, self.heard, (), after, done, batch=4)

    def restart(self, **wishes: Any) -> None:
        self.ledger.close()
        self.wishes.update(wishes)
        self.start()

    def drop(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else photo(text))
        return path

    def step(self, seconds: float = 1.0) -> int:
        self.now += seconds
        return self.watch.step()

    def settle(self) -> int:
        """Two looks, a settling time apart: enough for what does not change."""
        return self.step() + self.step()

    def rows(self) -> Rows:
        """The rows, once every picture was seen to be there."""
        rows = rows_of(self.out)
        assert all(row["mask"] is None or (self.out / row["mask"]).read_bytes() == photo(row["text"]) for row in rows)
        return rows


@pytest.fixture
def line(tmp_path: Path) -> Any:
    lines: list[Line] = []

    def make(**wishes: Any) -> Line:
        lines.append(Line(tmp_path, **wishes))
        return lines[-1]

    yield make
    for one in lines:
        one.ledger.close()


Make = Callable[..., Line]


def crashed(belt: Line) -> None:
    """Its ledger, closed before, looks as if its process had been killed."""
    with contextlib.closing(sqlite3.connect(belt.out / "watch.sqlite3")) as base, base:
        base.execute("UPDATE facts SET value = '1' WHERE name = 'running'")


def test_each_photo_has_one_row(line: Make) -> None:
    belt = line()
    belt.drop("b.png", "good")
    belt.drop("a.JPG", "a scratch")
    belt.drop("left/deep/b.png", "good too")
    for name in (
        ".hidden.png",
        "c.png.part",
        "d.tmp",
        "e.png~",
        "~f.png",
        "notes.txt",
        ".git/g.png",
        "Thumbs.db",
        "@eaDir/h.png",
    ):
        belt.drop(name, "no photo")
    assert belt.settle() == 3
    rows = {Path(row["path"]).relative_to(belt.folder).as_posix(): row for row in belt.rows()}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "b.png": "ok",
        "a.JPG": "defect",
        "left/deep/b.png": "ok",
    }
    assert len({row["mask"] for row in rows.values()}) == 3
    assert belt.settle() == 0
    belt.restart()
    assert belt.settle() == 0
    assert len(belt.rows()) == 3
    assert belt.watch.tally.photos == 0  # counted a run


def test_rows_come_in_the_order_of_the_photos_and_in_batches(line: Make) -> None:
    belt = line()
    for number in (5, 3, 9, 1, 7, 2):
        os.utime(belt.drop(f"{10 - number}.png", f"photo {number}"), (number, number))
    assert belt.settle() == 6
    assert [row["text"] for row in belt.rows()] == [f"photo {number}" for number in (1, 2, 3, 5, 7, 9)]
    assert belt.inspect.batches == [4, 2]


def test_a_file_is_left_alone_until_it_settles(line: Make) -> None:
    belt = line(settle=2.0)
    for growth in range(5):  # grows at each look: never read, though every state of it could be decoded
        belt.drop("a.png", "more " * (growth + 1))
        assert belt.step(1.5) == 0
    assert belt.inspect.batches == []
    assert belt.step(1.9) == 0
    assert belt.step(0.2) == 1
    assert [row["text"] for row in belt.rows()] == ["more " * 5]


def test_half_a_photo_is_tried_until_it_is_whole(line: Make) -> None:
    belt = line()
    path = belt.drop("a.png", photo("slow upload")[:12])
    belt.drop("b.png", "good")
    assert belt.settle() == 1
    tries = len(belt.inspect.batches)
    assert belt.step(0.125) == 0
    assert len(belt.inspect.batches) == tries  # there is a pause between tries
    path.write_bytes(photo("slow upload"))
    assert belt.settle() == 1
    assert [row["verdict"] for row in belt.rows()] == ["ok", "ok"]
    assert belt.heard.said == []


def test_content_that_comes_after_the_size(line: Make) -> None:
    """A share may show the final size and date while the content is still on its way."""
    belt = line()
    path = belt.drop("a.png", b"\0" * len(photo("late")))
    stat = path.stat()
    assert belt.settle() == 0
    path.write_bytes(photo("late"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sum(belt.step(10) for _ in range(5)) == 1
    assert [row["text"] for row in belt.rows()] == ["late"]


@pytest.mark.parametrize("content", [photo("damaged")[:12], b""])
def test_what_stays_undecodable_comes_to_one_row(line: Make, content: bytes) -> None:
    belt = line(patience=30.0)
    belt.drop("a.png", content)
    assert sum(belt.step(1) for _ in range(29)) == 0
    assert sum(belt.step(1) for _ in range(40)) == 1
    (row,) = belt.rows()
    assert (row["verdict"], row["ok"], row["mask"]) == ("unreadable", False, None)
    assert "a.png" in row["error"]
    assert len(belt.heard.said) == 1
    assert belt.watch.tally.unreadable == 1
    os.utime(belt.folder / "a.png", (1, 1))
    belt.restart()
    assert sum(belt.step(20) for _ in range(5)) == 0
    belt.drop("a.png", "mended")  # new content: a new photo
    assert belt.settle() == 1
    assert [row["verdict"] for row in belt.rows()] == ["unreadable", "ok"]


def test_a_file_that_may_not_be_read(line: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    belt = line(patience=5.0)
    path = belt.drop("a.png", "good")
    real = open

    def refusing(file: Any, *arguments: Any, **keywords: Any) -> Any:
        if os.fspath(file) == os.fspath(path):
            raise PermissionError(13, "Permission denied")
        return real(file, *arguments, **keywords)

    monkeypatch.setattr("builtins.open", refusing)
    assert sum(belt.step(2) for _ in range(8)) == 1
    monkeypatch.undo()
    (row,) = belt.rows()
    assert row["verdict"] == "unreadable"
    assert "Permission denied" in row["error"]
    assert row["sha256"] is None
    belt.restart()
    assert belt.settle() == 0


def test_the_same_name_with_new_content_is_a_new_photo(line: Make) -> None:
    belt = line()
    for number, text in enumerate(("one", "two", "one")):  # of one size, a nanosecond apart
        os.utime(belt.drop("a.png", text), ns=(0, 10**18 + number))
        assert belt.settle() == 1
    assert [row["text"] for row in belt.rows()] == ["one", "two", "one"]
    assert len({row["mask"] for row in belt.rows()}) == 3


def test_a_new_date_makes_no_new_photo(line: Make) -> None:
    belt = line()
    path = belt.drop("a.png", "good")
    assert belt.settle() == 1
    os.utime(path, (1, 1))
    assert belt.settle() == 0
    belt.restart()
    reads = len(belt.inspect.batches)
    assert belt.settle() == 0
    assert len(belt.inspect.batches) == reads
    away = path.rename(belt.out / "elsewhere")  # not put away by the watcher: a share may be away, for instance
    assert belt.settle() == 0
    assert belt.watch._known == {}
    away.rename(path)
    assert belt.settle() == 0
    assert len(belt.rows()) == 1


def test_moving(line: Make, tmp_path: Path) -> None:
    belt = line(after="move")
    belt.drop("left/a.png", "first")
    belt.drop("bad.png", b"damaged")
    belt.drop("b.png", "scratch")
    assert belt.settle() == 2
    assert belt.step(100) == 1
    assert [path for path in belt.folder.rglob("*") if path.is_file()] == []
    for row in belt.rows():
        assert Path(row["moved_to"]).is_relative_to(belt.out / "done")
        assert Path(row["moved_to"]).name.startswith(Path(row["path"]).stem + "-")
        assert row["mask"] is None or Path(row["moved_to"]).read_bytes() == (belt.out / row["mask"]).read_bytes()
    belt.drop("left/a.png", "first")  # the same bytes again, after the first were moved: a photo of its own
    assert belt.settle() == 1
    assert [row["text"] for row in belt.rows() if "left" in row["path"]] == ["first", "first"]
    assert len(list((belt.out / "done").rglob("*.png"))) == 4


def test_deleting(line: Make) -> None:
    belt = line(after="delete")
    belt.drop("a.png", "good")
    damaged = belt.drop("b.png", b"damaged")
    assert belt.settle() == 1
    assert belt.step(100) == 1
    assert sorted(belt.folder.iterdir()) == [damaged]  # nobody has seen what it shows
    assert belt.settle() == 0
    belt.restart()
    assert belt.settle() == 0
    assert [row["verdict"] for row in belt.rows()] == ["ok", "unreadable"]


def test_what_was_kept_is_moved_once_that_is_wished(line: Make, tmp_path: Path) -> None:
    belt = line()
    belt.drop("a.png", "good")
    assert belt.settle() == 1
    belt.restart(after="move", done=tmp_path / "kept")
    assert belt.settle() == 0
    assert list(belt.folder.iterdir()) == []
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert len(belt.rows()) == 1


def test_a_photo_that_changed_after_it_was_read_is_not_put_away(line: Make) -> None:
    belt = line(after="delete")
    path = belt.drop("a.png", "first")
    judge = belt.inspect.judge

    def overwriting(taken: Any) -> Any:
        path.write_bytes(photo("second, longer"))
        belt.inspect.judge = judge  # type: ignore[method-assign]
        return judge(taken)

    belt.inspect.judge = overwriting  # type: ignore[method-assign]
    assert belt.settle() == 1
    assert path.read_bytes() == photo("second, longer")
    assert belt.settle() == 1
    assert not path.exists()
    assert [row["text"] for row in belt.rows()] == ["first", "second, longer"]


@pytest.mark.parametrize("after", ["move", "delete"])
@pytest.mark.parametrize("third", [False, True])
def test_a_photo_written_over_while_it_goes_stays(
    line: Make, monkeypatch: pytest.MonkeyPatch, after: str, third: bool
) -> None:
    """The camera opens the file in the instant between the last look and the going; a third photo may have come meanwhile."""
    belt = line(after=after)
    path = belt.drop("a.png", "first")
    real = os.replace

    def late(source: Any, target: Any) -> None:
        if str(target).endswith(ASIDE):
            monkeypatch.undo()
            path.write_bytes(photo("second, longer"))  # in place: the same file
            real(source, target)
            if third:
                path.write_bytes(photo("third"))
            return
        real(source, target)

    monkeypatch.setattr("os.replace", late)
    assert belt.settle() == 1
    assert path.read_bytes() == photo("third" if third else "second, longer")
    assert belt.settle() == 1 + third
    assert {row["text"] for row in belt.rows()} == {"first", "second, longer", *(["third"] if third else [])}
    assert list(belt.folder.iterdir()) == []
    if after == "move":
        kept = sorted(file.read_bytes() for file in (belt.out / "done").iterdir())
        assert kept == sorted(photo(row["text"]) for row in belt.rows()[1:])


@pytest.mark.parametrize("after", ["move", "delete", "keep"])
@pytest.mark.parametrize("written", ["nothing", "over", "anew"])
def test_a_photo_that_a_killed_process_had_taken_aside(line: Make, after: str, written: str) -> None:
    """It goes where it was going; what was written over it is inspected, and so is a new photo of its name."""
    belt = line(after="keep")
    path = belt.drop("left/a.png", "first")
    assert belt.settle() == 1
    belt.ledger.close()
    aside = path.with_name(f".a.png{ASIDE}")
    path.rename(aside)
    if written == "over":
        aside.write_bytes(photo("second, longer"))
    elif written == "anew":
        path.write_bytes(photo("second, longer"))
    crashed(belt)
    belt.wishes["after"] = after
    belt.start()
    assert not aside.exists()
    belt.settle()
    texts = [row["text"] for row in belt.rows()]
    assert texts[:2] == ["first", "second, longer"][: len(texts)]
    assert len(set(texts)) == (1 if written == "nothing" else 2)
    left = {file.relative_to(belt.folder).as_posix() for file in belt.folder.rglob("*") if file.is_file()}
    assert left == ({"left/a.png"} if after == "keep" else set())
    if after == "move":
        kept = [file.read_bytes() for file in (belt.out / "done" / "left").iterdir()]
        assert sorted(kept) == sorted(photo(text) for text in (texts[1:] if written == "over" else texts))


def test_a_photo_that_cannot_be_put_away(line: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    belt = line(after="move")
    path = belt.drop("a.png", "good")

    def refuse(_source: Any, _target: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unias.serve.away._move", refuse)
    assert belt.settle() == 1
    assert sum(belt.settle() for _ in range(3)) == 0
    assert path.exists()
    assert len(belt.heard.said) == 1
    assert "Permission denied" in belt.heard.said[0]
    monkeypatch.undo()
    assert belt.step() == 0
    assert not path.exists()


def test_moving_to_another_disk(line: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    belt = line(after="move")
    belt.drop("a.png", "good")
    real = os.replace

    def other_disk(source: Any, target: Any) -> None:
        if Path(source).parent == belt.folder != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr("os.replace", other_disk)
    assert belt.settle() == 1
    assert list(belt.folder.iterdir()) == []
    (row,) = belt.rows()
    assert Path(row["moved_to"]).read_bytes() == photo("good")


def test_moving_to_another_disk_that_is_full(line: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photo lies under its own name again, and goes once there is room."""
    belt = line(after="move")
    path = belt.drop("a.png", "good")
    real = os.replace

    def other_disk(source: Any, target: Any) -> None:
        if Path(source).parent == belt.folder != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        real(source, target)

    def full(_source: Any, _target: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", other_disk)
        patch.setattr("shutil.copy2", full)
        assert belt.settle() == 1
        assert list(belt.folder.iterdir()) == [path]
        assert list((belt.out / "done").iterdir()) == []
        assert len(belt.heard.said) == 1
        assert "cannot be put away" in belt.heard.said[0]
    assert belt.settle() == 0
    assert list(belt.folder.iterdir()) == []
    (row,) = belt.rows()
    assert Path(row["moved_to"]).read_bytes() == photo("good")


def test_a_link_to_nothing_under_the_hidden_name_stops_no_start(line: Make) -> None:
    belt = line(after="move")
    belt.ledger.close()
    (belt.folder / f".a.png{ASIDE}").symlink_to(belt.folder / "nothing")
    crashed(belt)
    belt.start()
    belt.drop("b.png", "good")
    assert belt.settle() == 1


def test_a_table_that_another_program_holds_open(line: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos do not wait for it: their rows are in the ledger, and follow."""
    belt = line(after="move")
    belt.drop("a.png", "good")
    assert belt.settle() == 1
    tables, held = belt.watch._tables, []

    def append(file: Path) -> Any:
        held.append(file.name)
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(tables, "_append", append)
        belt.drop("b.png", "bad")
        belt.drop("c.png", "good")
        assert belt.settle() == 2
        assert list(belt.folder.iterdir()) == []  # put away as ever
        assert belt.settle() == 0
        assert len(held) > 1  # tried again
        stop = threading.Event()
        stop.set()
        with pytest.raises(DataError, match=r"results\.csv: cannot be written"):
            belt.watch.run(stop)  # the last word of a watcher that ends
    assert len((belt.out / "results.jsonl").read_text("utf-8").splitlines()) == 1
    assert sum("results.csv" in text for text in belt.heard.said) == 1  # said once
    belt.step()
    assert len(belt.rows()) == 3
    assert belt.heard.said[-1] == "the tables are up to date again"


def test_a_folder_that_goes_away_and_comes_back(line: Make) -> None:
    belt = line(after="keep")
    belt.drop("a.png", "good")
    assert belt.settle() == 1
    away = belt.folder.rename(belt.out / "share")
    assert belt.settle() == 0
    assert belt.settle() == 0
    away.rename(belt.folder)
    belt.drop("b.png", "good")
    assert belt.settle() == 1
    assert len(belt.heard.said) == 2
    assert len(belt.rows()) == 2


def test_results_in_the_watched_folder_are_looked_past(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a.png").write_bytes(photo("good"))
    now = [0.0]
    out = tmp_path / "link" / "out"
    with Ledger(out, tmp_path / "in") as ledger:
        folder = Folder(tmp_path / "in", (out, out / "done"), clock=lambda: now[0])
        watch = Watch(ledger, folder, StandIn(out), Progress("silent"), after="move")
        for _ in range(5):
            now[0] += 1
            watch.step()
        assert watch.tally.photos == 1
    assert len(list(out.rglob("*.png"))) == 2  # the mask and the photo


def test_places_that_cannot_be(tmp_path: Path) -> None:
    watched = tmp_path / "in"
    with pytest.raises(DataError, match="no such folder"):
        check_places(watched, tmp_path / "out", tmp_path / "done")
    watched.mkdir()
    check_places(watched, watched / "out", watched / "done")
    check_places(watched, tmp_path, tmp_path / "done")
    with pytest.raises(UsageError, match="watched folder itself"):
        check_places(watched, tmp_path / "in" / ".." / "in", tmp_path / "done")
    for done in (watched, tmp_path):
        with pytest.raises(UsageError, match="are put"):
            check_places(watched, tmp_path / "out", done)
    (tmp_path / "out" / "masks" / "in").mkdir(parents=True)
    with pytest.raises(UsageError, match="masks"):
        check_places(tmp_path / "out" / "masks" / "in", tmp_path / "out", tmp_path / "done")


def test_names_of_any_kind(line: Make) -> None:
    belt = line()
    names = [b"caf\xe9.png", "größe 測試.png".encode(), b'a,"b".png', b"line\nfeed.png", b"x" * 250 + b".png"]
    for number, name in enumerate(names):
        with open(os.fsencode(belt.folder) + b"/" + name, "wb") as file:
            file.write(photo(f"photo {number}"))
    assert belt.settle() == len(names)
    assert {row["text"] for row in belt.rows()} == {f"photo {number}" for number in range(len(names))}
    belt.restart()
    assert belt.settle() == 0


def test_pictures_are_called_after_the_photo() -> None:
    assert picture_name("a/b.c.png", "0123-4567-89ab-cdef-01") == "a/b.c-0123456789abcdef"
    assert len(picture_name("測" * 80 + ".png", "0" * 32).encode()) <= 255


def test_run_once_ends_by_itself_and_run_ends_when_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(10):
        (tmp_path / "in" / f"{number}.png").write_bytes(photo(f"photo {number}"))
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        folder = Folder(tmp_path / "in", settle=0)
        watch = Watch(ledger, folder, StandIn(tmp_path / "out"), Progress("silent"), batch=3, poll=0.01)
        assert watch.run(threading.Event(), once=True).photos == 10
    stop = threading.Event()

    class Stopping(StandIn):
        def judge(self, taken: Any) -> Any:
            stop.set()  # while a batch is in hand
            return super().judge(taken)

    for number in range(10):
        (tmp_path / "in" / f"{number}.png").write_bytes(photo(f"another photo {number}"))
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        watch = Watch(ledger, folder, Stopping(tmp_path / "out"), Progress("silent"), batch=3, poll=0.01)
        assert watch.run(stop).photos == 3
    lines = (tmp_path / "out" / "results.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 13
