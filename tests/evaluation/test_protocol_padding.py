"""Photos of several original sizes: padding counts in no figure."""

from __future__ import annotations

import numpy as np
import pytest

from unias.evaluation.protocol import PIXEL_KEYS, evaluate_class


def test_padding_counts_nowhere() -> None:
    rng = np.random.default_rng(3)
    maps = rng.random((6, 12, 10)).astype(np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[:4, 3:6, 2:7] = True
    maps[masks] += 0.3
    is_defect = masks.any(axis=(1, 2))
    scores = maps.max(axis=(1, 2)).astype(np.float64)
    plain = evaluate_class(maps, masks, is_defect, scores, 0.9)
    ends = ((0, 0), (0, 5), (0, 9))
    padded = evaluate_class(
        np.pad(maps, ends, constant_values=-np.inf),
        np.pad(masks, ends),
        is_defect,
        scores,
        0.9,
        np.pad(np.ones(maps.shape, dtype=bool), ends),
    )
    assert plain == pytest.approx(padded, nan_ok=True)
    assert all(key in padded for key in PIXEL_KEYS)
