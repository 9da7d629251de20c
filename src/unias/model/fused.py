"""Exact composed forms of the model's linear stretches: reconstruction heads and patch embedding (issue 4; spec 5 and 8).

Legend: N batch, C channels out, D width in, G grid cells a side, H = G * scale places a side, S / T taps along columns / rows.

A head upsamples and then convolves three times with nothing between. Three 3x3 kernels are one 7x7 kernel, and a tap's channel
mix commutes with the upsampling, for one acts on channels and the other on places. So all taps are mixed on the grid by ONE 1x1
convolution, D -> S * T * C, and then spread over the map by two matrix products, z -> M z M^T, with

    M[i, (g, t)] = weight of grid cell g in the upsampled map's place i + t - 3, and 0 where that is outside the map,

the sum over taps folded in. With padding "once" (zeros round the upsampled map, then valid convolutions) this is all.

With padding "each" a path of three steps counts only if no step ends outside the map. Along one axis only the first two and
the last two places have paths that leave and come back: ``FRAME_TAPS`` lists them, three taps an edge, and M subtracts them.
Rows and columns both do so, which gives every one of the 5 x 5 position classes (first, second, inner, last but one, last) its
own kernel: inner - lost over a row edge - lost over a column edge + lost over both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.dropout import Dropout

Pairs = Sequence[Sequence[tuple[int, int]]]
ComposableType = TypeVar("ComposableType", bound="Composable")

# Along one axis; a step is 0, 1, 2 for -1, 0, +1. STATES: the (third, second) convolution's steps that lead to each place two
# steps away, offset -2 ... +2; of the frame also "out over the low edge and back" and "out over the high edge and back".
STATES: Pairs = [[(a, b) for a in range(3) for b in range(3) if a + b == e] for e in range(5)]
FRAME_STATES: Pairs = [*STATES, [(0, 2)], [(2, 0)]]
# TAPS: the (state, first convolution's step) that lead to each place three steps away, offset -3 ... +3. FRAME_TAPS adds what
# leaves the map on its way: from the first place to the first, from it to the second, from the second to the first; mirrored.
TAPS: Pairs = [[(e, c) for e in range(5) for c in range(3) if e + c == t] for t in range(7)]
FRAME_TAPS: Pairs = [*TAPS, [(1, 2), (5, 1)], [(5, 2)], [(0, 2)], [(3, 0), (6, 1)], [(6, 0)], [(4, 0)]]
# Which taps read which grid cells: the frame's read no further than the map's second place, so no further than two cells.
GROUPS = ((slice(0, 7), slice(None)), (slice(7, 10), slice(0, 2)), (slice(10, 13), slice(-2, None)))
# Which taps carry which position class of the bias, as in the kernel: (tap, class, factor), classes in the order above.
BIAS = ((3, 2, 1), (7, 2, 1), (7, 0, -1), (9, 2, 1), (9, 1, -1), (10, 2, 1), (10, 4, -1), (12, 2, 1), (12, 3, -1))


class Composable(nn.Module):
    """A module with a plain form, which defines it, and a composed form that gives the same numbers to rounding.

    Attributes:
        form: "auto" = fused where ``fuse`` was called, else composed in training where that takes fewer multiply-adds, else
            plain; "plain" or "composed" = always that one (yardstick, tests).
    """

    form: str = "auto"

    def fuse(self, grid: int) -> None:
        """Compose once, for inference on ``grid`` x ``grid`` tokens. The weights stay, and so does the state_dict."""
        raise NotImplementedError

    def unfuse(self) -> None:
        """Forget what ``fuse`` composed."""
        raise NotImplementedError

    def train(self: ComposableType, mode: bool = True) -> ComposableType:
        """As in every module; weights that are about to change leave nothing composed behind."""
        if mode:
            self.unfuse()
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        self.unfuse()
        super()._load_from_state_dict(*arguments, **keywords)


def use_form(model: nn.Module, form: str) -> None:
    """Choose the form of every head, patch embedding and dropout in ``model``: auto, plain or composed."""
    for module in model.modules():
        if isinstance(module, (Composable, Dropout)):
            module.form = form


class FusedHead(nn.Module):
    """A head with its weights composed: (N, D, G, G) -> (N, C, H, H). Nothing of it is saved.

    Args:
        kernel, bias: of ``compose_head``.
        spread: of ``spread_matrix``, which fixes G.
    """

    kernel: Tensor
    bias: Tensor
    spread: Tensor

    def __init__(self, kernel: Tensor, bias: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return apply_head(x, self.kernel, self.bias, self.spread)


class FusedPatch(nn.Module):
    """A patch embedding with its weights composed: (N, C, G * size, G * size) -> (N, D, G, G). Nothing of it is saved."""

    kernel: Tensor
    bias: Tensor

    def __init__(self, kernel: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.bias, stride=self.kernel.shape[-1])


def compose_head(convolutions: Sequence[nn.Conv2d], padding: str) -> tuple[Tensor, Tensor]:
    """Three 3x3 convolutions, in the order they are applied -> (kernel (S, T, C, D), bias (S, T, C)); S = T = 7, or 13 for
    padding "each".

    From the output side, where channels are few: (third o second) o first. In float32 or better, whatever autocast says.
    """
    (w1, b1), (w2, b2), (w3, b3) = (_exact(convolution) for convolution in convolutions)
    each = padding == "each"
    with torch.autocast(w1.device.type, enabled=False):
        if each:
            kernel = _join(_join(w3, w2, FRAME_STATES), w1, FRAME_TAPS)
        else:
            kernel = F.conv_transpose2d(F.conv_transpose2d(w3, w2), w1)
        floor = b1.view(1, -1, 1, 1).expand(1, -1, 5, 5)  # of a black map; 5 x 5 places are all position classes
        floor = F.conv2d(F.conv2d(floor, w2, b2, padding=int(each)), w3, b3, padding=int(each))[0]
        table = floor.new_zeros(kernel.shape[-1], floor.shape[-1])
        if each:
            for tap, position, factor in BIAS:
                table[tap, position] = factor
        else:
            table[3, 0] = 1
        bias = table @ floor @ table.T
    return kernel.permute(3, 2, 0, 1).contiguous(), bias.permute(2, 1, 0).contiguous()


def _exact(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias in float32 or better."""
    assert convolution.bias is not None
    dtype = torch.promote_types(convolution.weight.dtype, torch.float32)
    return convolution.weight.to(dtype), convolution.bias.to(dtype)


def _join(outer: Tensor, inner: Tensor, pairs: Pairs) -> Tensor:
    """outer (C, D, A, A) after inner (D, E, 3, 3) -> (C, E, len(pairs), len(pairs)): entry k of an axis is the sum over the
    (entry of outer, step of inner) of ``pairs[k]``."""
    table = torch.zeros(3 * outer.shape[-1], len(pairs), dtype=outer.dtype)
    for column, members in enumerate(pairs):
        for entry, step in members:
            table[3 * entry + step, column] = 1
    table = table.to(outer.device)
    products = F.conv_transpose2d(outer, inner, stride=3)  # every pair by itself, at 3 * entry + step
    return torch.einsum("oiab,as,bt->oist", products, table, table)


def spread_matrix(grid: int, scale: int, padding: str, like: Tensor) -> Tensor:
    """M: (H, 7 G), or (H, 7 G + 12) for padding "each"; columns ordered as ``apply_head`` makes them: by group of taps, then
    by grid cell, then by tap. Bilinear with align_corners=True: the weights are torch's own."""
    places = grid * scale
    dtype = torch.promote_types(like.dtype, torch.float32)
    eye = torch.eye(grid, dtype=dtype, device=like.device)
    with torch.autocast(like.device.type, enabled=False):
        lift = F.interpolate(eye[None], size=places, mode="linear", align_corners=True)[0].T  # (H, G)
    full = F.pad(lift, (0, 0, 3, 3)).unfold(0, places, 1).permute(2, 1, 0)  # (H, G, 7)
    if padding == "once":
        return full.flatten(1)
    low = torch.zeros(places, 2, 3, dtype=dtype, device=like.device)
    low[0, :, 0] = -lift[0, :2]
    low[0, :, 1] = -lift[1, :2]
    low[1, :, 2] = -lift[0, :2]
    return torch.cat([full.flatten(1), low.flatten(1), low.flip(0, 1).flatten(1)], dim=1)


def apply_head(x: Tensor, kernel: Tensor, bias: Tensor, spread: Tensor) -> Tensor:
    """(N, D, G, G) -> (N, C, H, H), channels last in memory: mix on the grid, spread along columns, then along rows."""
    channels, width = kernel.shape[2:]
    groups = GROUPS if kernel.shape[0] > 7 else GROUPS[:1]
    places = spread.shape[0]
    bands: list[Tensor] = []
    for row_taps, row_cells in groups:
        strips: list[Tensor] = []
        for column_taps, column_cells in groups:
            weight = kernel[column_taps, row_taps].reshape(-1, width, 1, 1)
            shift = bias[column_taps, row_taps].reshape(-1)
            mixed = F.conv2d(x[:, :, row_cells, column_cells], weight, shift).permute(0, 2, 3, 1)
            _, rows, columns, count = mixed.shape
            taps = row_taps.stop - row_taps.start
            strips.append(mixed.reshape(-1, columns * count // (taps * channels), taps * channels))
        band = spread @ (torch.cat(strips, dim=1) if len(strips) > 1 else strips[0])  # (N rows, H, T C)
        bands.append(
            band.view(-1, rows, places, taps, channels).transpose(2, 3).reshape(-1, rows * taps, places * channels)
        )
    out = spread @ (torch.cat(bands, dim=1) if len(bands) > 1 else bands[0])  # (N, H, H C)
    return out.view(-1, places, places, channels).permute(0, 3, 1, 2)


def composed_head_is_cheaper(batch: int, width: int, channels: int, grid: int, scale: int, padding: str) -> bool:
    """True where composing at every step and applying takes fewer multiply-adds than upsampling and convolving."""
    if scale == 1:
        return False  # nothing is upsampled: 49 taps cost more than three times 9
    places = grid * scale
    plain = batch * places**2 * 9 * (2 * width**2 + width * channels)
    entries = 9 * 9 + (9 * 25 if padding == "once" else 9 * 49)
    mixed = 49 * grid**2 if padding == "once" else (7 * grid + 12) ** 2
    spread = 7 * grid * places * (7 * grid + places)
    return entries * channels * width**2 + batch * channels * (mixed * width + spread) < plain


def compose_patch(patch: nn.Conv2d, project: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """A strided convolution (B, C, size, size) and the 1x1 convolution (D, B) after it -> (kernel (D, C, size, size), bias)."""
    (inner, inner_bias), (outer, outer_bias) = _exact(patch), _exact(project)
    with torch.autocast(inner.device.type, enabled=False):
        outer = outer.flatten(1)
        kernel = (outer @ inner.flatten(1)).view(-1, *inner.shape[1:])
        return kernel, outer_bias + outer @ inner_bias


def composed_patch_is_cheaper(batch: int, tokens: int, patch: nn.Conv2d, project: nn.Conv2d) -> bool:
    """True where composing at every step and convolving once takes fewer multiply-adds than convolving twice."""
    between, inputs = patch.weight.shape[0], patch.weight[0].numel()
    width = project.weight.shape[0]
    plain = batch * tokens * between * (inputs + width)
    return width * between * inputs + batch * tokens * width * inputs < plain
