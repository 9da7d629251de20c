"""How many multiply-adds a call takes: convolutions and matrix products, as torch's own counter sees them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(call: Callable[[], object]) -> int:
    """Of everything that ``call`` does. Attention is run as matrix products: torch does not count its fused kernel on CPUs."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops()) // 2
