"""OpenVINO: the fastest on processors, in float or 8 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from unias.export.onnx import write_onnx
from unias.inference.engines import import_runtime, openvino_core
from unias.maps.detector import Detector
from unias.systems.detector import SystemDetector


def to_openvino(detector: Detector | SystemDetector, pixels: str) -> Any:
    """The float model in memory, constants folded (so that weights are seen as such).

    Raises MissingError where openvino, onnx or onnxscript is not installed.
    """
    core = openvino_core("exporting to OpenVINO")
    passes = import_runtime("openvino.passes", "exporting to OpenVINO")
    with tempfile.TemporaryDirectory(prefix="unias-") as folder:
        path = write_onnx(detector, pixels, Path(folder))
        model = core.read_model(path.read_bytes())
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def write_openvino(model: Any, home: Path) -> None:
    """graph.xml and graph.bin in the folder, weights as they are (OpenVINO would store halves)."""
    runtime = import_runtime("openvino", "exporting to OpenVINO")
    runtime.save_model(model, home / "graph.xml", compress_to_fp16=False)
