"""Ask ``unias.bench.probe`` for one measurement in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from unias.files import json_ready

Answer = dict[str, Any]


def in_fresh_process(task: str, **request: Any) -> Answer:
    """The answer, or {"fault": why there is none}: a measurement that fails is a cell that says so."""
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "unias.bench.probe"],
        input=json.dumps(json_ready({"task": task, **request})),
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return read_answer(done.returncode, done.stdout, done.stderr)


def read_answer(code: int, out: str, err: str) -> Answer:
    """The last line of output is the answer; a process that died says how."""
    lines = out.splitlines()
    if code == 0 and lines:
        try:
            answer = json.loads(lines[-1])
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
    if code < 0:
        return {"fault": f"failed: killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")}
    said = [line.strip() for line in err.splitlines() if line.strip()]
    return {"fault": f"failed: {said[-1] if said else f'exit code {code}'}"}


def fault_of(answer: Mapping[str, Any]) -> str | None:
    """Why there is no measurement."""
    fault = answer.get("fault")
    return None if fault is None else str(fault)
