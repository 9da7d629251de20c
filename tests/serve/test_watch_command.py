"""``unias watch`` with a real model: the rows of ``unias predict``, exit codes, signals, kills, and docs/watch.md as written."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from mqtt_stand_in import Broker
from watch_office import rows_of
from webhook_stand_in import SECRET, Receiver

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "watch.md").read_text(encoding="utf-8")


@pytest.fixture
def photos(tiny_data: Path, tmp_path: Path) -> Path:
    """Six photos, three of them defective, two of one name in different folders."""
    folder = tmp_path / "incoming"
    for number, source in enumerate(sorted(tiny_data.glob("*/test/*/*.png"))[::2]):
        target = folder / ("left" if number % 2 else "right") / f"part {number // 2}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return folder


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Receiver()
    yield one
    one.close()


def quick(*more: object) -> tuple[object, ...]:
    return ("--settle", 0, "--poll", 0.01, "--patience", 0, "--device", "cpu", *more)


@pytest.mark.parametrize("wishes", [[], ["--product", "plaque gravée", "--levels"]])
def test_rows_and_pictures_are_those_of_predict(
    cli: Any,
    model_folder: Path,
    photos: Path,
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    wishes: list[str],
) -> None:
    monkeypatch.setenv("UNIAS_WEBHOOK_SECRET", SECRET)
    watched, predicted = tmp_path / "watched", tmp_path / "predicted"
    answer = cli("predict", model_folder, photos, "-o", predicted, "-q", *wishes)
    assert answer.code == 0, answer.err
    answer = cli("watch", model_folder, photos, "-o", watched, *quick("--once", "--webhook", receiver.url), *wishes)
    assert answer.code == 0, answer.err
    assert re.match(r"6 photos: \d ok, \d failed.*\. Results: .*results\.csv\n$", answer.out), answer.out
    wanted = {
        row["path"]: row for row in map(json.loads, (predicted / "results.jsonl").read_text("utf-8").splitlines())
    }
    found = {row["path"]: row for row in rows_of(watched)}
    assert set(found) == set(wanted) == {str(path) for path in photos.rglob("*.png")}
    for path, row in found.items():
        for key in ("verdict", "ok", "product", "product_known", "nearest", "size", "cut", "p_value"):
            assert row[key] == wanted[path][key], key
        for key in ("raw_score", "pred_score"):
            assert row[key] == pytest.approx(wanted[path][key], rel=1e-4)
        assert len(row["regions"]) == len(wanted[path]["regions"])
        assert row["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert (watched / row["mask"]).read_bytes() == (predicted / wanted[path]["mask"]).read_bytes()
        assert (watched / row["heatmap"]).is_file()
        assert (watched / row["levels"]).is_file() if wishes else row["levels"] == ""
    if wishes:
        assert {row["ok"] for row in found.values()} == {True, False}  # both kinds, with and without a mask
    assert receiver.taken == {row["id"]: 1 for row in found.values()}
    assert receiver.faults == []
    again = cli("watch", model_folder, photos, "-o", watched, *quick("--once", "--json"))
    assert again.code == 0, again.err
    assert json.loads(again.out)["photos"] == 0
    assert len(rows_of(watched)) == 6


def test_unreadable_among_good_ones(cli: Any, model_folder: Path, photos: Path, tmp_path: Path) -> None:
    whole = (photos / "left" / "part 0.png").read_bytes()
    (photos / "half.png").write_bytes(whole[: len(whole) // 2])
    (photos / "text.jpg").write_text("no photo")
    (photos / "empty.bmp").write_bytes(b"")
    out = tmp_path / "out"
    answer = cli("watch", model_folder, photos, "-o", out, "--after", "move", "--json", *quick("--once", "--batch", 2))
    assert answer.code == 3, answer.err
    tally = json.loads(answer.out)
    assert (tally["photos"], tally["unreadable"], tally["ok"] + tally["failed"]) == (9, 3, 9)
    bad = {Path(row["path"]).name: row["error"] for row in rows_of(out) if row["verdict"] == "unreadable"}
    assert set(bad) == {"half.png", "text.jpg", "empty.bmp"}
    assert all(name in error for name, error in bad.items())
    assert [path for path in photos.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly(
    cli: Any, model_folder: Path, photos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    handler = signal.getsignal(signal.SIGTERM)

    def when_there_is_a_row() -> None:
        table = out / "results.jsonl"
        while not (table.is_file() and table.stat().st_size):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=when_there_is_a_row)
    thread.start()
    answer = cli("watch", model_folder, photos, "-o", out, *quick("--batch", 2))
    thread.join()
    assert answer.code == code, answer.err
    assert ("stopped by Ctrl-C" in answer.err) is (code == 130)
    assert answer.out.count("photos: ") == 1
    assert len(rows_of(out)) in (2, 4, 6)  # whole batches
    assert signal.getsignal(signal.SIGTERM) is handler
    assert cli("watch", model_folder, photos, "-o", out, *quick("--once")).code == 0
    assert len(rows_of(out)) == 6


@pytest.mark.parametrize(
    ("wishes", "code", "said"),
    [
        (["--after", "burn"], 2, "--after"),
        (["--done", "x"], 2, "--done"),
        (["--webhook", "ftp://host"], 2, "--webhook"),
        (["--webhook", "http://host"], 2, "whsec_"),
        (["--webhook-secret-file", "x"], 2, "--webhook-secret-file"),
        (["--mqtt", "host"], 2, "--mqtt"),
        (["--mqtt-user", "me"], 2, "--mqtt-user"),
        (["--mqtt", "mqtt://host", "--mqtt-topic", "#"], 2, "--mqtt-topic"),
        (["--mqtt", "mqtt://host", "--mqtt-password-file", "none"], 2, "--mqtt-password-file"),
        (["--product", "screw"], 2, "screw"),
        (["--poll", "0"], 2, "--poll"),
        (["-o", "incoming"], 2, "watched folder itself"),
    ],
)
def test_wishes_that_are_refused(
    cli: Any,
    model_folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wishes: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cli("watch", model_folder, "incoming", "-o", "out", *wishes)
    assert (answer.code, answer.out) == (code, ""), answer.err
    assert said in answer.err
    assert not (tmp_path / "incoming" / "watch.sqlite3").exists()


def test_folders_and_packages_that_are_missing(
    cli: Any, model_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = cli("watch", model_folder, tmp_path / "none", "-o", tmp_path / "out")
    assert (answer.code, "no such folder" in answer.err) == (3, True)
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    answer = cli("watch", model_folder, photos, "-o", tmp_path / "out", "--mqtt", "mqtt://host")
    assert (answer.code, "unias[serve]" in answer.err) == (4, True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.jsonl").write_text("{}\n")
    answer = cli("watch", model_folder, photos, "-o", tmp_path / "out")
    assert (answer.code, "not made by unias watch" in answer.err) == (3, True)


def test_what_could_not_be_delivered_is_said(
    cli: Any, model_folder: Path, photos: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIAS_WEBHOOK_SECRET", SECRET)
    receiver.answer = lambda _letter: 403
    command = ["watch", model_folder, photos, "-o", tmp_path / "out", "--webhook", receiver.url, *quick("--once")]
    answer = cli(*command)
    assert answer.code == 1
    assert "6 refused by webhook and parked" in answer.out
    receiver.answer = lambda _letter: 200
    assert cli(*command).code == 1  # parked rows stay where they are
    answer = cli(*command, "--resend")
    assert answer.code == 0, answer.err
    assert "6 parked rows are tried again" in answer.err
    assert set(receiver.taken) == {row["id"] for row in rows_of(tmp_path / "out")}


@pytest.mark.slow
def test_a_real_model_killed_on_the_way(
    model_folder: Path, tiny_data: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    sources = sorted(tiny_data.rglob("*.png"))
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    chance = random.Random(4)
    command = [
        sys.executable,
        "-m",
        "unias",
        "watch",
        str(model_folder),
        str(folder),
        "-o",
        str(out),
        "--settle",
        "0.05",
    ]
    command += ["--poll", "0.02", "--batch", "2", "--device", "cpu", "-q", "--after", "move"]
    dropped = 0
    for _ in range(6):
        for _ in range(12):
            shutil.copy(sources[dropped % len(sources)], folder / f"{dropped}.png")
            dropped += 1
        table = out / "results.jsonl"
        before = table.stat().st_size if table.exists() else 0
        process = subprocess.Popen(command, env=clean_environment)
        while not table.exists() or table.stat().st_size == before:  # its first rows
            assert process.poll() is None
            threading.Event().wait(0.01)
        threading.Event().wait(chance.uniform(0, 0.3))
        process.kill()
        process.wait()
    subprocess.run([*command, "--once"], env=clean_environment, check=True, timeout=300)
    rows = rows_of(out)
    assert sorted(int(Path(row["path"]).stem) for row in rows) == list(range(dropped))
    assert list(folder.iterdir()) == []
    for row in rows:
        assert (out / row["mask"]).is_file()
        assert (out / row["heatmap"]).is_file()
        assert hashlib.sha256(Path(row["moved_to"]).read_bytes()).hexdigest() == row["sha256"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.slow
def test_the_page_as_written(
    model_folder: Path,
    tiny_data: Path,
    photos: Path,
    tmp_path: Path,
    receiver: Receiver,
    clean_environment: dict[str, str],
) -> None:
    """Every command of docs/watch.md, with a new photo for each; those that run on are stopped once its row is there and
    delivered. The receiver checks signatures with the page's own function."""
    (tmp_path / "model").symlink_to(model_folder)
    (code,) = blocks("python")
    page: dict[str, Any] = {}
    exec(code, page)
    receiver.check = lambda headers, body: page["is_genuine"](headers, body, (tmp_path / "secret").read_text().strip())
    broker = Broker()
    bin_ = Path(sys.executable).parent
    environment = clean_environment | {"PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "no_proxy": "127.0.0.1"}
    fresh = iter(sorted(tiny_data.glob("*/train/good/*.png")))
    rows = 5
    try:
        for line in (line for block in blocks("sh") for line in block.splitlines()):
            words = shlex.split(line)
            if words[0] == "python":
                subprocess.run(line, shell=True, cwd=tmp_path, env=environment, check=True, timeout=60)
            if words[0] != "unias":
                continue
            if rows > 5:
                shutil.copy(next(fresh), photos / f"new {rows}.png")
            rows = 6 if rows == 5 else rows + 1
            for option, place in (("--webhook", receiver.url), ("--mqtt", f"mqtt://127.0.0.1:{broker.port}")):
                if option in words:
                    words[words.index(option) + 1] = place
            process = subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, env=environment)
            if "--once" not in words:
                wanted = {"--webhook": lambda: receiver.taken, "--mqtt": lambda: broker.acknowledged}
                ready = [came for option, came in wanted.items() if option in words]
                table = tmp_path / "results" / "results.jsonl"
                while not (
                    table.is_file() and len(table.read_bytes().splitlines()) == rows and all(came() for came in ready)
                ):
                    assert process.poll() is None
                    threading.Event().wait(0.02)
                process.terminate()
            assert process.wait(120) == 0, line
            assert len(rows_of(tmp_path / "results")) == rows, line
    finally:
        broker.close()
    last = rows_of(tmp_path / "results")[-2:]
    assert receiver.taken == {last[0]["id"]: 1}
    assert broker.acknowledged == {last[1]["id"]: 1}
    assert broker.topics == {"line5/inspections"}
    assert receiver.faults == []
    body = next(iter(receiver.bodies[last[0]["id"]]))
    assert not page["is_genuine"](
        {}.fromkeys(("webhook-id", "webhook-timestamp", "webhook-signature"), "1"), body, "whsec_"
    )
    (example,) = map(json.loads, blocks("json"))
    assert set(example) == set(json.loads(body))
    assert set(example["data"]) <= set(json.loads(body)["data"])


def test_every_column_is_described() -> None:
    from unias.serve.watch import MORE_COLUMNS, OWN_COLUMNS

    assert all(f"| `{name}` |" in TEXT for name in (*OWN_COLUMNS, *MORE_COLUMNS))
