"""``unias bench agree``: figures on maps worked out by hand, what is excused and what is not, and one real run."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unias.bench import agree
from unias.bench.agree import Given, chosen, compared, distance, map_difference, run_agree, served, watched
from unias.bench.agree_page import agree_bars, agree_page
from unias.data.layouts import Sample, scan
from unias.errors import ExportError, MissingError, UniasError, UsageError
from unias.inference.predictor import Model

pytestmark = pytest.mark.usefixtures("one_thread")
MAP = np.array([[0.0, 2.0], [1.0, 0.5]], dtype=np.float32)
ONE = Given("ok", "nut", 2.0, 4.0, MAP, np.zeros((2, 2), dtype=bool))


def test_map_difference_by_hand() -> None:
    other = MAP + np.array([[0.0, -0.1], [0.5, 0.0]], dtype=np.float32)
    assert map_difference(other, MAP) == pytest.approx(0.5 / 2)
    assert map_difference(MAP, MAP) == 0
    assert map_difference(None, MAP) is None
    assert map_difference(np.full((2, 2), np.nan, dtype=np.float32), MAP) == float("inf")
    assert map_difference(MAP[:1], MAP) == float("inf")


def test_distance_is_to_the_nearer_line(model: Model, good: Path) -> None:
    result = dataclasses.replace(model.predict(good), raw_score=0.999, cut=1.0)
    assert distance(result, 0.2) == pytest.approx(1e-3)
    assert distance(result, 0.9999) == pytest.approx(1e-4)
    unknown = dataclasses.replace(result, product=None, ok=False)
    assert distance(unknown, 1.5) == pytest.approx(0.5)  # no score makes it known


@pytest.fixture(scope="module")
def good(tiny_data: Path) -> Path:
    return sorted(tiny_data.glob("*/train/good/*.png"))[0]


def test_photos_are_spread_over_products(make_data: Any, tmp_path: Path) -> None:
    make_data(tmp_path, products=("a",), train=2, good=1, defects=("hole",))
    make_data(tmp_path, products=("b",), train=2, good=9, defects=("hole",))
    found = chosen(tmp_path, 6)
    assert [sample.product for sample in found] == ["a"] * 2 + ["b"] * 4
    assert all(sample.split == "test" for sample in found)
    assert {found[2].key, found[-1].key} == {"b/test/good/000.png", "b/test/hole/000.png"}  # both ends
    assert len(chosen(tmp_path, 1)) == 1
    assert len(chosen(tmp_path, 200)) == 12


def test_photos_without_a_test_set_are_taken_as_they_are(make_data: Any, tmp_path: Path) -> None:
    make_data(tmp_path, products=("a",), train=5, good=0, defects=())
    assert len(chosen(tmp_path, 3)) == 3


def samples(count: int) -> list[Sample]:
    return [Sample(Path(f"{n}.png"), "nut", "test", "good", None, f"nut/test/good/{n}.png") for n in range(count)]


def test_only_photos_on_the_cut_are_excused() -> None:
    others = [
        dataclasses.replace(ONE, verdict="defect", raw_score=2.002),
        dataclasses.replace(ONE, verdict="defect", mask=np.ones((2, 2), dtype=bool)),
        dataclasses.replace(ONE, product="bolt"),
        dataclasses.replace(ONE, map=MAP * 1.25),
    ]
    found = compared(samples(4), [ONE] * 4, [1e-3, 2e-3, 0.5, 0.0], others)
    assert [(one["photo"][-5:], one["near"]) for one in found["answers_differ"]] == [
        ("0.png", True),
        ("1.png", False),
        ("2.png", False),
    ]
    assert found["map_difference"] == pytest.approx(0.25)
    assert found["map_photo"] == "nut/test/good/3.png"
    assert found["score_difference"] == pytest.approx(1e-3)
    assert found["masks_differ"] == 1


def row(engine: str, **changes: Any) -> dict[str, Any]:
    whole = {"engine": engine, "how": "", "photos": 4, "map_difference": 1e-3, "score_difference": 1e-3}
    return {**whole, "masks_differ": 0, "answers_differ": [], **changes}


def met(one: dict[str, Any]) -> list[bool | None]:
    return [bar["met"] for bar in agree_bars({"rows": [one]})]


def test_bars_are_the_issues() -> None:
    assert met(row("onnx")) == met(row("server")) == [True, True]
    assert met(row("onnx", map_difference=1.1e-3)) == [True, False]
    assert met(row("onnx", map_difference=float("inf"))) == [True, False]
    assert met(row("onnx", answers_differ=[{"near": True}])) == [True, True]
    assert met(row("onnx", answers_differ=[{"near": True}, {"near": False}])) == [False, True]
    assert met(row("watch", map_difference=None)) == [True, True]  # by its scores
    assert met(row("watch", map_difference=None, score_difference=2e-3)) == [True, False]
    assert met({"engine": "onnx", "why_not": "x", "differs": False}) == [None, None]
    assert met({"engine": "onnx", "why_not": "x", "differs": True}) == [False, False]
    assert met(row("openvino-int8", map_difference=0.1, own_ranks=0.0)) == [True]
    assert met(row("openvino-int8", own_ranks=1e-3)) == [False]


@pytest.fixture
def stand_ins(model: Model, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Given], Given]]:
    """In the place of exports and processes: the trained model, its answers changed as a test says by the engine's name."""
    changes: dict[str, Callable[[Given], Given]] = {}

    def way(name: str) -> Any:
        def answer(chosen: Any, advance: Any) -> list[Given]:
            found = [agree.given(one) for one in model.predict([sample.path for sample in chosen])]
            return [changes.get(name, lambda one: one)(one) for one in found]

        return answer

    monkeypatch.setattr(agree, "exported", lambda folder, engine, *rest, **more: way(engine))
    monkeypatch.setattr(agree, "served", lambda *rest: way("server"))
    monkeypatch.setattr(agree, "watched", lambda *rest: way("watch"))
    return changes


def test_differences_come_into_the_report(
    stand_ins: dict[str, Any], model_folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    def wrong(one: Given) -> Given:
        verdict = "ok" if one.verdict != "ok" else "defect"
        assert one.map is not None
        return dataclasses.replace(one, verdict=verdict, map=one.map * np.float32(1.01))

    stand_ins["openvino"] = wrong
    stand_ins["watch"] = lambda one: dataclasses.replace(one, map=None, raw_score=one.raw_score * 1.1)
    document = run_agree(tmp_path, model_folder, tiny_data, photos=4, threads=1)
    rows = {one["engine"]: one for one in document["rows"]}
    assert list(rows) == ["onnx", "openvino", "server", "watch"]
    for name in ("onnx", "server"):
        assert (rows[name]["map_difference"], rows[name]["answers_differ"]) == (pytest.approx(0, abs=1e-5), [])
    assert len(rows["openvino"]["answers_differ"]) == 4
    assert rows["openvino"]["map_difference"] == pytest.approx(0.01, rel=0.01)
    assert rows["watch"]["map_difference"] is None
    assert rows["watch"]["score_difference"] == pytest.approx(0.1, rel=0.01)
    bars = {one["what"]: one["met"] for one in document["bars"]}
    assert [name for name, good in bars.items() if not good] == ["OpenVINO: answers", "OpenVINO: maps", "watch: scores"]
    page = (tmp_path / "agree.md").read_text(encoding="utf-8")
    assert page == agree_page(json.loads((tmp_path / "agree.json").read_text(encoding="utf-8")))
    for piece in ("| watch |", "**not met**", document["commit"], rows["openvino"]["answers_differ"][0]["photo"]):
        assert piece in page
    assert str(tiny_data.parent) not in page  # this machine's paths are nobody's business


@pytest.mark.parametrize(("error", "met"), [(MissingError("no onnx"), None), (ExportError("maps differ"), False)])
def test_an_export_that_is_not_there_says_why(
    error: UniasError,
    met: bool | None,
    stand_ins: dict[str, Any],
    model_folder: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*rest: Any, **more: Any) -> Any:
        raise error

    monkeypatch.setattr(agree, "exported", fail)
    document = run_agree(tmp_path, model_folder, tiny_data, photos=2, threads=1)
    assert [one["met"] for one in document["bars"]] == [met] * 4 + [True] * 4
    assert str(error) in (tmp_path / "agree.md").read_text(encoding="utf-8")


def test_photos_near_the_cut_are_listed(
    stand_ins: dict[str, Any], model_folder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agree, "distance", lambda result, novelty: 0.0)
    document = run_agree(tmp_path, model_folder, tiny_data, photos=2, threads=1)
    assert [one["photo"] for one in document["near"]] == [one.key for one in chosen(tiny_data, 2)]
    assert document["near"][0]["photo"] in (tmp_path / "agree.md").read_text(encoding="utf-8")


def test_exports_are_no_reference(model_folder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Model, "exported", property(lambda self: object()))
    with pytest.raises(UsageError, match=r"is an export\. Give the trained model"):
        run_agree(tmp_path / "out", model_folder, tiny_data)
    assert not (tmp_path / "out").exists()


def test_watcher_that_ends_is_an_error(tmp_path: Path, good: Path) -> None:
    answer = watched(tmp_path / "no model", tmp_path, threads=1)
    with pytest.raises(UniasError, match="ended early"):
        answer([dataclasses.replace(samples(1)[0], path=good)], lambda count=1, note="": None)


def test_server_that_refuses_a_photo_is_an_error(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"error": "the server is busy", "hint": "wait"}'
            self.send_response(429)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = contextlib.nullcontext(("127.0.0.1", server.server_address[1]))
        monkeypatch.setattr(agree, "running_server", lambda *_: address)
        with pytest.raises(UniasError, match=rf"{good.name} with 429: the server is busy"):
            served(Path("model"), 1)([dataclasses.replace(samples(1)[0], path=good)], lambda count=1, note="": None)
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_one_run(retrain: Any, configs: Any, tiny_data: Path, tmp_path: Path, cli: Any) -> None:
    """Real exports (of two levels, which takes half the time), a real server, a real watcher."""
    for package in ("onnxscript", "onnxruntime", "openvino", "fastapi"):
        pytest.importorskip(package)
    words = ("--photos", "6", "--threads", "1", "--json", "-q")
    folder = retrain("model", config=configs["small"]).folder
    answer = cli("bench", "agree", folder, tiny_data, "-o", tmp_path / "out", *words)
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert [one["met"] for one in document["bars"]] == [True] * 8
    assert document["photos"] == sum(document["verdicts"].values()) == 6
    assert {sample.key for sample in scan(tiny_data).test()} >= {one["photo"] for one in document["near"]}
    rows = {one["engine"]: one for one in document["rows"]}
    assert all(one["photos"] == 6 for one in rows.values())
    assert 0 < rows["server"]["map_difference"] <= 1e-4  # 16 bits
    assert rows["watch"]["map_difference"] is None
    assert rows["watch"]["masks_differ"] == rows["server"]["masks_differ"] == 0
