"""The most memory that this process has held."""

from __future__ import annotations

import platform
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory() -> float | None:
    """MiB of physical memory at the highest, or None where the system does not tell.

    On Linux VmHWM, which a program starts at nothing: ``resource.getrusage`` would hand on the peak of the process that
    started this one.
    """
    system = platform.system()
    if system == "Linux":
        try:
            lines = STATUS.read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
        if found and found[0] > 0:
            return found[0]
    if system in ("Linux", "Darwin"):
        import resource

        unit = 2**20 if system == "Darwin" else 2**10  # bytes there, KiB here
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return None
