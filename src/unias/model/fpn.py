"""The pixel decoder: a feature pyramid, top-down, with a transformer on its coarsest level (spec section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.blocks import AttentionStep, FeedForwardStep
from unias.model.positions import sine_positions


class EncoderLayer(nn.Module):
    """Self-attention with sine positions on query and key, then feed-forward; no mask, no norm after the last layer."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.attention = AttentionStep(width, heads, dropout, norm_first)
        self.feed_forward = FeedForwardStep(width, ffn, dropout, norm_first)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        out: Tensor = self.feed_forward(self.attention(x, None, position, position))
        return out


class NormedConv(nn.Module):
    """Convolution without bias, then GroupNorm of 32 groups (or as many as the width allows).

    In training the norm sees one channel after the other in memory: on CPUs its backward pass is then three to forty times
    faster. In use what comes in channels last stays so: no copy before the norm, none before the next convolution.
    """

    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, size, padding=size // 2, bias=False)
        self.norm = nn.GroupNorm(32 if width % 32 == 0 else 8, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        out: Tensor = self.norm(x.contiguous() if self.training else x)
        return out


class PixelDecoder(nn.Module):
    """{level: (N, channels[level], H, W)} -> {level: y_k of widths[level] channels at the same size}.

    Level 4: 1x1 conv, encoder layers, 3x3 conv without norm, ReLU.
    Levels 3, 2, 1: y_k = ReLU(GN(conv3x3(GN(conv1x1(input_k)) + up(y_k+1)))), bilinear, align_corners=False.
    Where widths differ between levels (the small model) a 1x1 convolution brings y_k+1 to the finer level's width.
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        widths: Mapping[int, int],
        grid: int,
        encoder_layers: int,
        heads: int,
        ffn: int,
        dropout: float,
        norm_first: bool,
        finer_levels: Sequence[int] = (3, 2, 1),
    ) -> None:
        super().__init__()
        top = widths[4]
        self.finer_levels = tuple(finer_levels)
        self.input_projection = nn.Conv2d(channels[4], top, 1)
        self.encoder = nn.ModuleList(EncoderLayer(top, heads, ffn, dropout, norm_first) for _ in range(encoder_layers))
        self.top_output = nn.Conv2d(top, top, 3, padding=1, bias=False)
        self.register_buffer("position", sine_positions(top, grid), persistent=False)
        self.lateral = nn.ModuleDict({str(k): NormedConv(channels[k], widths[k], 1) for k in self.finer_levels})
        self.output = nn.ModuleDict({str(k): NormedConv(widths[k], widths[k], 3) for k in self.finer_levels})
        self.narrow = nn.ModuleDict(
            {
                str(k): nn.Identity() if widths[k + 1] == widths[k] else nn.Conv2d(widths[k + 1], widths[k], 1)
                for k in self.finer_levels
            }
        )

    def encode(self, top: Tensor) -> Tensor:
        """The transformer on level 4's input: (N, channels[4], grid, grid) -> (N, widths[4], grid, grid)."""
        x = self.input_projection(top)
        n, width, height, columns = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.encoder:
            tokens = layer(tokens, self.position)
        encoded: Tensor = tokens.transpose(1, 2).reshape(n, width, height, columns)
        return encoded

    def forward(self, inputs: Mapping[int, Tensor]) -> dict[int, Tensor]:
        outputs = {4: F.relu(self.top_output(self.encode(inputs[4])))}
        for level in self.finer_levels:
            key = str(level)
            lateral = self.lateral[key](inputs[level])
            coarser = self.narrow[key](outputs[level + 1])  # a 1x1 convolution commutes with the upsampling
            lifted = F.interpolate(coarser, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            outputs[level] = F.relu_(self.output[key](lateral + lifted))  # in place: these maps are the largest
        return outputs
