"""How long ``unias --help`` takes, against importing torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from unias.bench.rounds import ONCE, interleave, ratio, typical
from unias.errors import UniasError

COMMANDS: dict[str, tuple[str, ...]] = {"help": ("-m", "unias", "--help"), "torch": ("-c", "import torch")}


def measure_startup(rounds: int) -> dict[str, Any]:
    """Seconds of wall time of both, each in processes of its own, in turn; ``share`` = help over torch."""
    done = interleave({name: _process(words) for name, words in COMMANDS.items()}, rounds, ONCE)
    seconds = {name: typical(done, name) for name in COMMANDS}
    return {"seconds": seconds, "share": 1 / ratio(done, "help", "torch"), "rounds": rounds}


def _process(words: Sequence[str]) -> Callable[[], object]:
    def run() -> None:
        done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
        if done.returncode != 0:
            raise UniasError(f"bench: {' '.join(words)} ended with exit code {done.returncode}.")

    return run
