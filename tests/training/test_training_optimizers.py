"""Muon against its definition by singular values, and who steps which parameter."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from unias.config import TrainConfig
from unias.model.build import build_unias
from unias.presets import ARCHITECTURES
from unias.training.optimizers import Muon, build_optimizers, orthogonalized


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 60), (2, 60, 16), (1, 1, 9)])
def test_singular_values_come_close_to_one_and_the_directions_stay(shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape) * 1e-3
    out = orthogonalized(x)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    values = torch.linalg.svdvals(out)
    assert values.max() < 1.3
    big = torch.linalg.svdvals(x) > 0.1 * torch.linalg.svdvals(x).max()
    assert values[big].min() > 0.5  # five rounds leave the very smallest behind
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    nearest = left @ right
    agreement = (out * nearest).sum(dim=(1, 2)) / (out.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
    assert agreement.min() > 0.97


def test_batched_equals_one_by_one() -> None:
    x = torch.randn(3, 12, 20)
    together = orthogonalized(x)
    for one, out in zip(x, together, strict=True):
        assert torch.allclose(orthogonalized(one[None])[0], out, atol=2e-2)


def polar(x: torch.Tensor) -> torch.Tensor:
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    return left @ right


def test_two_steps_by_hand() -> None:
    """Momentum as a running mean, looked ahead; decay first; the step 0.2 * sqrt(larger side) * rate in spectral size."""
    weight = torch.nn.Parameter(torch.randn(8, 2, 3, 3))
    start = weight.detach().clone()
    gradients = [torch.randn_like(weight), torch.randn_like(weight)]
    optimizer = Muon({1: [weight]}, rate=0.1, momentum=0.9, weight_decay=0.5)
    expected, mean = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        ahead = (0.1 * gradient + 0.9 * mean).flatten(1)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 18**0.5 * polar(ahead).reshape(expected.shape)
    moved = (weight.detach() - start).norm()
    assert (weight.detach() - expected).norm() < 0.2 * moved  # five rounds leave singular values between 0.7 and 1.2


def test_stacked_matrices_are_stepped_one_by_one() -> None:
    values, gradient = torch.randn(24, 8), torch.randn(24, 8)
    stacked = torch.nn.Parameter(values.clone())
    apart = [torch.nn.Parameter(part.clone()) for part in values.chunk(3)]
    stacked.grad = gradient
    for parameter, part in zip(apart, gradient.chunk(3), strict=True):
        parameter.grad = part.clone()
    Muon({3: [stacked]}, rate=0.1).step()
    Muon({1: apart}, rate=0.1).step()
    assert torch.allclose(stacked.detach(), torch.cat([p.detach() for p in apart]), atol=1e-3)
    whole = torch.nn.Parameter(values.clone())
    whole.grad = gradient
    Muon({1: [whole]}, rate=0.1).step()
    assert (whole - stacked).abs().max() > 1e-2  # as one matrix it would be another step


def test_each_parameter_has_one_optimiser() -> None:
    model = build_unias(ARCHITECTURES["small"], {1: 4, 2: 6, 3: 8, 4: 10}, 8)
    muon = TrainConfig(optimizer="muon", learning_rate=1e-3, muon_rate=5e-3)
    adamw, matrices = build_optimizers(model, muon, torch.device("cpu"))
    by = [{id(p) for group in o.param_groups for p in group["params"]} for o in (adamw, matrices)]
    assert not by[0] & by[1]
    assert by[0] | by[1] == {id(p) for p in model.parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in by[1]}
    assert all(name.endswith(("weight", "in_proj_weight")) for name in names)
    assert any("patch" in name for name in names)
    assert any(name.startswith("heads") for name in names)
    assert any("cnn.branches" in name for name in names)
    assert not any(name.startswith(("query.query", "query.spatial")) or "norm" in name for name in names)
    assert {group["rate"] for group in matrices.param_groups} == {5e-3}
    assert {group["rate"] for group in adamw.param_groups} == {1e-3}
    (alone,) = build_optimizers(model, dataclasses.replace(muon, optimizer="adamw"), torch.device("cpu"))
    assert {id(p) for group in alone.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}


def test_state_survives_a_round_trip() -> None:
    def run(steps: int, optimizer: Muon, weight: torch.nn.Parameter, start: int = 0) -> None:
        for step in range(start, start + steps):
            torch.manual_seed(step)
            weight.grad = torch.randn_like(weight)
            optimizer.step()

    whole = torch.nn.Parameter(torch.ones(6, 6))
    first = Muon({1: [whole]}, rate=0.1)
    run(4, first, whole)
    half = torch.nn.Parameter(torch.ones(6, 6))
    before = Muon({1: [half]}, rate=0.1)
    run(2, before, half)
    after = Muon({1: [half]}, rate=0.1)
    after.load_state_dict(before.state_dict())
    run(2, after, half, 2)
    assert torch.equal(whole, half)
