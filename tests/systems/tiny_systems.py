"""Settings with which each system beside UniAS trains in a few seconds."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

TINY: dict[str, dict[str, Any]] = {
    "patchcore": {"most": 50},
    "draem": {"reconstructive": 4, "discriminative": 4, "side": 64},
    "destseg": {"width": 8, "side": 64, "first": 0.5},
    "rd4ad": {"width": 8, "depth": 1},
    "uniad": {"width": 32, "ffn": 32, "layers": 1, "window": 3},
    "hvq": {"width": 32, "ffn": 32, "codes": 8},
}
needs_anomalib = pytest.mark.skipif(importlib.util.find_spec("anomalib") is None, reason="needs unias[bench]")
