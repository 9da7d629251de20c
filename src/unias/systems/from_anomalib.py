"""anomalib's torch modules that are sound for us: DRAEM's two nets, RD4AD's bottleneck and decoder. Nothing else of it.

Neither its engine nor its data sets nor its losses: its DRAEM loss gives normal pixels no weight under today's kornia.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

from torch import nn

from unias.errors import MissingError, UsageError

WIDE = {"wide_resnet50_2": 128, "wide_resnet101_2": 128}  # width of a group in the authors' bottleneck


def require_anomalib(wanted_by: str) -> None:
    """Raises MissingError where it is not installed; does not import it, which takes seconds."""
    if importlib.util.find_spec("anomalib") is None:
        raise MissingError(
            f'{wanted_by} takes its nets from anomalib, which is not here. Run: pip install "unias[bench]"'
        )


def _module(name: str, wanted_by: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the many models that come along
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(
            f'{wanted_by} takes its nets from anomalib, which is not here ({error}). Run: pip install "unias[bench]"'
        ) from error


def draem_nets(reconstructive: int, discriminative: int) -> tuple[nn.Module, nn.Module]:
    """(N, 3, s, s) -> (N, 3, s, s), and (N, 6, s, s) -> logits (N, 2, s, s), of the given base widths (published: 128, 64).

    Raises MissingError without anomalib.
    """
    found = _module("anomalib.models.image.draem.torch_model", "draem")
    first: nn.Module = found.ReconstructiveSubNetwork(base_width=reconstructive)
    second: nn.Module = found.DiscriminativeSubNetwork(in_channels=6, out_channels=2, base_width=discriminative)
    return first, second


def published_rd4ad(name: str) -> tuple[nn.Module, nn.Module]:
    """Bottleneck and decoder that mirror the ResNet ``name``. Raises MissingError, and UsageError for another network."""
    wanted = f"rd4ad with mirror {name}"
    bottleneck = _module("anomalib.models.image.reverse_distillation.components.bottleneck", wanted)
    decoders = _module("anomalib.models.components.backbone.resnet_decoder", wanted)
    try:
        decoder: nn.Module = decoders.get_decoder(name)
    except ValueError as error:
        raise UsageError(
            f"mirror: there is none of {name!r}. Use resnet18, wide_resnet50_2 or leave it empty."
        ) from error
    widths = {"width_per_group": WIDE[name]} if name in WIDE else {}
    code: nn.Module = bottleneck.get_bottleneck_layer(name, **widths)
    return code, decoder
