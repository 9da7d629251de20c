"""What this machine can do at best: its rate at one large convolution, and the instructions that its processor has."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unias.runtime import cpu_has_bfloat16

CHANNELS, SIDE = 256, 112
MULTIPLY_ADDS = CHANNELS**2 * 9 * SIDE**2


class Convolution:
    """One 3x3 convolution, 256 channels to 256 at 112 x 112, as the finest level of ``paper`` has them; run by calling it."""

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(1, CHANNELS, SIDE, SIDE, generator=generator).to(device, dtype)
        self.kernel = (torch.randn(CHANNELS, CHANNELS, 3, 3, generator=generator) / 48).to(device, dtype)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """On a GPU one value is fetched, so that the work is done when this returns."""
        out = F.conv2d(self.image, self.kernel, padding=1)
        return out if out.device.type == "cpu" else out[0, 0, 0, 0].cpu()


def has_int8_products() -> bool:
    """True where the processor multiplies 8-bit numbers four at a time (AVX-512 VNNI, AVX-VNNI or AMX)."""
    names = ("_is_vnni_supported", "_is_amx_tile_supported")
    if any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names):
        return True
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(words & {"avx512_vnni", "avx_vnni", "asimddp"})


def instructions() -> dict[str, bool]:
    """Asked, never assumed."""
    return {"bfloat16": cpu_has_bfloat16(), "int8": has_int8_products()}
