"""Where the authors' numbers lie and the rule that fills every tensor from its name (the parity READMEs)."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn


def parity_folder(system: str) -> Path:
    """The folder of one system's numbers; skips the test, saying why, only where it is absent."""
    shared = Path(os.environ.get("UNIAS_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    folder = shared / "parity" / system
    if not folder.is_dir():
        pytest.skip(f"the authors' numbers are not here: {folder} (set UNIAS_SHARED to the folder that holds parity/)")
    return folder


def load_reference(system: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = parity_folder(system)
    with np.load(folder / "reference.npz") as arrays:
        return json.loads((folder / "reference.json").read_text(encoding="utf-8")), dict(arrays)


def noise(key: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(shape))


def head_tensor(key: str, shape: list[int]) -> torch.Tensor:
    """The rule of parity/unias: 1-D weights 1 + 0.1 n, other 1-D 0.1 n, else n / sqrt(prod(shape[1:]))."""
    n = noise(key, shape)
    if len(shape) == 1:
        n = 1 + 0.1 * n if key.endswith("weight") else 0.1 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(n.astype(np.float32))


def relative_error(ours: np.ndarray, name: str, reference: np.ndarray) -> float:
    """Largest absolute difference over the reference's largest absolute value; honours ``x|flat[::k]``."""
    if "|flat[::" in name:
        ours = ours.reshape(-1)[:: int(name.split("|flat[::")[1].rstrip("]"))]
    assert ours.shape == reference.shape, (name, ours.shape, reference.shape)
    return float(np.abs(ours.astype(np.float64) - reference).max() / np.abs(reference).max())


def tensor_by_rule(key: str, shape: list[int]) -> torch.Tensor:
    """And batch norm's statistics (parity/destseg): running_mean 0.1 n, running_var 1 + 0.1 |n|, counter 0."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if key.endswith("running_var"):
        return torch.from_numpy((1 + 0.1 * np.abs(noise(key, shape))).astype(np.float32))
    return head_tensor(key, shape)


# What UniAD and HVQ-Trans share, as their networks do (unias.systems.nets.tokens).

PARTS = {
    ".attend.attention.": ".self_attn.",
    ".first.attention.": ".self_attn.",
    ".second.attention.": ".multihead_attn.",
    ".feed_forward.": ".",
}


def token_name(ours: str, starts: Mapping[str, str]) -> str:
    """The authors' name of one of our tensors: its start by ``starts``, the parts of a layer as torch calls them."""
    for start, theirs in starts.items():
        if ours.startswith(start):
            ours = theirs + ours[len(start) :]
            break
    for part, theirs in PARTS.items():
        ours = ours.replace(part, theirs)
    return ours


def level_features() -> dict[int, Tensor]:
    """{level: features of EfficientNet-B4's shapes}, two photos."""
    shapes = {1: (2, 24, 112, 112), 2: (2, 32, 56, 56), 3: (2, 56, 28, 28), 4: (2, 160, 14, 14)}
    return {k: torch.from_numpy(noise(f"feature.res{k}", s).astype(np.float32)) for k, s in shapes.items()}


def keep_outputs(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Filled when the modules run, in the authors' layout: tokens first, photos second."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            kept[name] = output.transpose(0, 1)

        module.register_forward_hook(hook)

    for name, module in modules.items():
        keep(name, module)
    return kept


def without_dropout(net: nn.Module) -> nn.Module:
    """In train mode, every dropout at 0. In place."""
    for module in net.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return net
