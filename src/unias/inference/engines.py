"""Exported models at work: a graph that ``unias export`` wrote, run by its own runtime, in the place of the trained detector.

A graph takes ``pixels`` (N, S, S, 3), uint8, or float32 in [0, 1], and ``product`` (N,) int64, -1 = not known. It gives
``product_index`` (N,), ``anomaly_map`` (N, S, S), ``raw_score`` (N,), ``novelty`` (N,) and ``level_k`` (N, S/2, S/2) for each of
its levels. ``raw_score`` is the map's maximum; of systems beside UniAS it is their own score, and they have no levels.
Runtimes are imported when a model of their kind is opened, and run on the processor with torch's number of threads.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unias.errors import DataError, MissingError
from unias.inference.pt2 import read_program
from unias.maps.detector import Maps

ENGINES = ("onnx", "openvino", "torch")
GRAPH_FILES = {"onnx": ("graph.onnx",), "openvino": ("graph.xml", "graph.bin"), "torch": ("graph.pt2",)}
PIXELS = ("uint8", "float32")
INFO_FILE = "export.json"

Outputs = Mapping[str, NDArray[Any]]
Session = Callable[[NDArray[Any], NDArray[np.int64]], Outputs]


@dataclass(frozen=True)
class ExportInfo:
    """What ``export.json`` says.

    Attributes:
        engine: onnx, openvino or torch.
        pixels: what the graph takes: uint8, or float32 where photos have more than 8 bits.
        levels: the level maps it gives, coarse to fine.
        int8: which layers compute in 8 bits, which stayed in float and why; empty for a float export.
        check: how it was compared with the trained model, and what came of it.
        own_score: whether ``raw_score`` is the system's own score and not the map's maximum.
    """

    engine: str
    pixels: str
    levels: tuple[int, ...]
    int8: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)
    own_score: bool = False


def read_info(home: Path) -> ExportInfo:
    """Raises DataError for an engine or a kind of pixels that this version does not know."""
    content = json.loads((home / INFO_FILE).read_text(encoding="utf-8"))
    info = ExportInfo(
        content["engine"],
        content["pixels"],
        tuple(content["levels"]),
        content["int8"],
        content["check"],
        content.get("own_score", False),
    )
    if info.engine not in ENGINES or info.pixels not in PIXELS:
        raise DataError(
            f"{home / INFO_FILE}: an export of the kind {info.engine!r} with pixels {info.pixels!r}, which this unias does "
            "not know. Use the release that wrote it, or export the model again."
        )
    return info


def output_names(levels: Sequence[int]) -> tuple[str, ...]:
    """In the order of the graph."""
    return ("product_index", "anomaly_map", "raw_score", "novelty", *(f"level_{level}" for level in levels))


class ExportedDetector:
    """(N, 3, S, S) in [0, 1] -> Maps, as the trained ``Detector`` gives them."""

    device = torch.device("cpu")

    def __init__(self, session: Session, info: ExportInfo) -> None:
        self.session = session
        self.info = info

    def eval(self) -> ExportedDetector:
        """A graph has no training mode."""
        return self

    def __call__(self, images: Tensor, product: Tensor | None = None) -> Maps:
        """``product`` (N,) says which product each photo is; None = it is recognised."""
        asked = np.full(len(images), -1, dtype=np.int64) if product is None else product.cpu().numpy()
        given = self.session(to_pixels(images, self.info.pixels), asked)
        levels = {level: torch.from_numpy(given[f"level_{level}"]) for level in self.info.levels}
        novelty = torch.from_numpy(given["novelty"]) if product is None else None
        anomaly_map = torch.from_numpy(given["anomaly_map"])
        score = torch.from_numpy(given["raw_score"]) if self.info.own_score else None
        return Maps(torch.from_numpy(given["product_index"]), anomaly_map, levels, score, novelty)


def to_pixels(images: Tensor, kind: str) -> NDArray[Any]:
    """(N, 3, S, S) in [0, 1] -> (N, S, S, 3); exact for uint8 where a photo has 8 bits, since its values are k / 255."""
    last = images.cpu().permute(0, 2, 3, 1)
    if kind == "uint8":
        last = (last * 255).round().to(torch.uint8)
    pixels: NDArray[Any] = last.contiguous().numpy()
    return pixels


def open_session(home: Path, info: ExportInfo) -> Session:
    """The graph in the folder, ready to run. Raises MissingError where its runtime is not installed."""
    names = output_names(info.levels)
    return {"onnx": _onnx, "openvino": _openvino, "torch": _torch}[info.engine](home, names)


def import_runtime(name: str, need: str) -> Any:
    """A package of ``unias[export]``. Raises MissingError naming the extra.

    OpenVINO and NNCF report their use to Intel's analytics where openvino-telemetry is installed. Factory PCs are nobody's
    business: it is kept from being imported, for which both have a silent stand-in.
    """
    if name.split(".")[0] in ("openvino", "nncf"):
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None = "cannot be imported"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(
            f'{need} needs the package {name}, which is not installed here. pip install "unias[export]" brings it.'
        ) from error


def openvino_core(need: str) -> Any:
    """OpenVINO's core, one for all users, that lives as long as the process: ``runtime.signal_stack_kept`` tells why."""
    import_runtime("openvino", need)
    return _core()


@functools.cache
def _core() -> Any:
    core = import_runtime("openvino", "OpenVINO").Core()
    core.get_versions("CPU")  # loads the plugin now, so that its signal stack is there before anybody else's
    return core


def _onnx(home: Path, names: Sequence[str]) -> Session:
    runtime = import_runtime("onnxruntime", f"{home}: a model exported to ONNX")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(str(home / "graph.onnx"), options, providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[Any], product: NDArray[np.int64]) -> Outputs:
        return dict(zip(names, session.run(list(names), {"pixels": pixels, "product": product}), strict=True))

    return run


def _openvino(home: Path, names: Sequence[str]) -> Session:
    core = openvino_core(f"{home}: a model exported to OpenVINO")
    return compile_openvino(core.read_model(home / "graph.xml"), names)


def compile_openvino(model: Any, names: Sequence[str]) -> Session:
    """An OpenVINO model in memory, compiled for the processor.

    What is not int8 runs in float32: left to itself OpenVINO takes bfloat16 where the processor has it, which moves maps by
    some per cent and so makes a model's answers depend on the machine.
    """
    core = openvino_core("an OpenVINO model")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings)

    def run(pixels: NDArray[Any], product: NDArray[np.int64]) -> Outputs:
        given = compiled({"pixels": pixels, "product": product})
        return {name: given[name] for name in names}

    return run


def _torch(home: Path, names: Sequence[str]) -> Session:
    graph = read_program(home / "graph.pt2").module()

    def run(pixels: NDArray[Any], product: NDArray[np.int64]) -> Outputs:
        with torch.inference_mode():
            given = graph(torch.from_numpy(pixels), torch.from_numpy(product))
        return {name: value.numpy() for name, value in zip(names, given, strict=True)}

    return run
