"""Where the authors' numbers lie and the rule that fills every tensor from its name (the parity READMEs)."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


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
