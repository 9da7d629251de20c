"""Feature jitter: when it acts, how strong it is, and that a seed repeats it (spec section 3)."""

from __future__ import annotations

import pytest
import torch

from unias.model.jitter import FeatureJitter, noise_like


def test_nothing_in_eval_mode() -> None:
    x = torch.randn(2, 8, 4, 4)
    jitter = FeatureJitter(20.0, 1.0).eval()
    assert jitter(x) is x


def test_eval_mode_is_silent_whatever_the_filter(tiny_model) -> None:
    """The released code adds noise at test time where the filter is off: not copied."""
    for kind in ("none", "average", "gaussian", "gaussian_concat"):
        model, features = tiny_model(filter=kind, jitter_probability=1.0, dropout=0.0)
        model.eval()
        first, second = model(features).outputs, model(features).outputs
        assert all(torch.equal(first[k], second[k]) for k in first), kind
        model.train()
        noisy = model(features)
        assert (noisy.outputs[4] - first[4]).abs().max() > 1e-4, kind


def test_targets_stay_clean_in_training(tiny_model) -> None:
    model, features = tiny_model(jitter_probability=1.0)
    clean = model.eval()(features).targets
    noisy = model.train()(features).targets
    assert all(torch.equal(clean[k], noisy[k]) for k in clean)


def test_probability_zero_and_one() -> None:
    x = torch.randn(1, 4, 3, 3)
    never, always = FeatureJitter(20.0, 0.0), FeatureJitter(20.0, 1.0)
    for seed in range(50):
        torch.manual_seed(seed)
        assert never(x) is x
        assert not torch.equal(always(x), x)
    assert FeatureJitter(0.0, 1.0)(x) is x


def test_probability_a_half() -> None:
    torch.manual_seed(0)
    x = torch.ones(1, 2, 2, 2)
    jitter = FeatureJitter(1.0, 0.5)
    hits = sum(jitter(x) is not x for _ in range(2000))
    assert 900 < hits < 1100


def test_one_draw_decides_for_the_whole_batch() -> None:
    torch.manual_seed(0)
    x = torch.ones(8, 2, 2, 2)
    jitter = FeatureJitter(1.0, 0.5)
    for _ in range(20):
        changed = (jitter(x) != x).flatten(1).any(dim=1)
        assert bool(changed.all()) or not bool(changed.any())


@pytest.mark.parametrize("norm", ["channels", "rms"])
def test_deviation_as_measured(norm: str) -> None:
    """channels: scale * ||x|| / D, with D the channels of this input; rms: scale * sqrt(mean of squares)."""
    torch.manual_seed(3)
    channels, scale = 48, 20.0 if norm == "channels" else 0.5
    x = torch.randn(1, channels, 1, 3) * torch.tensor([0.1, 1.0, 10.0]).view(1, 1, 1, 3)
    noise = FeatureJitter(scale, 1.0, norm)(x.expand(4000, -1, -1, -1)) - x
    length = x.square().sum(dim=1).sqrt().flatten()
    rms = x.square().mean(dim=1).sqrt().flatten()
    expected = scale * length / channels if norm == "channels" else scale * rms
    measured = noise.std(dim=(0, 1)).flatten()
    assert torch.allclose(measured, expected, rtol=0.01)
    assert noise.mean(dim=(0, 1)).abs().flatten().lt(0.02 * expected).all()


def test_size_of_the_noise_for_b4() -> None:
    """Spec section 3: 20 / sqrt(2 C) times the RMS is 2.9, 2.5, 1.9, 1.1 for levels 1 to 4 with concat."""
    torch.manual_seed(4)
    for channels, times in ((24, 2.9), (32, 2.5), (56, 1.9), (160, 1.1)):
        x = torch.ones(200, 2 * channels, 2, 2)
        noise = FeatureJitter(20.0, 1.0)(x) - x
        assert float(noise.std()) == pytest.approx(times, abs=0.06)


def test_a_seed_repeats_it() -> None:
    x = torch.randn(2, 6, 5, 5)
    jitter = FeatureJitter(20.0, 0.5)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack([jitter(x) for _ in range(8)])

    assert torch.equal(run(7), run(7))
    assert not torch.equal(run(7), run(8))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_noise_is_standard_normal_in_the_memory_order_of_its_input(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.zeros(4, 8, 32, 32).contiguous(memory_format=layout)
    noise = noise_like(x)
    assert noise.shape == x.shape
    assert noise.stride() == x.stride()
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    flat = noise.permute(0, 2, 3, 1).reshape(-1, 8)
    assert (torch.corrcoef(flat.T) - torch.eye(8)).abs().max() < 0.06
