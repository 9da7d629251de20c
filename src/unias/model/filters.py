"""Feature filtering: what the decoder sees and what it must reconstruct (spec section 2, supplement B.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """A size x size Gaussian that sums to 1; float32, or as exact as float64 gives before the cast."""
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum()).to(torch.float32)


class GaussianBlur(nn.Module):
    """Blur each channel of (N, C, H, W) by itself, reflect padding (the edge itself is not repeated).

    Written as two one-dimensional passes: the kernel is separable, so this equals the outer product to rounding.
    """

    line: Tensor

    def __init__(self, size: int = 3, sigma: float = 1.0) -> None:
        super().__init__()
        self.size = size
        line = gaussian_kernel(size, sigma).to(torch.float64).sum(dim=0)
        self.register_buffer("line", (line / line.sum()).to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        channels, pad = x.shape[1], self.size // 2
        line = self.line.to(x.dtype)
        x = F.pad(x, (pad, pad, pad, pad), mode="reflect")
        x = F.conv2d(x, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(x, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


class FeatureFilter(nn.Module):
    """(N, C, H, W) -> (decoder input, reconstruction target).

    gaussian_concat: input = concat[G(f), f - G(f)] with 2C channels, target = G(f). Others: input = target, C channels.
    average: 3x3, stride 1, zero padding 1, the zeros counted (as in the released code's commented-out lines).
    """

    def __init__(self, kind: str = "gaussian_concat") -> None:
        super().__init__()
        self.kind = kind
        self.blur = GaussianBlur(3, 1.0)

    @property
    def widening(self) -> int:
        """Channels of the decoder input over channels of the feature."""
        return 2 if self.kind == "gaussian_concat" else 1

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "none":
            return feature, feature
        if self.kind == "average":
            smooth = F.avg_pool2d(feature, 3, stride=1, padding=1, count_include_pad=True)
            return smooth, smooth
        smooth = self.blur(feature)
        if self.kind == "gaussian":
            return smooth, smooth
        return torch.cat([smooth, feature - smooth], dim=1), smooth


class Standardize(nn.Module):
    """Per channel to mean 0 and deviation 1, by statistics of the training photos (spec section 13).

    Lite backbones end their stages in a linear layer: their channels are not on one scale and plain MSE stalls.
    The buffers belong to the model; until they are set they change nothing.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, feature: Tensor) -> Tensor:
        return (feature - self.mean.view(1, -1, 1, 1)) / self.deviation.view(1, -1, 1, 1)
