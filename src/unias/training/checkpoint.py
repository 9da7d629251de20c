"""The training state on disk: what --resume needs, tensors and plain types only, read with ``weights_only=True``."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unias.errors import DataError
from unias.files import writing

STATE_FILE = "state.pt"


@dataclass
class TrainState:
    """Everything that decides the steps still to come; noise and order depend on seed and step alone."""

    step: int
    total_steps: int
    fingerprint: str  # of data, split and settings: another run's state is refused
    model: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    averaged: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0  # of training steps so far, over all sittings
    losses: list[float] = field(default_factory=list)
    elapsed: float = 0.0  # seconds of the whole run, over all sittings; what a kill lost is not in it
    peak_mib: float = 0.0  # most main memory of any sitting


def save_state(folder: Path, state: TrainState) -> None:
    """Write it whole or not at all."""
    with writing(folder / STATE_FILE) as temporary:
        content = io.BytesIO()  # torch.save to a full disk raises no OSError; writing bytes does
        torch.save({name: getattr(state, name) for name in state.__dataclass_fields__}, content)
        temporary.write_bytes(content.getbuffer())


def load_state(folder: Path, fingerprint: str) -> TrainState | None:
    """The state left by an earlier sitting, or None. Raises DataError where it cannot be read or is another run's."""
    file = folder / STATE_FILE
    if not file.is_file():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        state = TrainState(**content)
    except Exception as error:
        raise DataError(f"{file}: cannot be read as a training state. Remove {folder} and train again.") from error
    if state.fingerprint != fingerprint:
        raise DataError(
            f"{file}: belongs to a run with other data or settings. Resume with the same ones, or remove {folder} and "
            "train again."
        )
    return state
