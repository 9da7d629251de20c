"""An exported model in the place of the trained one: same Results from Python and from the command line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unias
from unias.errors import DataError, MissingError, UsageError
from unias.export import export_model
from unias.export.verify import FLOAT_LIMIT, Difference

pytestmark = pytest.mark.usefixtures("one_thread")
Export = Callable[[str], Path]
EVERY = ["onnx", *(pytest.param(engine, marks=pytest.mark.slow) for engine in ("openvino", "torch"))]


@pytest.fixture(scope="module")
def photos(tiny_data: Path) -> list[Path]:
    return sorted(tiny_data.glob("*/test/*/*.png"))[:8]


@pytest.mark.parametrize("engine", EVERY)
def test_predicts_as_the_trained_model(engine: str, export_of: Export, small_model: Path, photos: list[Path]) -> None:
    trained, exported = unias.load(small_model, "cpu"), unias.load(export_of(engine))
    assert exported.products == trained.products
    assert exported.config == trained.config
    assert exported.record == trained.record
    assert exported.exported is not None
    assert trained.exported is None
    for count in (1, 3, 8):  # photos in a batch
        pairs = zip(
            trained.predict(photos[:count], levels=True, image=True, batch_size=count),
            exported.predict(photos[:count], levels=True, image=True, batch_size=count),
            strict=True,
        )
        for ours, theirs in pairs:
            assert (theirs.path, theirs.product, theirs.cut, theirs.size) == (
                ours.path,
                ours.product,
                ours.cut,
                ours.size,
            )
            near(theirs.model_map, ours.model_map)
            assert theirs.model_map.dtype == np.float32
            assert theirs.raw_score == pytest.approx(ours.raw_score, rel=FLOAT_LIMIT)
            assert theirs.pred_score == pytest.approx(ours.pred_score, rel=FLOAT_LIMIT)
            assert theirs.ok == (not theirs.model_mask.any())
            assert set(theirs.level_maps) == set(ours.level_maps) == {4, 2}
            for level, values in ours.level_maps.items():
                near(theirs.level_maps[level], values)
            np.testing.assert_array_equal(theirs.image, ours.image)


@pytest.mark.parametrize("engine", EVERY)
def test_product_may_be_said(engine: str, export_of: Export, small_model: Path, photos: list[Path]) -> None:
    trained, exported = unias.load(small_model, "cpu"), unias.load(export_of(engine))
    for info in trained.products:
        ours, theirs = (model.predict(photos[0], product=info.name) for model in (trained, exported))
        assert theirs.product == info.name
        near(theirs.model_map, ours.model_map)


def near(found: Any, wanted: Any) -> None:
    assert np.abs(found - wanted).max() <= FLOAT_LIMIT * np.abs(wanted).max()


def test_command_line_takes_it(export_of: Export, small_model: Path, tiny_data: Path, cli: Any, tmp_path: Path) -> None:
    for name, model in (("trained", small_model), ("exported", export_of("onnx"))):
        answer = cli("predict", model, tiny_data / "plaque gravée" / "test", "-o", tmp_path / name, "--levels", "-q")
        assert answer.code == 0, answer.err
    rows = [
        list(csv.DictReader((tmp_path / name / "results.csv").read_text("utf-8").splitlines()))
        for name in ("trained", "exported")
    ]
    assert len(rows[0]) == len(rows[1]) == 6
    for ours, theirs in zip(*rows, strict=True):
        for column in ("path", "product", "ok", "heatmap", "mask", "levels"):
            assert theirs[column] == ours[column]
        assert float(theirs["raw_score"]) == pytest.approx(float(ours["raw_score"]), rel=FLOAT_LIMIT)
        assert (tmp_path / "exported" / theirs["levels"]).is_file()


@pytest.mark.parametrize("engine", EVERY)
def test_folder_says_what_it_is(engine: str, export_of: Export, tiny_data: Path) -> None:
    folder = export_of(engine)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert (info["engine"], info["pixels"], info["levels"], info["int8"]) == (engine, "uint8", [4, 2], {})
    check = info["check"]
    assert check["photos"] == 24
    assert 0 <= check["largest"] <= check["limit"] == FLOAT_LIMIT
    assert check["products"] == 0
    assert tiny_data.name in check["source"]
    assert check["versions"]["torch"]
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert f"for {engine}" in text
    assert "maps differ from the trained model's by at most" in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("engine", EVERY)
def test_no_path_of_this_machine_inside(engine: str, export_of: Export) -> None:
    here = str(Path(unias.__file__).resolve().parent).encode()
    for file in export_of(engine).iterdir():
        assert here not in file.read_bytes(), file.name


@pytest.mark.parametrize("engine", EVERY)
def test_changed_graph_is_refused(engine: str, export_of: Export, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export_of(engine), tmp_path / "copy"))
    graph = next(path for path in folder.iterdir() if path.name in ("graph.onnx", "graph.bin", "graph.pt2"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(DataError, match=r"graph.* was changed since it was written"):
        unias.load(folder)
    graph.unlink()
    with pytest.raises(DataError, match=r"graph.* is missing"):
        unias.load(folder)


@pytest.mark.slow
def test_graph_must_be_in_the_manifest(export_of: Export, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export_of("torch"), tmp_path / "copy"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["graph.pt2"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match=r"graph\.pt2: is missing"):
        unias.load(folder)


def test_missing_runtime_names_the_extra(
    export_of: Export, cli: Any, tiny_data: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    folder = export_of("onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r'onnxruntime, which is not installed here\. pip install "unias\[export\]"'):
        unias.load(folder)
    answer = cli("predict", folder, tiny_data, "-o", tmp_path / "out")
    assert answer.code == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_exports_run_on_the_processor(export_of: Export) -> None:
    folder = export_of("torch")
    assert str(unias.load(folder, "cpu").detector.device) == "cpu"
    with pytest.raises(UsageError, match="--device"):
        unias.load(folder, "abacus")


@pytest.mark.slow
def test_an_export_keeps_its_numbers(export_of: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unias.runtime.cpu_has_bfloat16", lambda: True)
    folder = export_of("torch")
    unias.load(folder, precision="auto")
    with pytest.raises(UsageError, match="--precision"):
        unias.load(folder, precision="bfloat16")


@pytest.mark.slow
def test_an_export_is_neither_saved_nor_exported_again(export_of: Export, tmp_path: Path) -> None:
    model = unias.load(export_of("torch"))
    with pytest.raises(UsageError, match="Copy the folder"):
        model.save(tmp_path / "again")
    with pytest.raises(UsageError, match="is an export already"):
        export_model(export_of("torch"), "torch", tmp_path / "again")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_is_reported(export_of: Export) -> None:
    """OpenVINO and NNCF send a message to their makers when they are imported, if openvino-telemetry can be."""
    folder = export_of("openvino")
    code = f"""
import sys, unias
from unias.inference.engines import import_runtime
unias.load({str(folder)!r})
import_runtime("nncf", "this test")
assert "openvino" in sys.modules and sys.modules["openvino_telemetry"] is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- photos of more than 8 bits ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep_data(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The same photos with 16 bits, whose low bits are not nought."""
    home = tmp_path_factory.mktemp("deep") / "tief"
    for path in sorted(tiny_data.glob("*/train/good/*.png")):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
        low = np.random.default_rng(len(grey)).integers(0, 200, grey.shape, dtype=np.uint16)
        target = home / path.relative_to(tiny_data)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.maximum(grey, 200) - low).save(target)
    return home


@pytest.mark.slow
def test_deep_photos(small_model: Path, deep_data: Path, photos: list[Path], export_of: Export, tmp_path: Path) -> None:
    """An 8-bit graph refuses them by name; the graph made for them takes both kinds, exactly."""
    deep = sorted(deep_data.glob("*/train/good/*.png"))[0]
    eight = unias.load(export_of("torch"))
    with pytest.raises(DataError, match=r"has 16 bits a channel, and this export takes 8.*--pixels float32"):
        eight.predict(deep)
    left_out: list[str] = []
    results = list(eight.predict([deep, photos[0]], on_error=lambda photo, error: left_out.append(str(photo))))
    assert (left_out, [result.path for result in results]) == ([str(deep)], [photos[0]])
    with pytest.raises(UsageError, match="--pixels uint8"):
        export_model(small_model, "torch", tmp_path / "refused", data=deep_data, pixels="uint8")
    made = export_model(small_model, "torch", tmp_path / "deep", data=deep_data)
    assert made.info.pixels == "float32"
    trained, exported = unias.load(small_model, "cpu"), unias.load(tmp_path / "deep")
    for photo in (deep, photos[0]):
        near(exported.predict(photo).model_map, trained.predict(photo).model_map)
    assert np.abs(trained.predict(deep).model_map - trained.predict(shallow(deep)).model_map).max() > 0


def shallow(path: Path) -> np.ndarray:
    return (np.asarray(Image.open(path)) // 257).astype(np.uint8)


# --- refusals -----------------------------------------------------------------------------------------------


def test_an_export_that_differs_is_not_kept(
    small_model: Path, tiny_data: Path, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if an exporter had got one operator wrong: the difference is named, nothing stays."""
    from unias.maps.detector import Detector

    fuse = Detector.fuse
    monkeypatch.setattr("unias.export.run._write", lambda detector, *rest: wrong(detector, fuse, *rest))
    answer = cli("export", small_model, "--to", "torch", "--data", tiny_data, "-o", tmp_path / "out")
    assert answer.code == 1
    assert "maps differ from the trained model's by 0.0009" in answer.err or "by 0.001" in answer.err
    assert "0.0001 is allowed. The export was not kept" in answer.err
    assert not any(tmp_path.iterdir())


def wrong(detector: Any, fuse: Any, to: str, pixels: str, home: Path) -> None:
    from unias.export import run

    class Wrong(type(detector)):  # type: ignore[misc]
        def fuse(self, levels: Any, product: Any) -> Any:
            return fuse(self, levels, product) * 1.001

    changed = Wrong.__new__(Wrong)
    changed.__dict__ = dict(detector.__dict__)
    run.write_torch(changed, pixels, home)


def test_products_taken_for_others_are_refused(tmp_path: Path) -> None:
    from unias.errors import ExportError
    from unias.export.verify import require_equal

    good = Difference(24, "photos", 1e-6, 1e-7, 1e-6, 0, (50.0, 50.0))
    require_equal(good, "model")
    with pytest.raises(ExportError, match="takes 2 of 24 photos for another product"):
        require_equal(Difference(24, "photos", 1e-6, 1e-7, 1e-6, 2, (50.0, 50.0)), "model")
    with pytest.raises(ExportError, match="differ"):
        require_equal(Difference(24, "photos", float("nan"), 1e-7, 1e-6, 0, (50.0, 50.0)), "model")
