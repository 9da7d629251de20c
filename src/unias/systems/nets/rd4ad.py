"""RD4AD (Deng and Li, CVPR 2022) for any backbone: one bottleneck of three levels, and a decoder that must rebuild them.

    features at strides 4, 8, 16 -> equal widths -> fused at 16 -> code at 32 -> decoder -> features at 4, 8, 16

The published net mirrors a Wide-ResNet-50-2 block by block. Backbones such as EfficientNet have no such mirror: here 1x1
convolutions bring the levels to w, 2w, 4w channels, basic residual blocks do the rest, and 1x1 convolutions lead back to the
backbone's channels. With ResNet-18's widths (w = 64) it is of the size of the published ResNet-18 form.

Legend: N photos, levels 2, 3, 4 at strides 4, 8, 16 with C_2, C_3, C_4 channels, w the width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = (2, 3, 4)


def down(channels: int, width: int) -> nn.Sequential:
    """3x3 convolution of stride 2, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


class Block(nn.Module):
    """A basic residual block. ``scale`` -1 halves the size with a strided convolution, 1 doubles it with a transposed one
    (2x2, stride 2), on the shortcut too; 0 leaves it."""

    def __init__(self, channels: int, width: int, scale: int = 0) -> None:
        super().__init__()
        self.first = _scaling(channels, width, scale, shortcut=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        changed = scale != 0 or channels != width
        self.shortcut = (
            nn.Sequential(_scaling(channels, width, scale, shortcut=True), nn.BatchNorm2d(width))
            if changed
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(y)) + self.shortcut(x))


def _scaling(channels: int, width: int, scale: int, shortcut: bool) -> nn.Module:
    if scale == 1:
        return nn.ConvTranspose2d(channels, width, 2, stride=2, bias=False)
    size = 1 if shortcut else 3
    return nn.Conv2d(channels, width, size, stride=2 if scale == -1 else 1, padding=size // 2, bias=False)


class Bottleneck(nn.Module):
    """{2, 3, 4: (N, C_k, ...)} -> the code (N, 8 w, s/32, s/32)."""

    def __init__(self, channels: Mapping[int, int], width: int, depth: int) -> None:
        super().__init__()
        self.equal = nn.ModuleDict({str(k): nn.Conv2d(channels[k], width * 2**i, 1) for i, k in enumerate(LEVELS)})
        self.from_2 = nn.Sequential(down(width, 2 * width), down(2 * width, 4 * width))
        self.from_3 = down(2 * width, 4 * width)
        rest = (Block(8 * width, 8 * width) for _ in range(depth - 1))
        self.stage = nn.Sequential(Block(12 * width, 8 * width, -1), *rest)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        second, third, fourth = (self.equal[str(k)](features[k]) for k in LEVELS)
        code: Tensor = self.stage(torch.cat([self.from_2(second), self.from_3(third), fourth], dim=1))
        return code


class Decoder(nn.Module):
    """The code -> {2, 3, 4: as the backbone's}; no skips."""

    def __init__(self, channels: Mapping[int, int], width: int, depth: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict()
        self.outputs = nn.ModuleDict()
        for i, level in reversed(list(enumerate(LEVELS))):
            own = width * 2**i
            rest = (Block(own, own) for _ in range(depth - 1))
            self.stages[str(level)] = nn.Sequential(Block(2 * own, own, 1), *rest)
            self.outputs[str(level)] = nn.Conv2d(own, channels[level], 1)

    def forward(self, code: Tensor) -> dict[int, Tensor]:
        outputs: dict[int, Tensor] = {}
        x = code
        for key, stage in self.stages.items():
            x = stage(x)
            outputs[int(key)] = self.outputs[key](x)
        return outputs


class RD4AD(nn.Module):
    """Bottleneck and decoder; the encoder is the frozen backbone.

    Args:
        channels: {2: C_2, 3: C_3, 4: C_4}.
        width: w.
        depth: blocks a stage.
    """

    def __init__(self, channels: Mapping[int, int], *, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, width, depth)
        self.decoder = Decoder(channels, width, depth)

    def forward(self, features: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """features: {level: (N, C_k, s / 2^k, s / 2^k)}, s a multiple of 32 -> the same, rebuilt."""
        outputs: dict[int, Tensor] = self.decoder(self.bottleneck(features))
        return outputs


def whole_map_loss(features: Mapping[int, Tensor], outputs: Mapping[int, Tensor]) -> Tensor:
    """Per level 1 - cosine of a photo's whole flattened map, mean over the batch, levels added: the released loss; the paper's,
    place by place, trains worse."""
    apart = [
        (1 - F.cosine_similarity(features[k].flatten(1), outputs[k].flatten(1), dim=1)).mean() for k in sorted(outputs)
    ]
    return torch.stack(apart).sum()


def anomaly_map(features: Mapping[int, Tensor], outputs: Mapping[int, Tensor], size: int) -> Tensor:
    """(N, size, size): per level 1 - cosine over channels, bilinear (align_corners=True), added; to be blurred."""
    maps = [
        F.interpolate(
            1 - F.cosine_similarity(features[k], outputs[k], dim=1)[:, None],
            size=(size, size),
            mode="bilinear",
            align_corners=True,
        )
        for k in sorted(outputs)
    ]
    return torch.cat(maps, dim=1).sum(dim=1)
