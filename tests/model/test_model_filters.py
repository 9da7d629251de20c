"""Feature filtering against the formulas of spec section 2, written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from unias.model.filters import FeatureFilter, GaussianBlur, Standardize, gaussian_kernel


def test_kernel_by_hand() -> None:
    edge = math.exp(-0.5)
    line = [edge / (1 + 2 * edge), 1 / (1 + 2 * edge), edge / (1 + 2 * edge)]
    expected = torch.tensor([[a * b for b in line] for a in line])
    assert torch.allclose(gaussian_kernel(3, 1.0), expected, atol=1e-7)


@pytest.mark.parametrize(("size", "sigma"), [(3, 1.0), (5, 5 / 3), (7, 7 / 3), (9, 3.0)])
def test_blur_equals_the_outer_product_with_reflected_borders(size: int, sigma: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 17)
    line = torch.tensor([math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)])
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum()).expand(3, 1, size, size)
    pad = size // 2
    expected = F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), kernel, groups=3)
    assert torch.allclose(GaussianBlur(size, sigma)(x), expected, atol=2e-6)
    replicated = F.conv2d(F.pad(x, (pad,) * 4, mode="replicate"), kernel, groups=3)
    assert (GaussianBlur(size, sigma)(x) - replicated).abs().max() > 1e-2  # the test tells the two apart


def test_reflection_does_not_repeat_the_edge() -> None:
    """A one in the corner: the corner sees itself once, its neighbour's mirror image is the neighbour again."""
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1
    edge = math.exp(-0.5)
    side, centre = edge / (1 + 2 * edge), 1 / (1 + 2 * edge)
    blurred = GaussianBlur(3, 1.0)(x)[0, 0]
    assert blurred[0, 0].item() == pytest.approx(centre**2, abs=1e-6)
    assert blurred[0, 1].item() == pytest.approx(centre * side, abs=1e-6)
    assert blurred[2:].abs().max() == 0


@pytest.mark.parametrize("size", [1, 3, 9])
def test_constants_are_kept(size: int) -> None:
    x = torch.full((1, 2, 11, 11), 3.25)
    assert torch.allclose(GaussianBlur(size, max(size / 3, 0.5))(x), x, atol=1e-5)


def test_blur_follows_the_dtype_and_keeps_channels_apart() -> None:
    x = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    x[:, 0] = torch.randn(6, 6, dtype=torch.float64)
    blurred = GaussianBlur()(x)
    assert blurred.dtype == torch.float64
    assert blurred[:, 1].abs().max() == 0
    assert blurred[:, 0].abs().max() > 0


def test_average_counts_the_padding_zeros() -> None:
    seen, target = FeatureFilter("average")(torch.ones(1, 1, 5, 5))
    assert seen is target
    assert target[0, 0, 2, 2].item() == pytest.approx(1.0)
    assert target[0, 0, 0, 2].item() == pytest.approx(6 / 9)
    assert target[0, 0, 0, 0].item() == pytest.approx(4 / 9)


def test_concat_is_blurred_first_then_what_blur_took_away() -> None:
    torch.manual_seed(1)
    feature = torch.randn(2, 3, 8, 8)
    seen, target = FeatureFilter("gaussian_concat")(feature)
    blurred = GaussianBlur(3, 1.0)(feature)
    assert torch.equal(target, blurred)
    assert seen.shape == (2, 6, 8, 8)
    assert torch.equal(seen[:, :3], blurred)
    assert torch.equal(seen[:, 3:], feature - blurred)


@pytest.mark.parametrize(("kind", "widening"), [("none", 1), ("average", 1), ("gaussian", 1), ("gaussian_concat", 2)])
def test_widening_is_what_comes_out(kind: str, widening: int) -> None:
    feature = torch.randn(1, 4, 6, 6)
    seen, target = FeatureFilter(kind)(feature)
    assert FeatureFilter(kind).widening == widening
    assert seen.shape[1] == 4 * widening
    assert target.shape == feature.shape
    if widening == 1:
        assert torch.equal(seen, target)


def test_kinds_differ() -> None:
    feature = torch.randn(1, 2, 6, 6)
    targets = {kind: FeatureFilter(kind)(feature)[1] for kind in ("none", "average", "gaussian", "gaussian_concat")}
    assert torch.equal(targets["none"], feature)
    assert torch.equal(targets["gaussian"], targets["gaussian_concat"])
    assert (targets["gaussian"] - targets["average"]).abs().max() > 1e-2
    assert (targets["gaussian"] - feature).abs().max() > 1e-2


def test_standardize() -> None:
    torch.manual_seed(2)
    feature = torch.randn(16, 3, 9, 9) * torch.tensor([0.01, 1.0, 50.0]).view(1, 3, 1, 1) + 7
    module = Standardize(3)
    assert torch.equal(module(feature), feature)  # until it is fitted it changes nothing
    module.mean.copy_(feature.mean(dim=(0, 2, 3)))
    module.deviation.copy_(feature.std(dim=(0, 2, 3)))
    out = module(feature)
    assert out.mean(dim=(0, 2, 3)).abs().max() < 1e-2
    assert (out.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
    assert set(module.state_dict()) == {"mean", "deviation"}  # it travels with the model
    assert not list(module.parameters())
