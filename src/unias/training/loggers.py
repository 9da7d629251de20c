"""Loggers by name, through Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unias.errors import MissingError, UsageError

NAMES = ("none", "csv", "tensorboard", "wandb", "mlflow")


def build_loggers(name: str, home: Path) -> list[Any]:
    """The logger called ``name``; its files go into ``<home>-logs``, beside the model.

    Raises UsageError for an unknown name, MissingError where its package is not installed.
    """
    if name not in NAMES:
        raise UsageError(f"--logger: {name!r} is not one of {', '.join(NAMES)}.")
    if name == "none":
        return []
    folder = home.parent / f"{home.name}-logs"
    try:
        if name == "csv":
            from lightning_fabric.loggers.csv_logs import CSVLogger

            return [CSVLogger(root_dir=folder, name="csv", flush_logs_every_n_steps=1)]
        if name == "tensorboard":
            from lightning_fabric.loggers.tensorboard import TensorBoardLogger

            return [TensorBoardLogger(root_dir=folder, name="tensorboard")]
        from lightning.pytorch import loggers

        if name == "wandb":
            return [loggers.WandbLogger(project="unias", name=home.name, save_dir=str(folder))]
        return [loggers.MLFlowLogger(experiment_name="unias", run_name=home.name, save_dir=str(folder))]
    except ImportError as error:
        packages = {"tensorboard": "tensorboard", "wandb": "lightning wandb", "mlflow": "lightning mlflow"}
        raise MissingError(
            f"--logger {name}: its package is missing. pip install {packages.get(name, name)}"
        ) from error
