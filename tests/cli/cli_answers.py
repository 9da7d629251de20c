"""What commands print, read strictly."""

from __future__ import annotations

import json
from typing import Any


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def strict(text: str) -> Any:
    """JSON without NaN, one object on one line."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return json.loads(text, parse_constant=reject)
