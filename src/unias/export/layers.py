"""Layers of an OpenVINO graph that can compute in 8 bits, and what each of them costs and risks.

A layer is a module of the model by its path, such as ``unias.decoder.layers.4.hybrid.spatial.feed_forward``, with all the
convolutions and matrix products in it that have weights. Everything else (norms, attention's own products, interpolation,
the maps and their statistics) stays in float: it takes little time, and maps are small differences of large numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unias.inference.engines import import_runtime, openvino_core
from unias.runtime import signal_stack_kept

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
PASSED = (
    "Reshape",
    "Transpose",
    "Pad",
    "Squeeze",
    "Unsqueeze",
    "Concat",
    "Broadcast",
    "Gather",
    "Slice",
    "StridedSlice",
    "Convert",
)
ALWAYS_FLOAT = ("graph", "local", "wide", "level_maps", "statistics", "unias.filter", "unias.standardize")


@dataclass(frozen=True)
class Layer:
    """One layer, measured.

    Attributes:
        name: the module's path.
        milliseconds: of one photo's time in float.
        error: mean difference of maps over their mean, with this layer alone in 8 bits.
        precision_lost: points of pixel average precision on drawn defects that this costs.
    """

    name: str
    milliseconds: float
    error: float
    precision_lost: float


def layer_of(operation: str) -> str:
    """From an operation's name, module/operation, to its layer: the module that the innermost one belongs to."""
    module = operation.partition("/")[0]
    parent, _, last = module.rpartition(".")
    return module if last.isdigit() or not parent else parent


def weighted_layers(model: Any) -> dict[str, list[str]]:
    """{layer: names of its operations with weights}, in the order of the graph."""
    found: dict[str, list[str]] = {}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() not in WEIGHTED or "/" not in name or name.startswith(ALWAYS_FLOAT):
            continue
        if any(_is_constant(node.input_value(place)) for place in range(2)):
            found.setdefault(layer_of(name), []).append(name)
    return found


def _is_constant(value: Any) -> bool:
    node = value.get_node()
    while node.get_type_name() in ("Reshape", "Transpose", "Convert", "Multiply", "Subtract", "FakeQuantize"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def with_fake_quantisers(model: Any, calibration: Iterable[Mapping[str, NDArray[Any]]], layers: Collection[str]) -> Any:
    """The model with every one of the layers in 8 bits, each rounding an operation of its own (FakeQuantize)."""
    nncf = import_runtime("nncf", "--int8")
    return quantise(
        model,
        calibration,
        layers,
        nncf.AdvancedQuantizationParameters(disable_bias_correction=True, backend_params={"compress_weights": False}),
    )


def quantise(
    model: Any, calibration: Iterable[Mapping[str, NDArray[Any]]], layers: Collection[str], advanced: Any = None
) -> Any:
    """NNCF's post-training quantisation of those layers alone.

    Weights symmetric a channel, inputs asymmetric a tensor, ranges over all calibration photos.
    """
    nncf = import_runtime("nncf", "--int8")
    keep = {name for layer, names in weighted_layers(model).items() if layer in layers for name in names}
    others = [node.get_friendly_name() for node in model.get_ops() if node.get_friendly_name() not in keep]
    items = list(calibration)
    openvino_core("--int8")
    with signal_stack_kept():
        return nncf.quantize(
            model,
            nncf.Dataset(items),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(items),
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            advanced_parameters=advanced,
        )


def only(fake: Any, layers: Collection[str]) -> Any:
    """A copy of a model with fake quantisers in which those of other layers are bypassed."""
    model = fake.clone()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and not _served(node) & set(layers):
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(node.input_value(0))
    model.validate_nodes_and_infer_types()
    return model


def _served(quantiser: Any) -> set[str]:
    """The layers whose operations read what a quantiser rounds."""
    layers: set[str] = set()
    waiting = [quantiser]
    while waiting:
        for target in waiting.pop().output(0).get_target_inputs():
            node = target.get_node()
            if node.get_type_name() in WEIGHTED:
                layers.add(layer_of(node.get_friendly_name()))
            elif node.get_type_name() in PASSED:
                waiting.append(node)
    return layers


def float_times(model: Any, pixels: NDArray[Any], repeats: int = 3) -> dict[str, float]:
    """{layer: milliseconds a photo} in float32, by OpenVINO's own counters."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    compiled = openvino_core("--int8").compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    for _ in range(repeats):
        request.infer({"pixels": pixels, "product": np.full(len(pixels), -1, dtype=np.int64)})
    times: dict[str, float] = {}
    for entry in request.profiling_info:
        layer = layer_of(entry.node_name)
        times[layer] = times.get(layer, 0.0) + 1000 * entry.real_time.total_seconds() / len(pixels)
    return times
