"""Batch norms folded into convolutions: the same features, fewer modules, and nothing that a saved model would show."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from unias.backbones.folding import folded
from unias.backbones.timm_backbone import FrozenBackbone, build_backbone
from unias.config import BackboneConfig

NETWORKS = (
    "tf_efficientnet_lite0",
    "tf_efficientnet_b0",
    "resnet18",
    "mobilenetv3_small_050",
    "regnety_002",
    "mobilenetv2_035",
)


def backbone_of(name: str) -> FrozenBackbone:
    """Random weights, and norms with statistics and scales that are not those they start with."""
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name=name, weights="random"))
    for norm in norms_of(backbone.network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.running_var, 0.3, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    return backbone


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def apart(some: dict[int, Tensor], others: dict[int, Tensor]) -> float:
    return max(float((some[k] - others[k]).abs().max() / others[k].abs().max()) for k in others)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_the_same_and_no_norm_is_left(name: str) -> None:
    backbone = backbone_of(name)
    images = torch.rand(2, 3, 96, 64)
    before = backbone(images)
    backbone.fold()
    assert len(backbone._folded) == 1
    assert not norms_of(backbone._folded[0])
    assert apart(backbone(images), before) < 1e-5


def test_in_double_precision_they_are_equal_to_its_rounding() -> None:
    network = backbone_of("tf_efficientnet_lite0").network.double()
    made = folded(network)
    assert made is not None
    picture = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for one, other in zip(made(picture), network(picture), strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-12


def test_what_is_saved_and_counted_stays() -> None:
    backbone = backbone_of("resnet18")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    parameters = sum(value.numel() for value in backbone.parameters())
    backbone.fold()
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert sum(value.numel() for value in backbone.parameters()) == parameters


def test_a_copy_is_folded_too_and_by_itself() -> None:
    backbone = backbone_of("resnet18")
    backbone.fold()
    copied = copy.deepcopy(backbone)
    images = torch.rand(1, 3, 64, 64)
    assert len(copied._folded) == 1
    assert copied._folded[0] is not backbone._folded[0]
    assert torch.equal(copied(images)[4], backbone(images)[4])


@pytest.mark.parametrize("how", ["loading", "moving"])
def test_other_weights_are_seen(how: str) -> None:
    backbone, other = backbone_of("mobilenetv2_035"), backbone_of("mobilenetv2_035")
    for value in other.network.parameters():
        value.mul_(1.1)
    images = torch.rand(1, 3, 64, 64)
    backbone.fold()
    if how == "loading":
        backbone.load_state_dict(other.state_dict())
    else:
        backbone.double().float()
        other = backbone_of("mobilenetv2_035")
    assert backbone._folded == ()
    assert torch.equal(backbone(images)[1], other(images)[1])


class Odd(nn.Module):
    """Convolutions whose result is read by more than their norm, or which serve twice; and one that folds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.norms[0](self.first(x))
        twice = self.second(self.second(x))
        x = self.norms[1](twice)
        both = self.third(x)
        return [x, self.norms[2](both) + self.norms[3](both)]


def test_what_is_read_twice_or_serves_twice_is_left() -> None:
    torch.manual_seed(0)
    network = Odd().eval()
    for norm in norms_of(network):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    made = folded(network)
    assert made is not None
    assert len(norms_of(made)) == 3
    x = torch.rand(1, 3, 8, 8)
    for one, other in zip(made(x), network(x), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


class Hidden(nn.Module):
    """A convolution whose result is read beside its norm, which no hook sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        nn.init.constant_(self.norm.weight, 3.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv(x)
        return [self.norm(x) + x]


class Plain(nn.Module):
    """No norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


class OneSize(Plain):
    """A network of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[-1] != 224:
            raise ValueError("224 pixels alone")
        return [self.norm(self.conv(x))]


@pytest.mark.parametrize("kind", [Hidden, Plain, OneSize])
def test_where_it_would_change_anything_the_network_stays_as_it_is(kind: type[nn.Module]) -> None:
    network = kind().eval()
    assert folded(network) is None
