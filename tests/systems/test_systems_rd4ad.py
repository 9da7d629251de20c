"""RD4AD for any backbone: shapes, the two losses told apart, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unias.systems.nets.rd4ad import LEVELS, RD4AD, anomaly_map, whole_map_loss

CHANNELS = {2: 24, 3: 48, 4: 120}


def features(count: int, size: int = 64, seed: int = 0) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(count, CHANNELS[k], size // 2**k, size // 2**k, generator=generator) for k in LEVELS}


@pytest.mark.parametrize("size", [64, 224])
def test_outputs_are_as_the_features(size: int) -> None:
    given = features(2, size)
    out = RD4AD(CHANNELS, width=8)(given)
    assert {k: v.shape for k, v in out.items()} == {k: v.shape for k, v in given.items()}


def test_size_of_the_resnet18_form() -> None:
    """Spec: 12.2 M + 3.7 M in the published form for ResNet-18."""
    net = RD4AD({2: 64, 3: 128, 4: 256}, width=64)
    assert 12e6 < sum(p.numel() for p in net.parameters()) < 20e6


def test_map_of_a_perfect_copy_is_nought_and_of_an_opposite_two_a_level() -> None:
    given = features(2)
    assert float(anomaly_map(given, given, 64).abs().max()) < 1e-5
    assert float((anomaly_map(given, {k: -v for k, v in given.items()}, 64) - 6).abs().max()) < 1e-5


def test_loss_is_of_the_whole_map() -> None:
    """Turning one place round costs what it weighs in the map, not one place's share of cosines."""
    given = {4: torch.ones(1, 4, 2, 2)}
    given[4][..., 0, 0] = 3.0
    turned = {4: given[4].clone()}
    turned[4][..., 0, 0] *= -1
    assert float(whole_map_loss(given, turned)) == pytest.approx(1 - (3 - 9) / (3 + 9))


def test_it_learns() -> None:
    torch.manual_seed(0)
    given, net = features(4), RD4AD(CHANNELS, width=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3, betas=(0.5, 0.999))
    losses = []
    for _ in range(30):
        loss = whole_map_loss(given, net(given))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
