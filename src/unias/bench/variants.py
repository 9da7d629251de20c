"""The ways in which a model is run side by side: one row of the table each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unias.bench.rounds import Call
from unias.errors import UsageError
from unias.evaluation.metrics import aupro
from unias.inference.store import load_model
from unias.maps.detector import Detector
from unias.model.fused import use_form
from unias.runtime import cpu_has_bfloat16, half_of

YARDSTICK = "paper-plain"
SMALL_EAGER = "small-eager"
PARTS = ("backbone", "backbone, NCHW", "backbone, folded", "the rest")
NO_BFLOAT16 = "not measured: this processor has no bfloat16 instructions"


@dataclass(frozen=True)
class Variant:
    """One way to run a model.

    Attributes:
        name: for people who pick rows, such as "paper-fused".
        title: what the table calls it.
        model: paper or small.
        engine: eager (torch), onnx, openvino, or openvino-int8.
        form: of heads and patch embedding in eager mode: plain (and the backbone in NCHW, its norms by themselves), or fused.
        precision: float32, bfloat16 (autocast), or int8.
        device: cpu or cuda.
        compiled: by torch.compile.
    """

    name: str
    title: str
    model: str
    engine: str = "eager"
    form: str = "fused"
    precision: str = "float32"
    device: str = "cpu"
    compiled: bool = False


def _of(model: str, device: str) -> tuple[Variant, ...]:
    """The rows of one model on a GPU."""
    amp = "AMP bfloat16"
    return (
        Variant(f"{model}-{device}", f"`{model}`, GPU, float32", model, device=device),
        Variant(f"{model}-{device}-amp", f"`{model}`, GPU, {amp}", model, precision="bfloat16", device=device),
        Variant(
            f"{model}-{device}-compile",
            f"`{model}`, GPU, {amp}, torch.compile",
            model,
            precision="bfloat16",
            device=device,
            compiled=True,
        ),
    )


VARIANTS: tuple[Variant, ...] = (
    Variant(YARDSTICK, "`paper`, plain, NCHW float32 eager (the yardstick)", "paper", form="plain"),
    Variant("paper-fused", "`paper`, fused, float32 eager", "paper"),
    Variant("paper-bf16", "`paper`, fused, bfloat16 autocast", "paper", precision="bfloat16"),
    Variant("paper-onnx", "`paper`, ONNX Runtime, float32", "paper", "onnx"),
    Variant("paper-openvino", "`paper`, OpenVINO, float32", "paper", "openvino"),
    Variant("paper-openvino-int8", "`paper`, OpenVINO, int8", "paper", "openvino-int8", precision="int8"),
    Variant(SMALL_EAGER, "`small`, float32 eager", "small"),
    Variant("small-bf16", "`small`, bfloat16 autocast", "small", precision="bfloat16"),
    Variant("small-onnx", "`small`, ONNX Runtime, float32", "small", "onnx"),
    Variant("small-openvino", "`small`, OpenVINO, float32", "small", "openvino"),
    Variant("small-openvino-int8", "`small`, OpenVINO, int8", "small", "openvino-int8", precision="int8"),
    Variant("paper-cuda-plain", "`paper`, GPU, plain, float32", "paper", form="plain", device="cuda"),
    *_of("paper", "cuda"),
    *_of("small", "cuda"),
)


def pick(only: Sequence[str]) -> tuple[Variant, ...]:
    """The rows asked for (all where none is), always with the yardstick and the float32 that a row is compared with.

    Raises UsageError for a name that does not exist.
    """
    known = {variant.name: variant for variant in VARIANTS}
    for name in only:
        if name not in known:
            raise UsageError(f"--only: {name!r} is not one of {', '.join(known)}.")
    needed = {YARDSTICK, *only} | ({SMALL_EAGER} if any(known[name].model == "small" for name in only) else set())
    return VARIANTS if not only else tuple(variant for variant in VARIANTS if variant.name in needed)


def reference(variant: Variant) -> str:
    """The row that a row's maps and accuracy are compared with: its own model in float32."""
    return YARDSTICK if variant.model == "paper" else SMALL_EAGER


def lacking(variant: Variant) -> str | None:
    """What this machine lacks for a row, or None."""
    if variant.device == "cuda" and not torch.cuda.is_available():
        return "not measured: no CUDA device here"
    if (
        variant.engine == "eager"
        and variant.precision == "bfloat16"
        and variant.device == "cpu"
        and not cpu_has_bfloat16()
    ):
        return NO_BFLOAT16
    return None


class Runner:
    """(N, 3, S, S) in [0, 1] on the processor -> anomaly maps (N, S, S) float32 there, as ``Model.predict`` asks for them."""

    def __init__(self, detector: Callable[[Tensor], Any], device: torch.device) -> None:
        self.detector = detector
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            maps = self.detector(images.to(self.device))
        out: Tensor = maps.anomaly_map.float().cpu()
        return out


def open_variant(variant: Variant, folder: Path) -> Runner:
    """A model folder, or the export's, ready to run in that way. Raises what ``load_model`` raises."""
    device = torch.device(variant.device)
    detector = load_model(folder, device).detector
    if not isinstance(detector, Detector):
        return Runner(detector, device)
    prepare(detector, variant.form)
    if variant.precision == "bfloat16":
        detector.compute_type = half_of(device) or torch.bfloat16
    call: Callable[[Tensor], Any] = torch.compile(detector) if variant.compiled else detector
    return Runner(call, device)


def prepare(detector: Detector, form: str) -> Detector:
    """Bring heads, patch embedding and backbone into a form. In place."""
    if form == "plain":
        detector.eval()
        use_form(detector.unias, "plain")
        detector.backbone.network.to(memory_format=torch.contiguous_format)
    else:
        detector.compose()
        detector.backbone.fold()
    return detector


def parts_of(runner: Runner, images: Tensor) -> dict[str, Call]:
    """The backbone alone: as timm makes it in channels last and in NCHW, and with norms folded as used; and all the rest alone,
    from its features."""
    detector = runner.detector
    assert isinstance(detector, Detector)
    folded = detector.backbone
    backbone = copy.deepcopy(folded).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(folded).to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        features = folded(images)
    calls: dict[str, Callable[[], object]] = {
        "backbone": lambda: backbone(images),
        "backbone, NCHW": lambda: plain(images),
        "backbone, folded": lambda: folded(images),
        "the rest": lambda: detector.from_features(features),
    }
    return {name: torch.inference_mode()(call) for name, call in calls.items()}


def overlap_of(photos: int, size: int) -> Call:
    """AUPRO, with the ranking that it needs, of noise with a defect of a fifth of the side in each photo."""
    rng = np.random.default_rng(0)
    maps = rng.random((photos, size, size), dtype=np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[:, : size // 5, : size // 5] = True
    return lambda: aupro(masks, maps)
