"""Our attention against torch's, with the same weights; the written-out kernel against torch's kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.attention import Attention, plain_attention
from unias.model.dropout import Dropout


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def both(width: int = 24, heads: int = 4) -> tuple[Attention, nn.MultiheadAttention]:
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.5)
    ours = Attention(width, heads)
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    return ours, theirs


def kept_out() -> Tensor:
    mask = torch.rand(7, 9) < 0.4
    mask[:, 0] = False
    return mask


@pytest.mark.parametrize("masked", [False, True])
def test_equals_torch_multihead_attention(masked: bool) -> None:
    ours, theirs = both()
    query, key, value = torch.randn(3, 7, 24), torch.randn(3, 9, 24), torch.randn(3, 9, 24)
    mask = kept_out() if masked else None
    expected = theirs(query, key, value, attn_mask=mask, need_weights=False)[0]
    assert torch.allclose(ours(query, key, value, mask), expected, atol=1e-5)
    if masked:
        assert not torch.allclose(ours(query, key, value), expected, atol=1e-2)  # the mask matters


@pytest.mark.parametrize("masked", [False, True])
def test_plain_kernel_equals_torch_kernel_with_gradients(masked: bool) -> None:
    shapes = ((2, 4, 7, 6), (2, 4, 9, 6), (2, 4, 9, 6))
    mask = ~kept_out() if masked else None
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    ours = plain_attention(*inputs, attn_mask=mask)
    theirs = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    assert torch.allclose(ours, theirs, atol=1e-12)
    weight = torch.randn_like(ours)
    for mine, yours in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(mine, yours, atol=1e-12)


def test_bfloat16_on_a_cpu_takes_the_plain_kernel_and_stays_close(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = both()
    x = torch.randn(2, 9, 24)
    exact = ours(x, x, x)

    def forbidden(*_: object, **__: object) -> Tensor:
        raise AssertionError("torch's kernel was called")

    monkeypatch.setattr(F, "scaled_dot_product_attention", forbidden)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(x, x, x)
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
    with pytest.raises(AssertionError, match="torch's kernel"):
        ours(x, x, x)


def test_dropout_only_in_training() -> None:
    layer = Attention(24, 4, dropout=0.5)
    x = torch.randn(2, 9, 24)
    assert not torch.equal(layer.train()(x, x, x), layer(x, x, x))
    assert torch.equal(layer.eval()(x, x, x), layer(x, x, x))
    dropped = plain_attention(*[torch.ones(1, 1, 50, 4)] * 3, drop=Dropout(0.5))
    assert dropped.std() > 0.01


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide a width of 24"):
        Attention(24, 5)
