"""Any timm ``features_only`` network with strides 2, 4, 8, 16, frozen and always in eval mode (spec section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unias.backbones.folding import folded
from unias.backbones.weights import load_weights
from unias.config import LEVELS, STRIDES, BackboneConfig
from unias.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FrozenBackbone(nn.Module):
    """(N, 3, S, S) in [0, 1] -> {4: (N, C_4, S/16, S/16), 3: ..., 2: ..., 1: (N, C_1, S/2, S/2)}.

    ImageNet mean and deviation are applied inside, so that one graph starts from pixels. It stays in eval mode whatever the
    model around it does, and gives no gradient. ``fold`` makes it faster to use.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, channels: dict[int, int]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.channels = channels
        self._folded: tuple[nn.Module, ...] = ()  # in a tuple: neither saved nor counted beside the network itself
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stay in eval mode: batch norm must use the pre-trained statistics."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        network = self._folded[0] if self._folded else self.network
        with torch.no_grad():
            finest_first = network((images - self.mean) / self.std)
        return {level: finest_first[level - 1] for level in LEVELS}

    def fold(self) -> None:
        """Compute with batch norms folded into convolutions from now on: features equal to rounding, faster, the weights once
        more in memory. Parameters and state_dict stay as they are; loading weights or moving it elsewhere undoes it."""
        made = folded(self.network)
        self._folded = () if made is None else (made,)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._folded = ()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._folded = ()
        super()._load_from_state_dict(*args, **kwargs)


def build_backbone(config: BackboneConfig) -> FrozenBackbone:
    """Make the network, ask it for its strides and channels, load its weights.

    Raises:
        UsageError: timm has no such network, or it lacks one of the strides 2, 4, 8, 16.
        MissingError: its weights are not here; says the three ways to get them.
        DataError: a weights file that does not fit.
    """
    network, channels = create_network(config.name)
    load_weights(network, config)
    return freeze(network, channels, config)


def freeze(network: nn.Module, channels: dict[int, int], config: BackboneConfig) -> FrozenBackbone:
    """A network of ``create_network``, with or without its weights yet, in the one form that is used."""
    if config.authors_padding:
        use_authors_padding(network, config.name)
    drop_unread_stages(network)
    return FrozenBackbone(network.to(memory_format=torch.channels_last), channels)


def create_network(name: str) -> tuple[nn.Module, dict[int, int]]:
    """The bare network (random weights) with its four features, finest first, and {level: channels}."""
    network, channels = network_at(name, tuple(STRIDES.values()))
    return network.eval(), dict(zip(STRIDES, channels, strict=True))


def network_at(name: str, wanted: Sequence[int]) -> tuple[nn.Module, list[int]]:
    """The bare network (random weights) with its features at some strides, ascending, and their channels.

    Raises UsageError for a name that timm cannot make so, or a network without these strides.
    """
    import timm

    bare = name.removeprefix("hf-hub:").removeprefix("timm/")
    try:
        info: Any = timm.create_model(bare, pretrained=False, features_only=True).feature_info
    except Exception as error:
        close = ", ".join(timm.list_models(f"*{bare.split('.')[0][-12:]}*")[:5])
        raise UsageError(
            f"backbone: timm cannot make {name!r} with features_only ({str(error).splitlines()[0]})."
            + (f" Did you mean one of {close}?" if close else " See timm.list_models() for names.")
        ) from error
    strides = list(info.reduction())
    if any(stride not in strides for stride in wanted):
        needed = f"{', '.join(str(stride) for stride in wanted[:-1])} and {wanted[-1]}"
        raise UsageError(
            f"backbone: {name!r} has features at strides {strides}; {needed} are needed. "
            "Choose a convolutional network such as tf_efficientnet_lite2 or resnet18."
        )
    places = [len(strides) - 1 - strides[::-1].index(stride) for stride in wanted]
    network = timm.create_model(bare, pretrained=False, features_only=True, out_indices=places)
    chosen: Any = network.feature_info
    return network, list(chosen.channels())


def use_authors_padding(network: nn.Module, name: str) -> None:
    """The authors fix "same" padding for a 380-pixel image, which at 224 differs from timm's B4 in one convolution: the
    5 x 5 stride-2 depthwise one that opens the stride-8 stage pads 2 on every side (shared parity/efficientnet_b4)."""
    blocks: Any = getattr(network, "blocks", None)
    if blocks is None or "efficientnet_b4" not in name:
        raise UsageError(f"backbone: authors_padding is for efficientnet_b4 alone, not {name!r}.")
    old = blocks[2][0].conv_dw
    plain = nn.Conv2d(
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        padding=2,
        groups=old.groups,
        bias=old.bias is not None,
    )
    plain.load_state_dict(old.state_dict())
    blocks[2][0].conv_dw = plain


def drop_unread_stages(network: nn.Module) -> None:
    """Cut stages after the last one that is read; the outputs stay the same (EfficientNets run on otherwise)."""
    blocks: Any = getattr(network, "blocks", None)
    stages = getattr(network, "_stage_out_idx", None)
    if blocks is not None and isinstance(stages, dict) and isinstance(blocks, nn.Sequential):
        last = max(stages)
        if 0 < last < len(blocks):
            network.blocks = blocks[:last]
