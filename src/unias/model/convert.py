"""Read a checkpoint of the authors' code into this model (released architecture), by an explicit list of names.

Levels: the released keys count i from the coarsest (i = 0 is level 4), except ``pixel_decoder.adapter_k`` / ``layer_k``.
Nothing is dropped silently: a name that is left over or missing is an error that lists it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unias.errors import DataError
from unias.model.unias import UniAS

HEAD_PREFIX = "module.sem_seg_head."
BACKBONE_PREFIX = "module.backbone."

_LEVEL = r"(?P<i>\d)"
RULES: tuple[tuple[str, str], ...] = (
    (r"pixel_decoder\.adapter_(?P<k>\d)\.weight", "pixel_decoder.lateral.{k}.conv.weight"),
    (r"pixel_decoder\.adapter_(?P<k>\d)\.norm\.(?P<x>\w+)", "pixel_decoder.lateral.{k}.norm.{x}"),
    (r"pixel_decoder\.layer_4\.weight", "pixel_decoder.top_output.weight"),
    (r"pixel_decoder\.layer_(?P<k>\d)\.weight", "pixel_decoder.output.{k}.conv.weight"),
    (r"pixel_decoder\.layer_(?P<k>\d)\.norm\.(?P<x>\w+)", "pixel_decoder.output.{k}.norm.{x}"),
    (r"pixel_decoder\.input_proj\.(?P<x>\w+)", "pixel_decoder.input_projection.{x}"),
    (
        r"pixel_decoder\.transformer\.encoder\.layers\.(?P<n>\d)\.self_attn\.(?P<x>[\w.]+)",
        "pixel_decoder.encoder.{n}.attention.attention.{x}",
    ),
    (
        r"pixel_decoder\.transformer\.encoder\.layers\.(?P<n>\d)\.norm1\.(?P<x>\w+)",
        "pixel_decoder.encoder.{n}.attention.norm.{x}",
    ),
    (
        r"pixel_decoder\.transformer\.encoder\.layers\.(?P<n>\d)\.norm2\.(?P<x>\w+)",
        "pixel_decoder.encoder.{n}.feed_forward.norm.{x}",
    ),
    (
        r"pixel_decoder\.transformer\.encoder\.layers\.(?P<n>\d)\.(?P<x>linear\d\.\w+)",
        "pixel_decoder.encoder.{n}.feed_forward.{x}",
    ),
    (rf"predictor\.patch_embed\.{_LEVEL}\.proj\.(?P<x>\w+)", "tokens.patch.{level}.{x}"),
    (rf"predictor\.input_proj\.{_LEVEL}\.(?P<x>\w+)", "tokens.project.{level}.{x}"),
    (r"predictor\.level_embed_src\.weight", "tokens.level_embedding"),
    (r"predictor\.feature_projector\.(?P<x>\w+)", "query_source.{x}"),
    (r"predictor\.spatial_query_feat\.weight", "query.query"),
    (r"predictor\.spatial_query_embed\.weight", "decoder.query_position"),
    (r"predictor\.query_processor\.channel_weight\.agg\.(?P<x>[\w.]+)", "query.channel_weight.{x}"),
    (r"predictor\.query_processor\.spatial_weight\.(?P<x>[\w.]+)", "query.spatial_weight.{x}"),
    (r"predictor\.query_processor\.adaptor\.(?P<cnn>conv[\d.]+)\.(?P<x>weight|bias)", "query.adaptor.{branch}.{x}"),
    (
        rf"predictor\.layer_adaptors\.{_LEVEL}\.(?P<cnn>conv[\d.]+)\.(?P<x>weight|bias)",
        "decoder.layers.{level}.cnn.{branch}.{x}",
    ),
    (
        rf"predictor\.transformer_block\.{_LEVEL}\.(?P<side>Spatial|Channel)(?P<step>CrossAttn|SelfAttn|FFN)Layer\.(?P<x>[\w.]+)",
        "decoder.layers.{level}.hybrid.{side}.{step}.{x}",
    ),
    (r"predictor\.decoder_norm\.(?P<x>\w+)", "heads.norm.{x}"),
    (rf"predictor\.out_agg\.{_LEVEL}\.(?P<j>\d)\.(?P<x>\w+)", "heads.heads.{level}.layers.{j0}.{x}"),
)
_STEPS = {"CrossAttn": "cross", "SelfAttn": "self", "FFN": "feed_forward"}


def our_name(released: str) -> str | None:
    """The name in this package of a released key (without its prefix), or None where there is no such key."""
    for pattern, template in RULES:
        found = re.fullmatch(pattern, released)
        if found is None:
            continue
        parts = found.groupdict()
        if "i" in parts:
            parts["level"] = str(4 - int(parts["i"]))
        if "j" in parts:
            parts["j0"] = str(int(parts["j"]) - 1)
        if "cnn" in parts:
            branch, _, place = parts["cnn"][len("conv") :].partition(".")
            parts["branch"] = f"branches.{branch}.{place or 0}"
        if "side" in parts:
            parts["side"] = parts["side"].lower()
            parts["step"] = _STEPS[parts["step"]]
            parts["x"] = re.sub(r"^(multihead_attn|self_attn)\.", "attention.", parts["x"])
        return template.format(**parts)
    return None


def convert_head(released: Mapping[str, Tensor], model: UniAS, where: str = "checkpoint") -> None:
    """Load a released head into ``model`` (released architecture), strictly.

    Raises DataError naming every key that has no place, is missing or has another shape.
    """
    expected = model.state_dict()
    converted: dict[str, Tensor] = {}
    faults: list[str] = []
    for key, tensor in released.items():
        name = our_name(key)
        if name is None or name not in expected:
            faults.append(f"{key} has no place")
            continue
        shape = expected[name].shape
        if name == "query.query":  # rows of block g: 196 g .. 196 g + 195, as a map
            blocks = tensor.numel() // (shape[1] * shape[2] * shape[3]) if tensor.dim() == 2 else 0
            if blocks == shape[0] and tensor.shape[1] == shape[1]:
                tensor = tensor.view(blocks, shape[2], shape[3], shape[1]).permute(0, 3, 1, 2).contiguous()
        if tensor.shape != shape:
            faults.append(f"{key} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
            continue
        converted[name] = tensor
    faults += [f"{name} is missing" for name in expected if name not in converted]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError(
            f"{where}: not a checkpoint of the released UniAS at these settings: {'; '.join(faults[:5])}{more}. "
            "Nothing was converted."
        )
    model.load_state_dict(converted)


def read_released(path: Path | str) -> dict[str, Any]:
    """Read an authors' checkpoint without running code of its own.

    The file is a dict (epoch, arch, state_dict, best_metric, optimizer) whose ``arch`` is an EasyDict and ``best_metric`` a
    numpy float64: both are let through as plain types, nothing else. Raises DataError.
    """
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        (OrderedDict, "easydict.EasyDict"),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
        (__import__("_codecs").encode, "_codecs.encode"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as a checkpoint of tensors and plain types ({reason}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, a dict with state_dict is expected.")
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: holds no state_dict of tensors.")
    return dict(state)


def split_released(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(head, backbone) of a released state dict, prefixes taken off. A bare head (no prefixes) gives an empty backbone."""
    head: dict[str, Tensor] = {}
    backbone: dict[str, Tensor] = {}
    for key, tensor in state.items():
        bare = key.removeprefix("module.")
        if bare.startswith("backbone."):
            backbone[bare.removeprefix("backbone.")] = tensor
        else:
            head[bare.removeprefix("sem_seg_head.")] = tensor
    return head, backbone


def convert_backbone(released: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Give EfficientNet-PyTorch 0.7.1 tensors timm's names: the two lists have the same shapes in the same order
    (checked), the classifier at the end left out. Raises DataError at the first that differs."""
    theirs = [(k, v) for k, v in released.items() if not k.startswith(("_fc.", "_conv_head.", "_bn1."))]
    ours = [(k, v) for k, v in expected.items()]
    converted: dict[str, Tensor] = {}
    for (our_key, our_value), (their_key, their_value) in zip(ours, theirs, strict=False):
        if our_value.shape != their_value.shape:
            raise DataError(
                f"{where}: backbone tensor {their_key} has shape {tuple(their_value.shape)}, {our_key} needs "
                f"{tuple(our_value.shape)}. The released UniAS has an EfficientNet-B4."
            )
        converted[our_key] = their_value
    if len(theirs) < len(ours):
        raise DataError(f"{where}: the backbone has {len(theirs)} tensors, {len(ours)} are needed.")
    return converted
