"""What the model's own cuts promised, and what they did: false alarms with their interval, misses, by product and over all.

Legend: N test photos of one product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unias.calibration.cuts import Cut
from unias.calibration.ranks import expected_failures, rate_interval

MIXED = "all mixed"
SURE = 0.99


def promise_figures(
    cut: Cut,
    is_defect: NDArray[np.bool_],
    failed: NDArray[np.bool_],
    scores: NDArray[np.float64],
    folded: bool = False,
) -> dict[str, Any]:
    """One product.

    Args:
        is_defect, failed, scores: (N,), truth, verdicts, and what they rest on.
        folded: the cut is of models of folds, which promise up to twice the rate and follow no law that could be tested.

    Returns counts, the realised rate with its 95% interval (Clopper-Pearson), what the cut promised (NaN where nothing was held
    out), and between how many false alarms must lie with 99% where the promise holds; ``inside`` says whether they do.
    ``caught``: share of the defective photos that fail; ``caught_by_labels``: by the lowest cut that fails no more good photos,
    which labels alone can find.
    """
    good, alarms = int((~is_defect).sum()), int(failed[~is_defect].sum())
    low, high = rate_interval(alarms, good)
    least, most = (0, good) if folded else expected_failures(cut.promise, good, SURE)
    defective = int(is_defect.sum())
    falling = np.sort(scores[~is_defect])[::-1]
    lowest = falling[alarms] if alarms < good else -np.inf
    return {
        "good": good,
        "false_alarms": alarms,
        "rate": alarms / good if good else float("nan"),
        "rate_low": low,
        "rate_high": high,
        "promised": cut.promise.rate if cut.held_out else float("nan"),
        "bound": cut.promise.bound,
        "folded": folded,
        "held_out": cut.held_out,
        "provisional": cut.provisional,
        "least": least,
        "most": most,
        "inside": least <= alarms <= most,
        "defective": defective,
        "caught": float(failed[is_defect].mean()) if defective else float("nan"),
        "caught_by_labels": float((scores[is_defect] > lowest).mean()) if defective else float("nan"),
        "missed": int((is_defect & ~failed).sum()),
    }


def mixed_figures(products: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All products' photos together; promised: the mean promise of those that promise anything, weighted by good photos."""
    sums = {
        key: sum(int(one[key]) for one in products.values()) for key in ("good", "false_alarms", "defective", "missed")
    }
    good, alarms = sums["good"], sums["false_alarms"]
    low, high = rate_interval(alarms, good)
    promising = [one for one in products.values() if one["promised"] == one["promised"] and one["good"]]
    weight = sum(one["good"] for one in promising)
    promised = sum(one["promised"] * one["good"] for one in promising) / weight if weight else float("nan")
    return {
        **sums,
        "rate": alarms / good if good else float("nan"),
        "rate_low": low,
        "rate_high": high,
        "promised": promised,
    }


HEADINGS = (
    "product",
    "held out",
    "false alarms",
    "rate (95% interval)",
    "promised on average",
    "expected (99%)",
    "missed",
    "failed, and by labels",
)
MEANING = (
    "False alarms: good test photos that the model's own cuts fail; missed: defective ones that they pass. Expected: where "
    "they lie with 99% if test photos are drawn as the held-out ones were (beta-binomial law); outside it they are not. By "
    "labels: what share of the defective photos the lowest cut fails that fails no more good ones."
)


def promise_rows(products: Mapping[str, Mapping[str, Any]], mixed: Mapping[str, Any]) -> list[list[str]]:
    """One row a product and one for all mixed, under ``HEADINGS``."""
    rows = []
    for name, one in [*products.items(), (MIXED, mixed)]:
        expected = ""
        if one.get("folded"):
            expected = "by folds: up to twice"
        elif "least" in one and one["held_out"]:
            expected = f"{one['least']} to {one['most']}" + ("" if one["inside"] else ": outside")
        rows.append(
            [
                name,
                str(one.get("held_out", "")) + (" (provisional)" if one.get("provisional") else ""),
                f"{one['false_alarms']} of {one['good']}",
                f"{_percent(one['rate'])} ({_percent(one['rate_low'])} to {_percent(one['rate_high'])})",
                _percent(one["promised"]),
                expected,
                f"{one['missed']} of {one['defective']}",
                f"{_percent(one['caught'])}, {_percent(one['caught_by_labels'])}" if "caught" in one else "",
            ]
        )
    return rows


def promises_markdown(products: Mapping[str, Mapping[str, Any]], mixed: Mapping[str, Any]) -> str:
    """A table for people."""
    lines = [f"| {' | '.join(HEADINGS)} |", "| --- |" + " ---: |" * (len(HEADINGS) - 1)]
    for row in promise_rows(products, mixed):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join([*lines, "", MEANING]) + "\n"


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}%"
