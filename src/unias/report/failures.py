"""Failure cases (supplement, Fig. 2): which photos went worst, and why.

Legend: N photos of one product, H x W the size of maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

NEAR = 8  # pixels round a true region that belong to it here: maps are smooth, and edges of masks are rough
TINY = 1e-12
LEAST = 1e-6  # badness of a verdict that is wrong for another reason than its score

MISSED = "missed: the defect stays below the cut"
ELSEWHERE = "false alarm on background: another place stands out more than the defect"
FALSE_ALARM = "false alarm: a good photo above the cut"
STRANGER = "false alarm: a good photo that was taken for no known product, or for another"
DOUBTFUL_GOOD = "label doubtful: a good photo that looks worse than most defective ones"
DOUBTFUL_DEFECT = "label doubtful: nothing stands out where the truth marks a defect"


class Trace(NamedTuple):
    """What a map holds of a photo's truth: its highest value in the true regions (NaN without any), its highest away from
    them, its median."""

    inside: float
    outside: float
    usual: float


class Failure(NamedTuple):
    """place: of the photo among the N. why: in words. badness: above 0; by how much it went wrong (log of a ratio)."""

    place: int
    why: str
    badness: float


def traced(anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> Trace:
    """Both H x W."""
    usual = float(np.median(anomaly_map))
    if mask is None or not mask.any():
        return Trace(math.nan, float(anomaly_map.max()), usual)
    wide = torch.from_numpy(mask)[None, None].float()
    near = F.max_pool2d(wide, 2 * NEAR + 1, stride=1, padding=NEAR)[0, 0].numpy() > 0
    away = anomaly_map[~near]
    return Trace(float(anomaly_map[near].max()), float(away.max()) if away.size else 0.0, usual)


def failures(
    is_defect: NDArray[np.bool_],
    scores: NDArray[np.float64],
    cut: float,
    traces: Sequence[Trace],
    failed: NDArray[np.bool_],
    count: int = 10,
) -> list[Failure]:
    """The worst photos first, at most ``count``, and only those that went wrong.

    A good photo went wrong where it failed; a defective one where it passed, or where another place of it stands out more than
    its defect. Scores and maps are on the scale of ``cut``; a verdict can rest on something else: on no known product, on another
    product's cut.

    Args:
        is_defect, scores, failed: (N,), truth, scores, verdicts. traces: one a photo.
    """
    if math.isnan(cut) or not len(scores):
        return []
    usual_defect = float(np.median(scores[is_defect])) if is_defect.any() else math.inf
    found = []
    for index, trace in enumerate(traces):
        score = float(scores[index])
        if not is_defect[index]:
            if failed[index]:
                why = FALSE_ALARM if score > cut else STRANGER
                why = DOUBTFUL_GOOD if score > max(usual_defect, cut) else why
                found.append(Failure(index, why, max(LEAST, _log(score, cut))))
            continue
        seen = score if math.isnan(trace.inside) else trace.inside
        elsewhere = 0.0 if math.isnan(trace.inside) else trace.outside
        misled = elsewhere > seen and elsewhere > cut
        bad = _log(max(cut, elsewhere), seen)
        if not failed[index] or (misled and bad > 0):
            why = DOUBTFUL_DEFECT if seen <= trace.usual else ELSEWHERE if misled else MISSED
            found.append(Failure(index, why, max(LEAST, bad)))
    return sorted(found, key=lambda one: (-one.badness, one.place))[:count]


def _log(value: float, against: float) -> float:
    return math.log(max(value, TINY) / max(against, TINY))
