"""``bench speed`` on tiny models: what the document holds, honest cells, files whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unias.bench import speed
from unias.bench.pages import ROW_HEADINGS
from unias.bench.speed import fill_probe, make_plan, run_speed
from unias.bench.subjects import INSTALL
from unias.bench.training import measure, rows_of
from unias.bench.variants import NO_BFLOAT16, VARIANTS
from unias.config import Config
from unias.errors import DataError, ExportError, MissingError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread", "in_this_process", "quick_start")
FEW = ("paper-fused", "small-eager", "small-bf16", "small-onnx", "small-openvino-int8", "paper-cuda")
LEFT_OUT = "failed: left out by this test"
Document = dict[str, Any]


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def cells(page: str, title: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MissingError("needs the package onnx, which is not installed here.")

    monkeypatch.setattr("unias.export.export_model", refuse)
    monkeypatch.setattr("unias.bench.subjects.untrained_export", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def run(configs: dict[str, Config], tmp_path: Path, no_extra: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(training: bool = False, **wishes: Any) -> tuple[Document, str]:
        if not training:
            monkeypatch.setattr(speed.Speed, "_training", lambda self: {"fault": LEFT_OUT})
        arguments: dict[str, Any] = {"only": FEW, "threads": 1, "quick": True, "configs": configs}
        document = run_speed(tmp_path / "out", **arguments | wishes)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["speed.json", "speed.md"]
        assert json.loads((tmp_path / "out/speed.json").read_text(encoding="utf-8"), parse_constant=reject)["rows"]
        return document, (tmp_path / "out/speed.md").read_text(encoding="utf-8")

    return call


def test_random_weights(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model or photos: rows for speed alone, and they say so."""
    monkeypatch.setattr("unias.bench.variants.cpu_has_bfloat16", lambda: False)
    document, page = run(training=True)
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == [v.name for v in VARIANTS if v.name in {"paper-plain", *FEW}]
    assert rows["paper-cuda"]["fault"] == "not measured: no CUDA device here"
    assert rows["small-bf16"]["fault"] == NO_BFLOAT16
    assert rows["small-onnx"]["fault"] == rows["small-openvino-int8"]["fault"] == INSTALL
    for name in ("paper-plain", "paper-fused", "small-eager"):
        row = rows[name]
        assert row["fault"] is None
        assert row["weights"] == "random weights"
        assert set(row["batches"]) == {"1", "8"}
        for batch in row["batches"].values():
            assert batch["images_a_second"] > 0
            assert batch["share_of_rate"] > 0
            assert batch["calls"] == 1
        assert row["first_image_seconds"] > 0
        assert row["multiply_adds"] > 1e6
    assert [batch["times_yardstick"] for batch in rows["paper-plain"]["batches"].values()] == [1, 1]
    assert rows["paper-plain"]["map_difference"] == 0
    assert rows["paper-fused"]["map_difference"] < 1e-4
    assert rows["paper-fused"]["multiply_adds"] < rows["paper-plain"]["multiply_adds"]
    assert rows["paper-fused"]["why"]["pap_lost"] == "not trained here"
    assert rows["small-eager"]["why"]["pap_lost"] == "random weights"
    assert {"date", "commit", "machine", "threads", "versions", "instructions"} <= set(document)
    assert {"onnxruntime", "openvino", "nncf", "torch"} <= set(document["versions"])
    # the page
    assert "--quick" in page
    assert len(cells(page, "`paper`, fused, float32 eager")) == len(ROW_HEADINGS)
    assert cells(page, "`small`, ONNX Runtime, float32")[2] == INSTALL
    assert cells(page, "`paper`, fused, float32 eager")[-1] == "not trained here"
    assert f"- commit: {document['commit']}" in page
    assert "drawn textures" in page
    # nothing is judged on one call
    assert all(bar["met"] is None for bar in document["bars"])
    assert len(document["bars"]) == 11
    assert "`unias bench scale`" in document["bars"][-1]["measured"]
    # backbone and the rest, training steps
    assert set(document["parts"]) == {"1", "8"}
    assert all(part["rest_over_backbone"] > 0 for part in document["parts"].values())
    assert [row["name"] for row in document["training"]["rows"]] == ["plain", "fused", "plain-bf16", "fused-bf16"]


def test_trained_model_and_photos(
    run: Any, model_folder: Path, tiny_data: Path, tmp_path: Path, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pAP stands beside speed; the subset is what it is read on; nothing is changed."""
    monkeypatch.setattr("unias.bench.variants.cpu_has_bfloat16", lambda: True)
    before = tree(model_folder), tree(tiny_data)
    keys = sorted(path.relative_to(tiny_data).as_posix() for path in tiny_data.rglob("test/*/*.png"))
    (tmp_path / "final.txt").write_text("\n".join(keys[::2]) + "\n", encoding="utf-8")
    only = ("small-eager", "small-bf16")
    document, page = run(model=model_folder, data=tiny_data, subset=tmp_path / "final.txt", only=only)
    rows = {row["name"]: row for row in document["rows"]}
    assert rows["small-eager"]["weights"] == "trained"
    assert rows["small-eager"]["pap_lost"] == 0
    assert set(rows["small-eager"]["pap"]) == {"Dichtung groß", "plaque gravée", "mean"}
    assert 0 < rows["small-eager"]["pap"]["mean"] < 100
    assert abs(rows["small-bf16"]["pap_lost"]) < 5
    assert document["models"]["small"]["record"]["steps"] == 6
    assert document["subset"] == "final.txt"
    assert "the photos in final.txt" in page
    assert cells(page, "`small`, float32 eager")[-1] == f"+0.00 ({rows['small-eager']['pap']['mean']:.2f})"
    assert (tree(model_folder), tree(tiny_data)) == before


def test_trained_model_without_photos(run: Any, model_folder: Path) -> None:
    document, page = run(model=model_folder, only=("small-openvino-int8",))
    rows = {row["name"]: row for row in document["rows"]}
    assert rows["small-openvino-int8"]["fault"] == "not measured: no --data, which 8 bits are calibrated on"
    assert rows["small-eager"]["why"]["pap_lost"] == "not measured: no --data"
    assert LEFT_OUT in page
    said = {bar["what"]: bar["measured"] for bar in document["bars"]}
    assert any(value.startswith(LEFT_OUT) for value in said.values())


def test_an_export_that_is_refused_is_a_cell(run: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ExportError("maps differ by 0.5. It was not kept.")

    monkeypatch.setattr("unias.export.export_model", refuse)
    document, _ = run(only=("small-onnx",), model=model_folder)
    assert document["rows"][-1]["fault"] == "not kept: maps differ by 0.5. It was not kept."


def test_a_probe_that_dies_is_a_cell(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    died = {"fault": "failed: killed by signal 9 (out of memory?)"}
    monkeypatch.setattr(speed, "in_fresh_process", lambda task, **_: died)
    document, page = run(only=("paper-fused",), training=True)
    row = cells(page, "`paper`, fused, float32 eager")
    assert row[3] == row[8] == died["fault"]
    assert document["training"] == died


def test_probes_are_joined() -> None:
    answers = [
        {"import_seconds": 1.0, "open_seconds": 1.0, "first_seconds": 1.0, "peak_mib": {"1": 5.0, "8": 9.0}},
        {"fault": "failed: once"},
        {"import_seconds": 3.0, "open_seconds": 2.0, "first_seconds": 4.0, "peak_mib": {"1": 6.0, "8": 8.0}},
    ]
    row: Document = {"why": {}}
    fill_probe(row, answers)
    assert row["first_image_seconds"] == 4
    assert row["peak_mib"] == {"1": 6, "8": 9}
    row = {"why": {}}
    fill_probe(row, [{**answers[0], "peak_mib": {"1": None, "8": None}}])
    assert row["why"] == {"peak_mib": "not measured: this system does not tell"}


def test_bars_of_scale_are_taken_along(
    configs: dict[str, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed.Speed, "measure", lambda self: _empty())
    (tmp_path / "out").mkdir()
    kept = {"what": "10,000 images against 500", "bar": "x", "measured": "time x 1.01", "met": True, "bench": "scale"}
    content = {"commit": "abc", "date": "2026-01-01", "bars": [kept]}
    (tmp_path / "out/scale.json").write_text(json.dumps(content), encoding="utf-8")
    document = run_speed(tmp_path / "out", quick=True, threads=1, only=("paper-fused",), configs=configs)
    assert document["bars"][-1] == {**kept, "measured": "time x 1.01 (scale.json, commit abc, 2026-01-01)"}


def _empty() -> Document:
    from unias.bench.stamps import bench_stamp

    return {
        **bench_stamp(),
        "quick": True,
        "rounds": 1,
        "rows": [],
        "models": {},
        "parts": {},
        "convolution_flops": {},
        "training": {"fault": "no"},
        "startup": {"seconds": {"help": 1.0, "torch": 2.0}, "share": 0.5, "rounds": 1},
    }


# --- faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "kind", "said"),
    [
        ({"only": ("paper",)}, UsageError, "--only: 'paper'"),
        ({"subset": Path("final.txt")}, UsageError, "--subset: names test photos of --data, which is missing"),
        ({"data": "none"}, DataError, "none: no such folder"),
        ({"model": "none"}, DataError, "none: there is no such model folder"),
    ],
    ids=["only", "subset", "data", "model"],
)
def test_faults(wishes: Document, kind: type[Exception], said: str, tmp_path: Path, configs: dict[str, Config]) -> None:
    """Said before anything is measured; no folder stays."""
    with pytest.raises(kind, match=said):
        run_speed(tmp_path / "out", threads=1, configs=configs, **wishes)
    assert not (tmp_path / "out").exists()


def test_subset_faults(tiny_data: Path, tmp_path: Path, configs: dict[str, Config]) -> None:
    for text, said in (("bottle/test/good/000.png\n", "is no test photo of"), ("\n", "names no photo")):
        (tmp_path / "list.txt").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            run_speed(tmp_path / "out", data=tiny_data, subset=tmp_path / "list.txt", configs=configs)


def test_an_export_is_no_model(
    model_folder: Path, tmp_path: Path, configs: dict[str, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unias.inference.engines import ExportedDetector, ExportInfo
    from unias.inference.store import StoredModel

    stored = StoredModel(ExportedDetector(lambda *_: {}, ExportInfo("onnx", "uint8", (4,))), configs["small"], ())
    monkeypatch.setattr("unias.bench.subjects.load_model", lambda *_: stored)
    with pytest.raises(UsageError, match="is an export; exports are made here"):
        run_speed(tmp_path / "out", model=model_folder, configs=configs)


def test_nothing_half_written(configs: dict[str, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(speed.Speed, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_speed(tmp_path / "new" / "out", threads=1, only=("paper-fused",), configs=configs)
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/speed.md").write_text("kept", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        run_speed(tmp_path / "old", threads=1, only=("paper-fused",), configs=configs)
    assert [path.read_text(encoding="utf-8") for path in (tmp_path / "old").iterdir()] == ["kept"]


# --- training steps -----------------------------------------------------------------------------------------


def test_steps_train_in_every_form(paper_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unias.bench.training.cpu_has_bfloat16", lambda: True)
    images = torch.rand(2, 3, 128, 128)
    found = rows_of({**measure(paper_folder, images, 2), "peak_mib": None})
    assert (found["batch"], found["rounds"]) == (2, 2)
    assert all(row["fault"] is None and row["milliseconds"] > 0 for row in found["rows"])
    assert found["rows"][0]["times_yardstick"] == 1
    monkeypatch.setattr("unias.bench.training.cpu_has_bfloat16", lambda: False)
    found = rows_of({**measure(paper_folder, images, 1), "peak_mib": None})
    assert [row["fault"] for row in found["rows"]] == [None, None, NO_BFLOAT16, NO_BFLOAT16]


def test_plans() -> None:
    assert make_plan(2, 9, False).rounds == 9
    assert make_plan(2, 9, True).rounds == make_plan(2, 1, False).training_rounds == 1


# --- real exports -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_exports_are_rows(configs: dict[str, Config], model_folder: Path, tmp_path: Path, tiny_data: Path) -> None:
    """A trained model's by ``unias export``, with their pAP; those of random weights for speed alone."""
    for package in ("onnxscript", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(package)
    only = ("paper-onnx", "paper-openvino-int8", "small-onnx", "small-openvino")
    document = run_speed(
        tmp_path / "out", model=model_folder, data=tiny_data, threads=1, quick=True, only=only, configs=configs
    )
    rows = {row["name"]: row for row in document["rows"]}
    assert [rows[name]["fault"] for name in only] == [None] * 4
    for name in ("paper-onnx", "small-onnx", "small-openvino"):
        assert rows[name]["map_difference"] < 1e-4
    assert 0 < rows["paper-openvino-int8"]["map_difference"] < 1
    assert abs(rows["small-openvino"]["pap_lost"]) < 0.01


def test_the_rest_of_the_page_can_be_left_out(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """--rows-only starts no training and no command line, and the page and the bars say why there is nothing."""
    monkeypatch.setattr(speed, "measure_startup", lambda rounds: pytest.fail("was measured"))
    document, page = run(training=True, rows_only=True, only=["paper-fused"])
    assert document["training"] == document["startup"] == {"fault": speed.LEFT_OUT}
    said = [one for one in document["bars"] if speed.LEFT_OUT in one["measured"]]
    assert len(said) == 3
    assert all(one["met"] is None for one in said)
    assert page.count(speed.LEFT_OUT) == 5


def test_as_many_fresh_processes_as_asked_for() -> None:
    assert make_plan(2, 9, False).probes == 3
    assert make_plan(2, 9, False, probes=1).probes == 1
    assert make_plan(2, 1, False).probes == 1
