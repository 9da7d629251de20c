"""8 bits: which layers, on which photos, and what is promised afterwards."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unias
from unias.config import Config
from unias.data.decode import load_input, read_photo
from unias.errors import DataError, ExportError
from unias.export import export_model, int8
from unias.export import layers as parts
from unias.export.verify import Difference
from unias.maps.detector import Detector
from unias.maps.levels import to_input_size

pytestmark = pytest.mark.usefixtures("one_thread")
SHARED = Path(os.environ.get("UNIAS_SHARED", Path(__file__).resolve().parents[3] / "shared"))


@pytest.mark.parametrize(
    ("operation", "layer"),
    [
        ("unias.heads.heads.1.conv/conv2d_99/WithoutBiases", "unias.heads.heads.1"),
        ("unias.heads.heads.1.fused/conv2d_7", "unias.heads.heads.1"),
        (
            "unias.decoder.layers.4.hybrid.spatial.feed_forward.linear1/MatMul_8",
            "unias.decoder.layers.4.hybrid.spatial.feed_forward",
        ),
        ("unias.decoder.layers.2.cnn.branches.3.2/conv2d_88", "unias.decoder.layers.2.cnn.branches.3.2"),
        ("unias.tokens.patch.1/conv2d_66", "unias.tokens.patch.1"),
        ("backbone.network.blocks.1.0.bn2/Conv_3548", "backbone.network.blocks.1.0"),
        ("backbone.network.bn1/Conv_1", "backbone.network"),
        ("graph/matmul", "graph"),
    ],
)
def test_layer_of_an_operation(operation: str, layer: str) -> None:
    assert parts.layer_of(operation) == layer


def difference(**changes: Any) -> Difference:
    return dataclasses.replace(Difference(48, "photos", 0.05, 0.02, 0.01, 0, (50.0, 49.8)), **changes)


def test_limits_of_what_is_kept() -> None:
    int8.require_close(difference())
    for changes, said in (
        ({"mean": 0.5}, "maps differ by 0.500 of their mean"),
        ({"mean": float("nan")}, "maps differ by nan"),
        ({"precision": (50.0, 49.0)}, "falls from 50.00 to 49.00"),
        ({"products": 1}, "1 of 48 photos are taken for another product"),
    ):
        with pytest.raises(ExportError, match=said):
            int8.require_close(difference(**changes))


def test_card_lists_what_stays_in_float() -> None:
    layer = {"name": "backbone.network.blocks.1.0", "milliseconds": 1.0, "error": 0.25, "precision_lost": 1.5}
    report = {
        "calibration_photos": 120,
        "measured_photos": 40,
        "int8": [layer],
        "float": [layer | {"name": "unias.tokens.patch.1"}],
    }
    text = "\n".join(int8.describe(report))
    assert "1 layers compute in 8 bits, calibrated on 120 good training photos" in text
    assert "| unias.tokens.patch.1 | 1.00 | 25.00% | +1.50 |" in text
    assert "blocks.1.0" not in text


def test_another_folder_is_refused(small_model: Path, make_data: Any, tmp_path: Path) -> None:
    """8 bits are calibrated on the photos that the model learned from, and on no others."""
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package)
    other = make_data(tmp_path / "other", products=("nut",), train=2, good=1, defects=())
    with pytest.raises(DataError, match="holds none of the 4 good photos"):
        export_model(small_model, "openvino", tmp_path / "out", int8=True, data=other)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def graph(small_model: Path) -> Any:
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package)
    from unias.export.openvino import to_openvino

    detector = unias.load(small_model, "cpu").detector
    assert isinstance(detector, Detector)
    return to_openvino(detector, "uint8")


@pytest.mark.slow
def test_layers_of_a_graph(graph: Any) -> None:
    layers = parts.weighted_layers(graph)
    names = [name for operations in layers.values() for name in operations]
    assert len(names) == len(set(names))
    for layer in (
        "backbone.network.blocks.1.0",
        "unias.heads.heads.4",
        "unias.tokens.patch.2",
        "unias.pixel_decoder.lateral.3",
    ):
        assert layer in layers
    assert not any(name.startswith(parts.ALWAYS_FLOAT) for name in names)
    assert not any("level_maps" in name or "statistics" in name for name in names)
    times = parts.float_times(graph, np.zeros((2, 128, 128, 3), dtype=np.uint8), repeats=1)
    assert sum(layer in times for layer in layers) > 0.8 * len(layers)
    assert all(value >= 0 for value in times.values())


@pytest.mark.slow
def test_signals_find_their_stack(small_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Cores that die out of order leave a signal stack that is not mapped: the next child's end would kill the process."""
    code = f"""
import gc, subprocess, numpy as np, unias
from unias.export import layers
from unias.export.openvino import to_openvino
from unias.inference.engines import openvino_core
from unias.runtime import signal_stack, signal_stack_kept

graph = to_openvino(unias.load({str(small_model)!r}, "cpu").detector, "uint8")
pixels = np.zeros((1, 128, 128, 3), dtype=np.uint8)
with_int8 = layers.quantise(graph, [{{"pixels": pixels, "product": np.array([-1])}}], ["unias.heads.heads.2"])
import openvino
with signal_stack_kept():
    first, second = openvino.Core(), openvino.Core()
    one, other = first.compile_model(graph, "CPU"), second.compile_model(graph, "CPU")
    del first, one
    gc.collect()
    del second, other
gc.collect()
stack = signal_stack()
if stack is not None and stack.address is not None:
    ranges = [line.split()[0].split("-") for line in open("/proc/self/maps")]
    assert any(int(low, 16) <= stack.address < int(high, 16) for low, high in ranges)
assert openvino_core("this test") is openvino_core("this test")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_one_layer_alone(graph: Any, small_model: Path, tiny_data: Path) -> None:
    """Bypassed quantisers change nothing; one layer's change something; all of them more."""
    from unias.export.graph import quiet
    from unias.export.photos import spread, training_photos, with_defects
    from unias.export.verify import maps_of
    from unias.inference.engines import ExportedDetector, ExportInfo, compile_openvino, output_names, to_pixels

    model = unias.load(small_model, "cpu")
    photos = with_defects(spread(training_photos(tiny_data, model.products), 2), model.products, model.config, "photos")
    items = [
        {"pixels": row[None], "product": np.array([-1])} for row in to_pixels(torch.from_numpy(photos.images), "uint8")
    ]
    layers = list(parts.weighted_layers(graph))
    with quiet():
        fake = parts.with_fake_quantisers(graph, items, layers)

    def maps(changed: Any) -> np.ndarray:
        info = ExportInfo("openvino", "uint8", (4, 2))
        detector = ExportedDetector(compile_openvino(changed, output_names((4, 2))), info)
        return maps_of(detector, photos, known=True)[0]

    whole = maps(graph)
    assert np.abs(maps(parts.only(fake, [])) - whole).max() <= 1e-4 * whole.max()
    alone = np.abs(maps(parts.only(fake, ["unias.heads.heads.2"])) - whole).mean()
    every = np.abs(maps(parts.only(fake, layers)) - whole).mean()
    assert 0 < alone < every
    kinds = [node.get_type_name() for node in parts.only(fake, ["unias.heads.heads.2"]).get_ordered_ops()]
    assert 1 <= kinds.count("FakeQuantize") <= 2


@pytest.mark.slow
@pytest.mark.timeout(2400)  # ten minutes on a slow machine
def test_whole_way_on_real_photos(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real products, a few dozen photos each: quantised, compared, used. Layers are measured on few photos, to be quick."""
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package)
    if not (SHARED / "data" / "line5").is_dir():
        pytest.skip("needs shared/data/line5")
    data = tmp_path / "line2"
    for product in ("bottle", "magnetic_tile"):
        for part in ("train/good", "test/good"):
            for photo in sorted((SHARED / "data" / "line5" / product / part).iterdir())[: 40 if "train" in part else 4]:
                target = data / product / part / photo.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(photo, target)
    monkeypatch.setattr(int8, "CALIBRATION", 24)
    monkeypatch.setattr(int8, "MEASURED", 4)
    train = dataclasses.replace(tiny_config.train, steps=60, warmup_steps=10, ema=0.0, batch_size=8)
    config = dataclasses.replace(tiny_config, train=train)
    trained = unias.train(data, tmp_path / "model", config=config, threads=1)
    made = export_model(tmp_path / "model", "openvino", int8=True, data=data)
    exported = unias.load(made.folder)
    assert made.folder.name == "model-openvino-int8"
    assert exported.exported is not None
    report = exported.exported.int8
    named = [layer["name"] for kind in ("int8", "float") for layer in report[kind]]
    assert len(named) == len(set(named)) > 40
    assert len(report["int8"]) > 10
    assert made.difference.mean <= int8.MEAN_LIMIT
    assert made.difference.precision_lost <= int8.PRECISION_LIMIT
    kinds = (made.folder / "graph.xml").read_text(encoding="utf-8")
    assert 'element_type="i8"' in kinds
    float_bytes = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert (made.folder / "graph.bin").stat().st_size < float_bytes
    for ours, theirs in zip(trained.products, exported.products, strict=True):
        assert (theirs.name, theirs.train, theirs.held_out) == (ours.name, ours.train, ours.held_out)
        assert theirs.cut.value == max(theirs.held_out_scores)
        assert theirs.cut.false_alarm_rate == ours.cut.false_alarm_rate
        for key, score in zip(theirs.held_out, theirs.held_out_scores, strict=True):
            assert exported.predict(data / key, product=theirs.name).raw_score == pytest.approx(score, rel=1e-4)
    fuses_as_trained(exported.detector, trained.detector, data)
    results = list(exported.predict(data / "bottle" / "test"))
    assert {result.product for result in results} == {"bottle"}
    text = (made.folder / "card.md").read_text(encoding="utf-8")
    for layer in report["float"]:
        assert layer["name"] in text


@torch.inference_mode()
def fuses_as_trained(exported: Any, trained: Any, data: Path) -> None:
    """The graph's own level maps, fused by the trained model's statistics, are its map: 8 bits measure none anew."""
    photos = [read_photo(path) for path in sorted((data / "bottle" / "test" / "good").iterdir())]
    images = torch.from_numpy(np.stack([load_input(photo.pixels, trained.size)[0] for photo in photos]))
    product = torch.zeros(len(images), dtype=torch.int64)
    maps = exported(images, product)
    fused = to_input_size(trained.fuse(maps.levels, product), trained.size)
    assert torch.allclose(maps.anomaly_map, fused, rtol=0, atol=1e-4 * float(fused.max()))
