"""What a watcher keeps on disk: the lock, ids, letters, and tables that are what the ledger says after any interruption."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unias.errors import DataError
from unias.files import printable
from unias.serve.ledger import FILE, Entry, Ledger
from unias.serve.tables import Tables

COLUMNS = ("number", "path", "note")


def entry(ledger: Ledger, key: str, note: str = "", content: str = "abc") -> Entry:
    id_ = ledger.identify(key, content)
    assert id_ is not None
    return Entry(id_, key, (3, 4), content, {"path": key, "note": note})


def files(home: Path) -> dict[str, bytes]:
    return {name: (home / name).read_bytes() for name in ("results.csv", "results.jsonl")}


@pytest.fixture
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of a thousand cuts do not wait for the disk each time."""
    monkeypatch.setattr("os.fsync", lambda _handle: None)
    monkeypatch.setattr(Ledger, "synchronous", "OFF")


def test_one_watcher_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unias.serve.ledger.PATIENCE", 0)
    with Ledger(tmp_path / "out", tmp_path / "in"):
        with pytest.raises(DataError, match="another unias watch works here"):
            Ledger(tmp_path / "out", tmp_path / "in")
        places = f"{str(tmp_path / 'out')!r}, {str(tmp_path / 'in')!r}"
        code = f"from unias.serve import ledger; ledger.PATIENCE = 0; ledger.Ledger({places})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert "another unias watch works here" in other.stderr
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        assert not ledger.unclean


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        key = ledger.key
    with pytest.raises(DataError, match="results of another folder"):
        Ledger(tmp_path / "out", tmp_path / "other")
    with Ledger(tmp_path / "out", tmp_path / "x" / ".." / "in") as ledger:
        assert ledger.key == key
    with sqlite3.connect(tmp_path / "out" / FILE) as base:
        base.execute("PRAGMA user_version = 7")
    base.close()
    with pytest.raises(DataError, match="another version"):
        Ledger(tmp_path / "out", tmp_path / "in")
    (tmp_path / "out" / FILE).write_bytes(b"no database, but long enough to be looked at as one" * 100)
    with pytest.raises(DataError, match="damaged"):
        Ledger(tmp_path / "out", tmp_path / "in")
    (tmp_path / "predicted").mkdir()
    (tmp_path / "predicted" / "results.csv").write_text("path,ok\n")
    with pytest.raises(DataError, match="not made by unias watch"):
        Ledger(tmp_path / "predicted", tmp_path / "in")
    assert [path.name for path in (tmp_path / "predicted").iterdir()] == ["results.csv"]


def test_ids_stay_until_they_are_taken(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        first = entry(ledger, "a.png")
        assert entry(ledger, "a.png") == first
        assert len({first.id, entry(ledger, "b.png").id, entry(ledger, "a.png", content="x").id}) == 3
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        assert entry(ledger, "a.png") == first  # after a restart too
        ledger.record([first], [])
        assert ledger.identify("a.png", "abc") is None
        assert ledger.known() == {"a.png": (3, 4)}
        ledger.put_away([first.id])
        assert ledger.known() == {}
        assert ledger.identify("a.png", "abc") not in (None, first.id)
    with Ledger(tmp_path / "other", tmp_path / "in") as ledger:
        assert entry(ledger, "a.png").id != first.id  # another watcher's


def test_a_row_and_its_letters_are_one(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        ledger.record([entry(ledger, "a.png")], ["webhook"])
        same = entry(ledger, "b.png")
        with pytest.raises(DataError, match="UNIQUE"):
            ledger.record([same, same], ["webhook", "mqtt"])
        assert len(ledger.rows_after(0, 10)) == 1
        assert ledger.outstanding() == {"webhook": {"waiting": 1, "parked": 0}}
        ledger.record([same], ["webhook"])
        assert [number for number, _ in ledger.rows_after(0, 10)] == [1, 2]


def test_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        assert ledger.next_due("webhook") is None
        ledger.record([entry(ledger, f"{name}.png", "ü") for name in "abcd"], ["webhook", "mqtt"])
        first, second = ledger.letters("webhook", 2)
        assert (first.number, second.number, first.tries) == (1, 2, 0)
        body = json.loads(first.body)
        assert body["type"] == "photo.inspected"
        assert body["id"] == body["data"]["id"] == first.id
        assert body["timestamp"] == body["data"]["time"]
        assert json.dumps(body["data"], ensure_ascii=False) == ledger.rows_after(0, 1)[0][1]
        ledger.postpone("webhook", [1], 60, "refused")
        ledger.park("webhook", 2, "not wanted")
        ledger.delivered("webhook", [3])
        assert [letter.number for letter in ledger.letters("webhook", 9)] == [4]
        ledger.delivered("webhook", [4])
        assert ledger.next_due("webhook") == 60
        now[0] += 60
        (again,) = ledger.letters("webhook", 9)
        assert (again.number, again.tries, again.body) == (1, 1, first.body)
        ledger.postpone("webhook", [1], 300, "refused")
        now[0] -= 1_000_000  # the clock is set back: nothing waits for its old time
        assert [letter.number for letter in ledger.letters("webhook", 9)] == [1]
        now[0] += 1_000_000
        assert ledger.letters("webhook", 9) == []
        assert ledger.outstanding() == {"mqtt": {"waiting": 4, "parked": 0}, "webhook": {"waiting": 1, "parked": 1}}
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        assert [letter.number for letter in ledger.letters("webhook", 9)] == [1]  # a start tries at once
        assert ledger.resend() == 1
        assert [letter.number for letter in ledger.letters("webhook", 9)] == [1, 2]


@pytest.fixture
def told(tmp_path: Path, no_flushing: None) -> Any:
    """A ledger of six rows, five of them in the tables, and what the tables must come to."""
    ledger = Ledger(tmp_path / "out", tmp_path / "in")
    tables = Tables(ledger, COLUMNS)
    tables.catch_up()
    for number, note in enumerate(["", 'a "b", c', "line\nfeed", "ü測", "x"]):
        ledger.record([entry(ledger, f"{number}.png", note)], [])
        tables.catch_up()
    before = files(tmp_path / "out")
    ledger.record([entry(ledger, "last.png", "ö"), entry(ledger, "very last.png")], [])
    yield tmp_path / "out", ledger, tables, before
    ledger.close()


def test_tables_hold_every_row(told: Any) -> None:
    home, _, tables, before = told
    tables.catch_up()
    after = files(home)
    assert all(after[name].startswith(before[name]) for name in before)
    assert after["results.csv"].decode().splitlines()[0] == "number,path,note"
    rows = [json.loads(line) for line in after["results.jsonl"].decode().splitlines()]
    assert [row["path"] for row in rows] == [*(f"{number}.png" for number in range(5)), "last.png", "very last.png"]
    tables.catch_up()
    assert files(home) == after


def test_tables_cut_anywhere_are_mended(told: Any) -> None:
    """Whatever a killed process had written of its last rows: nothing, some of it, all of it, or something else."""
    home, ledger, tables, before = told
    places = {name: ledger.exported(name) for name in before}
    tables.catch_up()
    whole = files(home)
    assert ledger.exported("results.csv") == (7, len(whole["results.csv"]))
    for name, content in whole.items():
        start = len(before[name])
        for end in range(start, len(content) + 1):
            for junk in (b"", b"\0", b"{}\n" * 100)[:: 2 - end % 2]:
                (home / name).write_bytes(content[:end] + junk)
                ledger.set_exported({name: places[name]})
                tables.catch_up()
                assert files(home) == whole, (name, end, junk)


def test_tables_cut_at_the_very_start(tmp_path: Path, no_flushing: None) -> None:
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        ledger.record([entry(ledger, "a.png"), entry(ledger, "b.png")], [])
        tables = Tables(ledger, COLUMNS)
        tables.catch_up()
        whole = files(tmp_path / "out")
        for name, content in whole.items():
            for end in range(len(content) + 1):
                (tmp_path / "out" / name).write_bytes(content[:end])
                ledger.set_exported({name: (0, 0)})
                tables.catch_up()
                assert files(tmp_path / "out") == whole


@pytest.mark.parametrize("name", ["results.csv", "results.jsonl"])
def test_tables_that_others_removed_or_cut_are_written_anew(told: Any, name: str) -> None:
    home, ledger, tables, _ = told
    tables.catch_up()
    whole = files(home)
    (home / name).unlink()
    tables.catch_up()
    assert files(home) == whole
    (home / name).write_bytes(whole[name][:20])
    tables.catch_up()
    assert files(home) == whole
    if name == "results.csv":  # columns that another version wrote
        (home / name).write_bytes(b"path" + whole[name])
        tables.catch_up()
        assert files(home) == whole
        wider = Tables(ledger, (*COLUMNS, "time"))
        wider.catch_up()
        assert (home / name).read_text("utf-8").startswith("number,path,note,time\n1,0.png,,2")


def test_a_full_disk_leaves_no_half_row(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home, _, tables, before = told

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="disk is full"):
        tables.catch_up()
    monkeypatch.undo()
    tables.catch_up()
    assert all(content.startswith(before[name]) for name, content in files(home).items())
    assert len(files(home)["results.jsonl"].splitlines()) == 7


def test_names_that_are_no_text() -> None:
    assert printable("caf\udce9") == "caf\\udce9"
    assert printable(Path("größe 測")) == "größe 測"
