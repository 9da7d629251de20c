"""torch.export: the graph for another process with torch, without this package."""

from __future__ import annotations

from pathlib import Path

from unias.export.graph import capture, quiet
from unias.inference.pt2 import write_program
from unias.maps.detector import Detector
from unias.systems.detector import SystemDetector


def write_torch(detector: Detector | SystemDetector, pixels: str, home: Path) -> None:
    """graph.pt2 in the folder."""
    program = capture(detector, pixels)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where this package lies on this machine is nobody's business
    with quiet():
        write_program(program, home / "graph.pt2")
