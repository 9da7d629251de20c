"""The graph that exporters are given is the trained detector itself, from pixels on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import unias
from unias.data.decode import load_input, read_photo, to_display
from unias.export.graph import PixelGraph, capture, inference_form
from unias.inference.engines import to_pixels
from unias.maps.detector import Detector

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def detector(small_model: Path) -> Detector:
    found = unias.load(small_model, "cpu").detector
    assert isinstance(found, Detector)
    return found


@pytest.fixture(scope="module")
def images(tiny_data: Path) -> torch.Tensor:
    paths = sorted(tiny_data.glob("*/test/*/*.png"))[:4]
    return torch.from_numpy(np.stack([load_input(path, 128)[0] for path in paths]))


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_equals_the_detector_bit_for_bit(pixels: str, detector: Detector, images: torch.Tensor) -> None:
    graph = PixelGraph(detector, pixels)
    given = torch.from_numpy(to_pixels(images, pixels))
    assert given.dtype == getattr(torch, pixels)
    assert given.shape == (4, 128, 128, 3)
    with torch.inference_mode():
        for product in (None, torch.tensor([1, 0, 1, 0])):
            maps = detector(images, product)
            asked = torch.full((4,), -1) if product is None else product
            index, anomaly_map, score, novelty, *levels = graph(given, asked)
            assert torch.equal(index, maps.product)
            assert torch.equal(anomaly_map, maps.anomaly_map)
            assert torch.equal(score, maps.anomaly_map.amax(dim=(1, 2)))
            assert maps.novelty is None or torch.equal(novelty, maps.novelty)
            assert all(torch.equal(a, b) for a, b in zip(levels, maps.levels.values(), strict=True))
        mixed = graph(given, torch.tensor([-1, 0, 1, -1]))[0].tolist()
    nearest = detector.statistics.nearest
    assert mixed[1:3] == [0, 1]
    assert callable(nearest)


def test_eight_bit_pixels_are_exact(tiny_data: Path) -> None:
    """What predict feeds a graph is what the photo was, to the last grey level."""
    path = next(tiny_data.glob("*/train/good/*.png"))
    pixels, photo = load_input(path, 128)
    shown = to_display(photo, 128)
    assert np.array_equal(to_pixels(torch.from_numpy(pixels)[None], "uint8")[0], shown)
    every = np.arange(256, dtype=np.uint8).repeat(64 * 3).reshape(256, 64, 3)
    values = torch.from_numpy(read_photo(every).pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]
    assert np.array_equal(to_pixels(values, "uint8")[0], every)


def test_inference_form_is_a_copy(detector: Detector, images: torch.Tensor) -> None:
    form = inference_form(detector)
    assert form is not detector
    assert not form.training
    with torch.inference_mode():
        ours, theirs = detector(images).anomaly_map, form(images).anomaly_map
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(ours.max())
    with torch.no_grad():
        next(form.unias.parameters()).add_(1)
    with torch.inference_mode():
        assert torch.equal(detector(images).anomaly_map, ours)


def test_captured_for_any_number(detector: Detector, images: torch.Tensor) -> None:
    graph = capture(detector, "uint8").module()
    pixels = torch.from_numpy(to_pixels(images, "uint8"))
    whole = graph(pixels, torch.full((4,), -1))[1]
    for count in (1, 3):
        part = graph(pixels[:count], torch.full((count,), -1))[1]
        assert float((part - whole[:count]).abs().max()) <= 1e-5 * float(whole.max())


def test_onnx_is_tidy(export_of: Callable[[str], Path]) -> None:
    """Opset, names that tell layers apart, a free number of photos, nothing of this machine."""
    folder = export_of("onnx")
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "graph.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    count = shapes["product"][0]
    assert isinstance(count, str)
    assert shapes == {
        "pixels": [count, 128, 128, 3],
        "product": [count],
        "product_index": [count],
        "anomaly_map": [count, 128, 128],
        "raw_score": [count],
        "novelty": [count],
        "level_4": [count, 64, 64],
        "level_2": [count, 64, 64],
    }
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert any(name.startswith("unias.decoder.layers.4.hybrid.spatial.cross") for name in names)
    assert any(name.startswith("backbone.network.blocks.1.0") for name in names)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not model.metadata_props
