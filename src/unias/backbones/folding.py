"""A frozen network's batch norms folded into the convolutions before them: the same numbers to rounding, a pass over memory less
for each of them (issue 4)."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

SIDE = 64  # of the picture that shows which norm follows which convolution, and that the folded network is tried on
CLOSE = 1e-4  # largest difference of a feature over its largest value; rounding gives some 1e-6


def folded(network: nn.Module) -> nn.Module | None:
    """A copy of the network in eval mode with every batch norm folded that reads one convolution and nothing else does.

    Which these are is seen in a forward pass, so that it serves any network. None where there is nothing to fold, where the
    network does not take a picture of 64 pixels, or where the copy's features would not be the network's own to rounding.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return None
    parameter = next(network.parameters())
    picture = torch.rand((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(parameter)
    copied = copy.deepcopy(network).eval()
    with torch.no_grad():
        try:
            wanted, pairs = _watched(copied, picture)
        except (RuntimeError, AssertionError, ValueError):  # what networks of one size raise for another
            return None
        for convolution, norm in pairs:
            _fold(convolution, norm)
            _replace(copied, norm, _rest_of(norm))
        found = copied(picture)
    same = all(
        torch.allclose(one, other, rtol=0, atol=CLOSE * float(other.abs().max()))
        for one, other in zip(found, wanted, strict=True)
    )
    return copied.requires_grad_(False) if pairs and same else None


def _watched(network: nn.Module, picture: Tensor) -> tuple[list[Tensor], list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """(features, convolutions with the norms that read them), by one forward pass."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # tensors are kept, so that no id serves twice
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def after(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(result)] = (module, result)
        elif isinstance(module, nn.BatchNorm2d) and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module))

    hooks = [
        module.register_forward_hook(after)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    features = [feature.clone() for feature in network(picture)]
    for hook in hooks:
        hook.remove()
    readers = Counter(convolution for convolution, _ in pairs)
    once = [(a, b) for a, b in pairs if calls[a] == calls[b] == readers[a] == 1 and b.running_var is not None]
    return features, once


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight, convolution.bias = weight, bias


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What a norm does after normalising: timm's hold an activation (and a drop, which is nothing in eval mode)."""
    rest = getattr(norm, "act", None)
    return rest if isinstance(rest, nn.Module) else nn.Identity()


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
