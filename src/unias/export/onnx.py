"""ONNX: the graph for ONNX Runtime, and the way to OpenVINO."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from unias.export.graph import INPUTS, capture, levels_of, quiet
from unias.inference.engines import import_runtime, output_names
from unias.maps.detector import Detector
from unias.systems.detector import SystemDetector

OPSET = 20  # the first with GELU; ONNX Runtime reads it from 1.17 on


def write_onnx(detector: Detector | SystemDetector, pixels: str, home: Path) -> Path:
    """graph.onnx in the folder, checked by ONNX's own checker. Gives its path back.

    Raises MissingError where onnx or onnxscript is not installed.
    """
    import torch

    onnx = import_runtime("onnx", "exporting to ONNX or OpenVINO")
    import_runtime("onnxscript", "exporting to ONNX or OpenVINO")
    path = home / "graph.onnx"
    with quiet():
        exported = torch.onnx.export(
            capture(detector, pixels),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(output_names(levels_of(detector))),
        )
        model = exported.model_proto  # type: ignore[union-attr]
    tidy(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def tidy(model: Any) -> None:
    """Name each node after the module that it comes from, such as ``unias.heads.heads.1.conv/conv2d_99``, which is what
    layers are told apart by when they are quantised; drop what the exporter notes besides (paths on this machine)."""
    for node in model.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        modules = [name for name in ast.literal_eval(scopes[0]) if name.startswith("detector.")] if scopes else []
        module = modules[-1].removeprefix("detector.") if modules else "graph"
        node.name = f"{module}/{node.name.removeprefix('node_')}"
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.name = "unias"
    model.graph.doc_string = ""
