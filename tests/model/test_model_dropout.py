"""Our dropout: as many places as torch's, the same mean, its gradient the mask, and torch's own where it is asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unias.model.attention import Attention
from unias.model.dropout import STEPS, Dropout
from unias.model.fused import use_form


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chance_and_mean(chance: float, dtype: torch.dtype) -> None:
    count = 400_001  # no multiple of four
    out = Dropout(chance)(torch.ones(count, dtype=dtype))
    assert out.dtype == dtype
    dropped = float((out == 0).float().mean())
    assert abs(dropped - chance) < 4 * (chance * (1 - chance) / count) ** 0.5
    kept = out[out != 0]
    assert len(kept.unique()) == 1
    assert float(kept[0]) == pytest.approx(1 / (1 - chance), rel=1e-4 if dtype == torch.float32 else 4e-3)


def test_neighbours_are_independent() -> None:
    """Four places share a word of random bits."""
    mask = (Dropout(0.5)(torch.ones(100_000, 4)) != 0).float()
    correlation = torch.corrcoef(mask.T) - torch.eye(4)
    assert correlation.abs().max() < 4 / 100_000**0.5


def test_gradient_is_the_mask() -> None:
    x = torch.randn(3, 5, 7, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    assert x.grad is not None
    kept = round(0.7 * STEPS)
    assert torch.allclose(x.grad, (out != 0) * (STEPS / kept))


def test_the_seed_decides() -> None:
    x, drop = torch.randn(64, 33), Dropout(0.1)
    first = drop(x)
    second = drop(x)
    torch.manual_seed(0)
    torch.randn(64, 33)
    assert torch.equal(drop(x), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_in_use_or_at_no_chance() -> None:
    x = torch.randn(10, 10)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1e-7)(x), x / (1 - 1e-7))  # less than a step of 16 bits: torch's own


def test_plain_form_is_torchs() -> None:
    x, attention = torch.randn(2, 6, 8), Attention(8, 2, 0.4)
    use_form(attention, "plain")
    assert not attention.drop.is_quick(x)
    torch.manual_seed(3)
    ours = attention.drop(x)
    torch.manual_seed(3)
    assert torch.equal(ours, F.dropout(x, 0.4))
    use_form(attention, "auto")
    assert attention.drop.is_quick(x)
    assert not attention.eval().drop.is_quick(x)


def test_attention_drops_weights_in_both_forms() -> None:
    """Over many draws both forms come to the same mean and the same spread."""
    attention, x = Attention(8, 2, 0.5), torch.randn(1, 6, 8)
    found = {}
    for form in ("plain", "auto"):
        use_form(attention, form)
        with torch.no_grad():
            draws = torch.stack([attention(x, x, x) for _ in range(4000)])
        found[form] = draws.mean(0), draws.std(0)
    (mean, spread), (own_mean, own_spread) = found["plain"], found["auto"]
    assert (mean - own_mean).abs().max() < 5 * float(spread.max()) * (2 / 4000) ** 0.5
    assert torch.allclose(spread, own_spread, rtol=0.1)
