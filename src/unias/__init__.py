"""UniAS: one model for every product line, learned from photos of good parts alone, that marks defects pixel by pixel.

    import unias

    model = unias.train("photos", "model", minutes=20)
    result = model.predict("new-photo.png")
    print(result.product, result.ok, result.pred_score)
    mask = result.pred_mask

Names are loaded when they are first used, so that ``import unias`` stays fast and never touches the network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Config": "unias.config",
    "DataError": "unias.errors",
    "Interrupted": "unias.errors",
    "MissingError": "unias.errors",
    "Model": "unias.inference.predictor",
    "Progress": "unias.progress",
    "Result": "unias.inference.result",
    "TrainingError": "unias.errors",
    "UniasError": "unias.errors",
    "UsageError": "unias.errors",
    "evaluate": "unias.api",
    "load": "unias.api",
    "load_config": "unias.config",
    "preset": "unias.presets",
    "train": "unias.api",
}
__all__ = [
    "Config",
    "DataError",
    "Interrupted",
    "MissingError",
    "Model",
    "Progress",
    "Result",
    "TrainingError",
    "UniasError",
    "UsageError",
    "__version__",
    "evaluate",
    "load",
    "load_config",
    "preset",
    "train",
]

if TYPE_CHECKING:
    from unias.api import evaluate, load, train
    from unias.config import Config, load_config
    from unias.errors import DataError, Interrupted, MissingError, TrainingError, UniasError, UsageError
    from unias.inference.predictor import Model
    from unias.inference.result import Result
    from unias.presets import preset
    from unias.progress import Progress


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'unias' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
