"""Every system wherever UniAS goes: calibrate, predict, serve, watch, export; the same answers at each place."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from tiny_systems import TINY, needs_anomalib

import unias
from unias.data.decode import load_input
from unias.errors import ExportError, UsageError
from unias.export import export_model
from unias.export.graph import PixelGraph, inference_form
from unias.export.verify import FLOAT_LIMIT, Difference, require_equal
from unias.inference.engines import to_pixels
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.serve.app import create_app
from unias.serve.service import Service
from unias.serve.settings import ServeSettings
from unias.systems.detector import SystemDetector
from unias.systems.nets.patchcore import PatchCore
from unias.systems.registry import BUILT_IN, UNIAS, find

pytestmark = pytest.mark.usefixtures("one_thread")
MARKS = {"draem": [needs_anomalib, pytest.mark.slow], "destseg": [pytest.mark.slow]}
BESIDE = [pytest.param(name, marks=MARKS.get(name, [])) for name in BUILT_IN]
EVERY = [*BESIDE, UNIAS]
ENGINES = {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino"), "torch": ()}
STEPS = {"draem": 40}  # after six its scores are all the same
BACKBONE = "resnet10t"  # random: few layers, so exporters take seconds


@pytest.fixture(scope="module")
def folder_of(tiny_data: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folder_of("uniad") -> a tiny model of it, trained when it is first asked for. Nobody changes it."""
    home = tmp_path_factory.mktemp("everywhere")
    made = {UNIAS: model_folder}

    def get(system: str) -> Path:
        if system not in made:
            steps = STEPS.get(system, 6) if find(system).by_gradient else None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("unias.systems.task.FIRST", 1)  # else DeSTSeg would not come to its second stage
                wishes: dict[str, Any] = {"steps": steps, "settings": TINY[system], "weights": "random"}
                unias.train(
                    tiny_data,
                    home / system,
                    system=system,
                    size=128,
                    backbone=BACKBONE,
                    device="cpu",
                    threads=1,
                    **wishes,
                )
            made[system] = home / system
        return made[system]

    return get


@pytest.fixture(scope="module")
def photos(tiny_data: Path) -> list[Path]:
    """Good and defective ones of both products."""
    return sorted(tiny_data.glob("*/test/*/*.png"))[::2]


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in map(json.loads, (folder / "results.jsonl").read_text("utf-8").splitlines())}


def agree(found: Any, wanted: Result, close: float = 1e-5) -> None:
    """An answer in JSON is the Result's."""
    assert (found["verdict"], found["ok"], found["nearest"]) == (wanted.verdict, wanted.ok, wanted.nearest)
    assert found["raw_score"] == pytest.approx(wanted.raw_score, rel=close)
    assert found["cut"] == pytest.approx(wanted.cut)


@pytest.mark.parametrize("system", EVERY)
def test_predict(system: str, folder_of: Any, photos: list[Path], cli: Any, tmp_path: Path) -> None:
    folder = folder_of(system)
    answer = cli("predict", folder, *photos, "-o", tmp_path / "out", "-q", "--device", "cpu")
    assert answer.code == 0, answer.err
    model = unias.load(folder, device="cpu")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == len(photos)
    for photo in photos:
        result = model.predict(photo)
        agree(rows[str(photo)], result)
        assert result.ok == (not result.pred_mask.any())


@pytest.mark.parametrize("system", EVERY)
def test_calibrate(
    system: str, folder_of: Any, photos: list[Path], tiny_data: Path, cli: Any, tmp_path: Path, tree: Any
) -> None:
    """Another rate takes another rank; further good photos and missed defects join; a least area makes the map decide."""
    folder, before = Path(shutil.copytree(folder_of(system), tmp_path / "model")), unias.load(folder_of(system), "cpu")
    product = before.products[0]
    steps: list[tuple[object, ...]] = [
        ("--false-alarms", "0.5"),
        ("--good", tiny_data / product.name / "test" / "good", "--product", product.name),
        ("--missed", tiny_data / product.name / "test" / "hole", "--product", product.name),
        ("--min-area", "4", "--data", tiny_data),
    ]
    for wishes in steps:
        answer = cli("calibrate", folder, *wishes, "--json", "--device", "cpu")
        assert answer.code == 0, answer.err
        after = unias.load(folder, device="cpu")
        if wishes[0] == "--false-alarms":
            ranked = sorted(product.held_out_scores, reverse=True)
            found = after.products[0].cut
            assert found.value == ranked[found.promise.rank - 1] < product.cut.value
        if wishes[0] == "--good":
            assert len(after.products[0].held_out) == len(product.held_out) + 3
        for photo in photos[::2]:
            result = after.predict(photo)
            assert result.ok == (result.raw_score <= result.cut) == (not result.pred_mask.any())
    assert ("judged by its map" in answer.err) is (system != UNIAS)
    assert after.products[0].min_area == 4
    held = [after.predict(tiny_data / key, product=product.name).raw_score for key in product.held_out]
    assert held == pytest.approx(list(after.products[0].held_out_scores), rel=1e-5)
    untouched = tree(folder_of(system))
    assert cli("calibrate", folder_of(system), "--false-alarms", "0.5", "--dry-run", "--device", "cpu").code == 0
    assert tree(folder_of(system)) == untouched


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[Path], TestClient]]:
    """A server of a model folder."""
    open_: list[TestClient] = []

    def start(folder: Path) -> TestClient:
        client = TestClient(
            create_app(Service.open(folder, ServeSettings(), "cpu", name="m")), base_url="http://127.0.0.1"
        )
        open_.append(client.__enter__())
        return open_[-1]

    yield start
    for client in open_:
        client.__exit__(None, None, None)


def check_served(client: TestClient, model: Model, photos: list[Path], close: float = 1e-5) -> None:
    """Both ways to ask."""
    for photo in photos:
        wanted = model.predict(photo)
        answer = client.post(
            "/v1/inspect?mask=rle&map=png", content=photo.read_bytes(), headers={"Content-Type": "image/png"}
        )
        assert answer.status_code == 200, answer.text
        agree(answer.json(), wanted, close)
        assert sum(answer.json()["mask"]["counts"][1::2]) == wanted.pred_mask.sum()
        assert answer.json()["map"]["scale"] * 65535 == pytest.approx(float(wanted.model_map.max()), rel=close)
    body = {
        "inputs": [
            {
                "name": "image",
                "datatype": "BYTES",
                "shape": [1],
                "data": [base64.b64encode(photos[0].read_bytes()).decode()],
            }
        ]
    }
    answer = client.post("/v2/models/m/infer", json=body)
    assert answer.status_code == 200, answer.text
    outputs = {one["name"]: one for one in answer.json()["outputs"]}
    wanted = model.predict(photos[0])
    assert outputs["raw_score"]["data"] == [pytest.approx(wanted.raw_score, rel=close)]
    assert outputs["anomaly_map"]["data"] == pytest.approx(wanted.model_map.ravel().tolist(), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("system", EVERY)
def test_serve(system: str, folder_of: Any, photos: list[Path], ask: Any) -> None:
    client = ask(folder_of(system))
    model = unias.load(folder_of(system), device="cpu")
    assert [one["name"] for one in client.get("/v1/products").json()["products"]] == [
        one.name for one in model.products
    ]
    check_served(client, model, photos)


@pytest.mark.parametrize("system", EVERY)
def test_watch(system: str, folder_of: Any, photos: list[Path], cli: Any, tmp_path: Path) -> None:
    incoming, out = tmp_path / "in", tmp_path / "out"
    incoming.mkdir()
    names = {f"{number}.png": photo for number, photo in enumerate(photos)}
    for name, photo in names.items():
        shutil.copy(photo, incoming / name)
    quick = ("--once", "--settle", "0", "--poll", "0.01", "--device", "cpu", "-q")
    answer = cli("watch", folder_of(system), incoming, "-o", out, *quick)
    assert answer.code == 0, answer.err
    model = unias.load(folder_of(system), device="cpu")
    rows = {Path(path).name: row for path, row in rows_of(out).items()}
    assert set(rows) == set(names)
    for name, photo in names.items():
        agree(rows[name], model.predict(photo))
        assert (out / rows[name]["mask"]).is_file()


# --- exports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
@pytest.mark.parametrize("system", BESIDE)
def test_what_is_exported_is_the_system(system: str, pixels: str, folder_of: Any, photos: list[Path]) -> None:
    """To rounding: its graph has no loops over photos, nor operators that runtimes lack."""
    detector = unias.load(folder_of(system), device="cpu").detector
    assert isinstance(detector, SystemDetector)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    form = inference_form(detector)
    assert form.system.in_graph
    assert not detector.system.in_graph  # a copy
    graph = PixelGraph(form, pixels).eval()
    images = torch.from_numpy(np.stack([load_input(photo, 128)[0] for photo in photos]))
    given = torch.from_numpy(to_pixels(images, pixels))
    told = torch.arange(len(photos)) % 2
    with torch.inference_mode():
        for product in (None, told):
            for count in (1, len(photos)):
                wanted = detector(images[:count], None if product is None else product[:count])
                asked = torch.full((count,), -1) if product is None else product[:count]
                index, anomaly_map, score, novelty = graph(given[:count], asked)
                assert torch.equal(index, wanted.product)
                near(anomaly_map, wanted.anomaly_map)
                near(score, wanted.scores())
                assert wanted.novelty is None or torch.allclose(novelty, wanted.novelty, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def near(found: Any, wanted: Any) -> None:
    assert float(abs(found - wanted).max()) <= 1e-5 * float(abs(wanted).max())


@pytest.mark.parametrize("rows", [5, 4096, 5000])
def test_nearest_patch_by_parts_of_the_bank(rows: int) -> None:
    memory = PatchCore()
    generator = torch.Generator().manual_seed(rows)
    memory.bank = torch.randn(rows, 7, generator=generator)
    memory.bank[rows // 2] = memory.bank[0]  # the same twice: the first one counts
    vectors = torch.cat([torch.randn(300, 7, generator=generator), memory.bank[:1]])
    wanted = torch.cdist(vectors.double(), memory.bank.double()).argmin(dim=1)
    plain = memory.nearest(vectors)
    memory.in_graph = True
    distances, index = memory.nearest(vectors)
    assert torch.equal(index, wanted)
    assert torch.equal(plain[1], wanted)
    assert torch.equal(distances, plain[0])
    assert distances[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("system", BESIDE)
def test_export(
    system: str,
    engine: str,
    folder_of: Any,
    photos: list[Path],
    tiny_data: Path,
    cli: Any,
    tmp_path: Path,
    ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in ENGINES[engine]:
        pytest.importorskip(package)
    trained, home = unias.load(folder_of(system), device="cpu"), tmp_path / "export"
    answer = cli("export", folder_of(system), "--to", engine, "--data", tiny_data, "-o", home, "--json", "-q")
    assert answer.code == 0, answer.err
    check = json.loads(answer.out)["difference"]
    assert max(check["largest"], check["score"]) <= FLOAT_LIMIT
    assert check["products"] == 0
    monkeypatch.setitem(sys.modules, "anomalib", None)  # a graph needs nothing of it
    exported = unias.load(home)
    assert exported.exported is not None
    assert exported.exported.own_score
    assert exported.exported.levels == ()
    for photo in photos:
        ours, theirs = trained.predict(photo), exported.predict(photo)
        agree(theirs.to_dict(), ours, FLOAT_LIMIT)
        assert np.abs(ours.model_map - theirs.model_map).max() <= FLOAT_LIMIT * ours.model_map.max()
    assert f"for {engine}" in (home / "card.md").read_text(encoding="utf-8")
    check_served(ask(home), exported, photos[:2])
    answer = cli("calibrate", home, "--min-area", "4", "--data", tiny_data)
    assert answer.code == 0, answer.err
    assert "judged by its map" in answer.err
    with pytest.raises(UsageError, match="is an export already"):
        export_model(home, engine, tmp_path / "again")


def test_int8_is_for_unias(folder_of: Any, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(UsageError, match=r"--int8: is for UniAS's own models, and .* is of patchcore\. Leave it out"):
        export_model(folder_of("patchcore"), "openvino", tmp_path / "out", int8=True, data=tiny_data)
    assert not (tmp_path / "out").exists()


def test_a_system_that_no_graph_can_hold(folder_of: Any, cli: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """One of somebody's own, whose map depends on Python: one error, with what can be done; nothing is kept."""
    kind = find("uniad")
    plain = kind.find

    def looping(self: Any, seen: Any) -> Any:
        return plain(self, seen) if max(seen.product.tolist()) < 9 else None

    monkeypatch.setattr(kind, "find", looping)
    answer = cli("export", folder_of("uniad"), "--to", "torch", "-o", tmp_path / "out", "-q")
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith("error: uniad cannot be written as one graph for torch (")
    for piece in ("Use the trained model itself", "graph_form", "docs/systems.md"):
        assert piece in line
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_differs_is_no_pass() -> None:
    good = Difference(24, "photos", 1e-6, 1e-7, 1e-6, 0, (50.0, 50.0))
    require_equal(good, "model")
    for score in (2e-4, float("nan")):
        with pytest.raises(ExportError, match="scores differ"):
            require_equal(Difference(24, "photos", 1e-6, 1e-7, score, 0, (50.0, 50.0)), "model")
