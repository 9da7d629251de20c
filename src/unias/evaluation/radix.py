"""A histogram of float32 scores that is made finer only where a figure depends on it (issue 4, item 6).

Scores are counted by the upper 16 bits of their key (``keys``), 65,536 cells. A cell is split into 256 by a further reading
of the photos, and each of those once more; then it holds ONE score. Nothing is sorted and nothing sampled, so the counts at
a cell's border are exact, and what the order inside a cell can do to a figure has a bound that is known:

- Average precision: an anomalous pixel's precision lies between (T + 1) / (T + 1 + F + n) and (T + p) / (T + p + F), where
  the cell holds p anomalous and n other pixels and T and F lie above it.
- AUROC: of the cell's p n pairs none to all may be in the wrong order; AUPRO: the curve crosses the rectangle of the cell
  from one corner to the other, above or below the diagonal.
- Precision + recall and F1 at a threshold in the cell: at most what T + p and F give, and at least what T + p and F + n
  give at its lowest anomalous score.

Figures are the middle between their bounds, the error is at most half their distance. A cell of one score has none.

Legend: C cells with a pixel in them, ascending; P anomalous pixels, N others, in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unias.data.split import spaced
from unias.evaluation.keys import Ints, Keys, keys_of, scores_of
from unias.evaluation.metrics import NAN, Best, Floats, area_until
from unias.evaluation.spool import Photo, chunks

FAN = 256  # cells that a split gives
SPLITS = 2048  # cells split in one reading at most
MAX_FPR = 0.3  # where the curve of AUPRO ends


class Ranked(NamedTuple):
    """Ranking figures, each within ``error`` of the exact one; NaN where undefined."""

    pap: float
    auroc: float
    aupro: float
    error: float


@dataclass(frozen=True)
class Cells:
    """The histogram, highest scores last.

    Attributes:
        low: (C,), the lowest key that falls into the cell, ascending.
        rest: (C,), how many low bits of the key are not told apart: 16, 8 or 0.
        positives, negatives: (C,), anomalous and other pixels.
        overlap: (C,), sum over the anomalous pixels of 1 / size of their region.
    """

    low: Keys
    rest: Ints
    positives: Ints
    negatives: Ints
    overlap: Floats

    @classmethod
    def counted(cls, photos: Iterable[Photo]) -> Cells:
        """The coarse histogram of all pixels: one reading."""
        both, positives = np.zeros((2, 1 << 16), dtype=np.int64)
        overlap = np.zeros(1 << 16)
        for part in chunks(photos):
            upper = keys_of(part.scores) >> 16
            both += np.bincount(upper, minlength=1 << 16)
            positives += np.bincount(upper[part.anomalous], minlength=1 << 16)
            overlap += np.bincount(upper[part.anomalous], weights=part.share, minlength=1 << 16)
        low: Keys = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
        return cls(low, np.full(1 << 16, 16), positives, both - positives, overlap)._occupied()

    def split(self, chosen: Ints, photos: Iterable[Photo]) -> Cells:
        """The same with the cells ``chosen`` split by 256: one reading."""
        wide = self.rest[chosen] == 16
        inside = np.arange(FAN)
        table = _Table(self.low[chosen], wide)
        both, positives = np.zeros((2, FAN * len(chosen)), dtype=np.int64)
        overlap = np.zeros(FAN * len(chosen))
        for part in chunks(photos):
            keys = keys_of(part.scores)
            both += np.bincount(table.find(keys)[1], minlength=len(both))
            if len(part.anomalous):
                found, child = table.find(keys[part.anomalous])
                positives += np.bincount(child, minlength=len(both))
                overlap += np.bincount(child, weights=part.share[found], minlength=len(both))
        low = self.low[chosen, None] + (inside << np.where(wide, 8, 0)[:, None])
        rest = np.repeat(np.where(wide, 8, 0), FAN)
        kept = np.ones(len(self.low), dtype=bool)
        kept[chosen] = False
        whole: list[NDArray[Any]] = [
            np.concatenate([old[kept], new])
            for old, new in (
                (self.low, low.reshape(-1).astype(np.uint32)),
                (self.rest, rest),
                (self.positives, positives),
                (self.negatives, both - positives),
                (self.overlap, overlap),
            )
        ]
        order = np.argsort(whole[0], kind="stable")
        return Cells(*[one[order] for one in whole])._occupied()

    def _occupied(self) -> Cells:
        some = (self.positives + self.negatives) > 0
        parts: list[NDArray[Any]] = [self.low, self.rest, self.positives, self.negatives, self.overlap]
        return Cells(*[one[some] for one in parts])

    # Counts. At a cell's lowest key: ``true``, ``false`` are predicted; above the cell ``true_above``, ``false_above``.

    @cached_property
    def true(self) -> Ints:
        return np.cumsum(self.positives[::-1])[::-1]

    @cached_property
    def false(self) -> Ints:
        return np.cumsum(self.negatives[::-1])[::-1]

    @property
    def true_above(self) -> Ints:
        return self.true - self.positives

    @property
    def false_above(self) -> Ints:
        return self.false - self.negatives

    @cached_property
    def totals(self) -> tuple[int, int]:
        """(P, N)."""
        return int(self.positives.sum()), int(self.negatives.sum())

    # Thresholds.

    def oracle(self) -> Best:
        """Highest precision + recall, of equals the lowest threshold; exact once nothing is :meth:`unsettled`."""
        return self._best(self._sums(self.false))

    def f1_max(self) -> Best:
        """Highest F1, of equals the lowest threshold; exact once nothing is :meth:`unsettled`."""
        return self._best(self._f1(self.false))

    def _best(self, values: Floats) -> Best:
        places = np.flatnonzero((self.positives > 0) & (self.rest == 0))
        place = places[np.argmax(values[places])]  # the first of equals, and thresholds ascend
        return Best(float(values[place]), float(scores_of(self.low[place : place + 1])[0]))

    def _sums(self, false: Ints) -> Floats:
        """Precision + recall with all anomalous pixels of the cell and ``false`` others predicted, (C,)."""
        precision = self.true / np.maximum(self.true + false, 1)
        return np.asarray(precision + self.true / max(self.totals[0], 1), dtype=np.float64)

    def _f1(self, false: Ints) -> Floats:
        positives = self.totals[0]
        return np.asarray(2 * self.true / np.maximum(self.true + false + positives, 1), dtype=np.float64)

    def negatives_at(self, ranks: Ints) -> NDArray[np.float32]:
        """The scores of the other pixels at ``ranks`` (1 = the highest); exact once nothing is :meth:`unsettled`."""
        return scores_of(self.low[self._cells_of(ranks)])

    def _cells_of(self, ranks: Ints) -> Ints:
        return np.searchsorted(np.cumsum(self.negatives), self.totals[1] - ranks, side="right")

    # Ranking figures and their bounds.

    def ranked(self) -> Ranked:
        """The figures and the bound of their error."""
        positives, negatives = self.totals
        low, high = self._precision()
        gaps = self._gaps()
        error = float(gaps.sum(axis=1).max(initial=0.0))
        pap = float(np.sum(self.positives * (low + high)) / (2 * positives)) if positives else NAN
        if not positives or not negatives:
            return Ranked(pap, NAN, NAN, error)
        wrong = np.sum(self.positives.astype(np.float64) * (self.false_above + self.false))  # twice, ties once
        auroc = 1.0 - float(wrong) / (2 * positives * negatives)
        return Ranked(pap, auroc, self._aupro(), error)

    def _precision(self) -> tuple[Floats, Floats]:
        """Between what the precision of each anomalous pixel of a cell lies, (C,) each."""
        loose = self.rest > 0
        above, false = self.true_above + 1, self.false
        high = self.true / np.maximum(self.true + np.where(loose, self.false_above, false), 1)
        return np.where(loose, above / (above + false), high), high

    def _aupro(self) -> float:
        rates = np.stack([self.false_above[::-1], self.false[::-1]], axis=1) / self.totals[1]  # by falling threshold
        after = np.cumsum(self.overlap[::-1])
        after = after / after[-1]
        before = np.append(0.0, after[:-1])
        loose = (self.rest > 0)[::-1]
        first = np.where(loose, rates[:, 1], rates[:, 0])  # one score: a ramp; several: others before anomalous
        low = area_until(np.stack([first, rates[:, 1]], 1).ravel(), np.stack([before, after], 1).ravel(), MAX_FPR)
        start = np.where(loose, after, before)  # ... or anomalous before others
        high = area_until(rates.ravel(), np.stack([start, after], 1).ravel(), MAX_FPR)
        return (low + high) / 2

    def _gaps(self) -> Floats:
        """Half the distance between the bounds of average precision, AUROC and AUPRO, by cell: (3, C)."""
        positives, negatives = self.totals
        low, high = self._precision()
        precision = self.positives / max(positives, 1) * (high - low)
        others = self.negatives / max(negatives, 1)
        pairs = self.positives / max(positives, 1) * others
        ends = np.stack([self.false_above, self.false]) / max(negatives, 1)
        within = np.diff(np.minimum(ends, MAX_FPR), axis=0)[0] / MAX_FPR
        regions = self.overlap / max(float(self.overlap.sum()), 1e-300) * within
        return np.stack([precision, pairs, regions]) * (self.rest > 0) / 2

    def unsettled(self, ranks: Ints, error: float) -> Ints:
        """The cells to split next, most urgent first, (S,), at most ``SPLITS``; empty when all is settled.

        That is: cells which may hold the best threshold by precision + recall or by F1, those with the other pixels at
        ``ranks``, and then as many as bring each ranking figure within ``error``.
        """
        loose, some = self.rest > 0, self.positives > 0
        wanted = []
        for values in (self._sums, self._f1):
            high = values(self.false_above)
            cells = np.flatnonzero(loose & some & (high >= values(self.false)[some].max(initial=0.0)))
            wanted.append(cells[np.argsort(-high[cells], kind="stable")])
        asked = np.unique(self._cells_of(ranks))
        wanted.append(asked[loose[asked]])
        gaps = self._gaps()
        order = np.argsort(-gaps.max(axis=0), kind="stable")
        left = np.maximum(gaps.sum(axis=1, keepdims=True) - np.cumsum(gaps[:, order], axis=1), 0.0).max(axis=0)
        if len(order) and gaps.sum(axis=1).max() > error:
            wanted.append(order[: int(np.argmax(left <= error)) + 1])
        together = np.concatenate(wanted)
        return together[np.sort(np.unique(together, return_index=True)[1])][:SPLITS]

    # Drawings.

    def curve(self, points: int) -> tuple[Floats, Floats, Floats]:
        """(precision, recall, thresholds), at most ``points`` each, thresholds ascending: exact at cells' borders."""
        cells = np.flatnonzero(self.positives)
        cells = cells[spaced(len(cells), points)]
        true, false = self.true[cells], self.false[cells]
        thresholds = scores_of(self.low[cells]).astype(np.float64)
        return true / (true + false), true / max(self.totals[0], 1), thresholds

    def quantile(self, share: float) -> float:
        """A score that ``share`` of all pixels do not reach, to the width of its cell."""
        whole = np.cumsum(self.positives + self.negatives)
        return float(scores_of(self.low[np.searchsorted(whole, share * whole[-1], side="right")][None])[0])


class _Table:
    """From keys to the parts of the cells that are being split, by two look-ups a key.

    Args:
        low: lowest keys of the cells.  wide: whether a cell spans 2^16 keys (else 2^8).
    """

    def __init__(self, low: Keys, wide: NDArray[np.bool_]) -> None:
        heads, block = np.unique(low >> 16, return_inverse=True)
        self._block = np.zeros(1 << 16, dtype=np.uint32)  # of an upper half: its row below; 0 = no cell there
        self._block[heads] = np.arange(1, len(heads) + 1)
        first = np.full((len(heads) + 1, FAN), -1)  # where the key's part is counted; -1 = nowhere
        low_bits = np.zeros((len(heads) + 1, FAN), dtype=np.uint32)  # what of the key is added to that
        places, rows = FAN * np.arange(len(low)), block.reshape(-1) + 1
        first[rows[wide]] = places[wide, None] + np.arange(FAN)
        narrow, middle = ~wide, (low >> 8) & 0xFF
        first[rows[narrow], middle[narrow]] = places[narrow]
        low_bits[rows[narrow], middle[narrow]] = 0xFF
        self._first, self._low_bits = first.reshape(-1), low_bits.reshape(-1)

    def find(self, keys: Keys) -> tuple[Ints, Ints]:
        """(which of ``keys``, flat, lie in a cell; where their parts are counted), (K,) each."""
        block = self._block[keys >> 16]
        found = np.flatnonzero(block)
        keys = keys[found]
        entry = (block[found] << 8) | ((keys >> 8) & 0xFF)
        first = self._first[entry]
        hit = np.flatnonzero(first >= 0)
        return found[hit], first[hit] + (keys[hit] & self._low_bits[entry[hit]])
