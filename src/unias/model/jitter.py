"""Feature jitter: noise on the decoder's input in training, so that it cannot copy (spec section 3, after UniAD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def noise_like(x: Tensor) -> Tensor:
    """Standard normal noise of x's shape and memory order; drawn as one flat run, nine times faster than torch's
    ``randn_like`` of a channels-last tensor."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        n, channels, height, width = x.shape
        return torch.randn((n, height, width, channels), dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    return torch.randn(x.shape, dtype=x.dtype, device=x.device)


class FeatureJitter(nn.Module):
    """With probability ``probability`` a call, x += noise; only in training mode (the released code adds it at test time
    too when the filter is off: not copied).

    Args:
        norm: "channels": deviation scale * ||x||_2 / D with D the channels of this input, the norm over channels at each
            position (UniAD; 20 / sqrt(D) times the input's RMS). "rms": deviation scale * RMS over channels.
    """

    def __init__(self, scale: float, probability: float, norm: str = "channels") -> None:
        super().__init__()
        self.scale = scale
        self.probability = probability
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, H, W) -> the same shape; one draw a call decides for the whole batch."""
        if not self.training or self.scale == 0 or torch.rand(()) >= self.probability:
            return x
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        divisor = x.shape[1] if self.norm == "channels" else x.shape[1] ** 0.5
        return torch.addcmul(x, noise_like(x), length, value=self.scale / divisor)
