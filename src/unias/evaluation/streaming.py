"""The protocol on any number of photos with flat memory (issue 4, item 6): the figures of ``protocol.evaluate_class``.

Photos are added batch by batch and kept in a :class:`~unias.evaluation.spool.Spool`: in memory while few, else in one
temporary file. Up to ``exact_pixels`` pixels the figures come from :func:`~unias.evaluation.protocol.evaluate_class` itself
("exact"). Beyond, from some four to six readings of the spool ("histogram"), by ``radix.Cells``:

- ``pap``, ``pixel_auroc``, ``aupro``: within ``ERROR`` of the exact figures, by a bound that is computed, not hoped for: the
  histogram is made finer until it holds (to a fifth of it; on real maps the error is far smaller again).
- every threshold, F1-max, Dice and IoU, all image figures and all counts: the very numbers of the exact mode. The histogram
  says where a threshold can lie, a further reading counts single scores there, another one what they draw in each photo.

Memory: some tens of bytes a photo, cells (bounded by ``radix.SPLITS``), 1 MiB an octave of anomalous scores (``keys``), one
portion of pixels (``spool.CHUNK``, or one photo). Nothing grows with the number of pixels.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unias.errors import DataError
from unias.evaluation.keys import DistinctKeys, RankedKeys, keys_of, scores_of
from unias.evaluation.metrics import (
    NAN,
    Best,
    Overlap,
    PixelRanking,
    above,
    at_least,
    best_on_grid,
    dice_grid,
    mean_dice,
    top_ranks,
)
from unias.evaluation.protocol import KEYS, dice_figures, evaluate_class, image_figures, mean_of
from unias.evaluation.radix import Cells
from unias.evaluation.spool import MEMORY, Enlarge, Photo, Spool, chunks
from unias.maps.regions import Runs, region_runs

ERROR = 1e-4  # promised of pap, pixel_auroc and aupro
AIM = ERROR / 5  # bound at which the histogram is fine enough
EXACT_PIXELS = 1 << 25  # 668 photos of 224 x 224; the exact mode then takes about 0.6 GB
CANDIDATES = 500  # of the search for ``dsc_best``, as in ``metrics.best_dsc``
EXACT, HISTOGRAM = "exact", "histogram, error < 1e-4"
NOTHING = Runs(*(np.zeros(0, dtype=np.int64),) * 3, 0)

Bools = NDArray[np.bool_]


class Batch(NamedTuple):
    """Some photos of one class and one size, n of them.

    Attributes:
        maps: float32, (n, h, w), finite, higher is more anomalous.
        masks: bool, (n, H, W), True = anomalous; None where the product has image-level truth only. H x W = h x w but where
            the stream has an ``enlarge``.
        is_defect: bool, (n,).  image_scores: (n,), higher is more anomalous.
        failed: bool, (n,), the verdicts; None = failed where the score is above the stream's cut.
        drawn: bool, shaped as the masks, what was marked in use; None = the map above the cut, in failed photos.
    """

    maps: NDArray[np.float32]
    masks: Bools | None
    is_defect: Bools
    image_scores: NDArray[np.float64]
    failed: Bools | None = None
    drawn: Bools | None = None


@dataclass(frozen=True)
class ClassFigures:
    """What came of one class.

    Attributes:
        values: one for each of ``protocol.KEYS``.
        ranking: "exact", or "histogram, error < 1e-4".
        error: bound of the error of pap, pixel_auroc and aupro; 0.0 where exact.
        curve: (precision, recall, thresholds) of the pixels, thinned, thresholds ascending; None where not asked for, or
            without an anomalous pixel.
    """

    values: dict[str, float]
    ranking: str
    error: float = 0.0
    curve: tuple[NDArray[Any], ...] | None = None


def evaluate_stream(
    batches: Iterable[Batch], cut: float | None, folder: Path | None = None, exact_pixels: int = EXACT_PIXELS
) -> dict[str, float]:
    """Every figure of one class, as :func:`~unias.evaluation.protocol.evaluate_class` gives them, from batches that are
    never in memory together. Arguments and errors as in :class:`ClassStream`."""
    with ClassStream(cut, folder, exact_pixels=exact_pixels) as stream:
        for batch in batches:
            stream.add(*batch)
        return stream.figures().values


class ClassStream:
    """One class, photo by photo: ``add`` batches, then ask for ``figures``, of all photos or of some. Use it with ``with``.

    Args:
        cut: the product's label-free cut, on the scale of scores and maps; None without one.
        folder: where the temporary file may lie (4 bytes a pixel of a map); None = the system's place for such files.
        enlarge: brings a map to the size of its mask; the same values each time. Maps are kept as they came.
        exact_pixels: up to so many pixels (photos times the largest height and width) the figures are exact.
        memory: bytes of maps held in memory before the temporary file is begun.
    """

    def __init__(
        self,
        cut: float | None,
        folder: Path | None = None,
        enlarge: Enlarge | None = None,
        exact_pixels: int = EXACT_PIXELS,
        memory: int = MEMORY,
    ) -> None:
        self.cut = cut
        self._exact_pixels = exact_pixels
        self._enlarge = enlarge
        self._spool = Spool(folder, memory, enlarge)
        self._masked: bool | None = None
        self._defect, self._score = array("b"), array("d")
        self._peak = array("f")
        self._failed = array("b")
        self._cut = array("q")  # of each photo: pixels in mask and drawing at the cut, in the mask, in the drawing

    def __enter__(self) -> ClassStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file. Figures cannot be asked for any more."""
        self._spool.close()

    def __len__(self) -> int:
        return len(self._defect)

    @property
    def is_defect(self) -> Bools:
        """(N,), as added."""
        return np.array(self._defect, dtype=bool)

    @property
    def image_scores(self) -> NDArray[np.float64]:
        """(N,), as added."""
        return np.array(self._score, dtype=np.float64)

    @property
    def dice_at_cut(self) -> NDArray[np.float64] | None:
        """Dice of each photo with what was drawn at the cut, (N,); None without masks."""
        return self._at_cut().dice() if self._masked else None

    @property
    def failed(self) -> Bools:
        """(N,), the verdicts; all False without a cut."""
        return np.array(self._failed, dtype=bool)

    def add(
        self,
        maps: NDArray[np.float32],
        masks: Bools | None,
        is_defect: Bools,
        image_scores: NDArray[np.float64],
        failed: Bools | None = None,
        drawn: Bools | None = None,
    ) -> None:
        """The next photos, all of one size (other sizes in other calls): see :class:`Batch`.

        Raises:
            DataError: maps, masks, labels and scores do not fit; masks for some photos only; a map that is not float32
                or not finite; the temporary file cannot be written.
        """
        photos = len(maps)
        lengths = {
            photos,
            len(is_defect),
            len(image_scores),
            *(len(part) for part in (masks, failed) if part is not None),
        }
        alike = masks is None or self._enlarge is not None or masks.shape == maps.shape
        if len(lengths) > 1 or not alike or maps.dtype != np.float32:
            shape = None if masks is None else masks.shape
            raise DataError(
                f"one class: maps {maps.shape} {maps.dtype}, masks {shape}, {len(is_defect)} labels and "
                f"{len(image_scores)} scores do not fit. Give one float32 map, mask, label and score a photo."
            )
        if photos and self._masked not in (None, masks is not None):
            raise DataError("one class: masks for some photos only. Give a mask for every photo, or none at all.")
        if drawn is not None and (masks is None or drawn.shape != masks.shape):
            raise DataError(f"one class: drawn masks {drawn.shape} do not fit the masks. Draw them at the masks' size.")
        verdicts = failed
        if verdicts is None:
            verdicts = np.zeros(photos, dtype=bool) if self.cut is None else np.asarray(image_scores) > self.cut
        for place in range(photos):
            self._failed.append(bool(verdicts[place]))
            self._append(
                maps[place],
                None if masks is None else masks[place],
                bool(is_defect[place]),
                float(image_scores[place]),
                None if drawn is None else drawn[place],
            )

    def figures(self, chosen: Bools | None = None, curve: int = 0) -> ClassFigures:
        """Every figure, from all photos or from those where ``chosen``, (N,); a curve of at most ``curve`` points too."""
        places = np.arange(len(self)) if chosen is None else np.flatnonzero(chosen)
        if not self._masked or not len(places):
            return ClassFigures({**dict.fromkeys(KEYS, NAN), **self._image_values(places)}, EXACT)
        shapes = np.array([self._spool.shape(int(place)) for place in places])
        if len(places) * int(np.prod(shapes.max(axis=0))) <= self._exact_pixels:
            return self._exact(places, shapes, curve)
        return self._streamed(places, shapes, curve)

    def quantile(self, share: float) -> float:
        """The score that ``share`` of all pixels do not reach, to a hundredth of it: one reading. NaN without a photo."""
        return Cells.counted(_Photos(self._spool, np.arange(len(self)))).quantile(share) if len(self) else NAN

    def _append(
        self, one: NDArray[np.float32], mask: Bools | None, is_defect: bool, score: float, drawn: Bools | None
    ) -> None:
        size = one.shape if mask is None else mask.shape
        whole = one if self._enlarge is None or one.shape == size else self._enlarge(one, (size[0], size[1]))
        peak = whole.max(initial=-np.inf)
        if not (np.isfinite(peak) and np.isfinite(whole.min(initial=np.inf))):
            raise DataError("maps: NaN or infinite values. Look for the photo or model that gave them.")
        runs = region_runs(mask) if mask is not None and mask.any() else NOTHING
        both = area = 0
        if drawn is None and self.cut is not None and self._failed[-1]:
            drawn = above(whole, self.cut)
        if drawn is not None:
            marked = drawn.reshape(-1)
            both, area = int(np.count_nonzero(marked[runs.places()])), int(np.count_nonzero(marked))
        self._spool.append(one, (size[0], size[1]), runs)
        self._masked = mask is not None
        self._defect.append(is_defect)
        self._score.append(score)
        self._peak.append(peak)
        self._cut.extend((both, int(runs.lengths.sum()), area))

    def _at_cut(self) -> Overlap:
        return Overlap(*np.array(self._cut, dtype=np.int64).reshape(-1, 3).T)

    def _image_values(self, places: NDArray[np.int64]) -> dict[str, float]:
        failed = None if self.cut is None else self.failed[places]
        return image_figures(self.is_defect[places], self.image_scores[places], failed)

    def _cut_values(self, places: NDArray[np.int64]) -> dict[str, float]:
        """What was drawn at the cut; needs no label."""
        if self.cut is None:
            return {}
        at_cut = Overlap(*(part[places] for part in self._at_cut()))
        dice, marked = at_cut.dice(), self.is_defect[places] & (at_cut.truth > 0)
        return {"dsc_cut": float(dice.mean()), "dsc_defective_cut": mean_of(dice[marked])}

    def _exact(self, places: NDArray[np.int64], shapes: NDArray[np.int64], curve: int) -> ClassFigures:
        size = (len(places), *shapes.max(axis=0))
        maps, masks = np.full(size, -np.inf, dtype=np.float32), np.zeros(size, dtype=bool)
        valid = None if (shapes == shapes[0]).all() else np.zeros(size, dtype=bool)
        for row, (photo, (height, width)) in enumerate(zip(_Photos(self._spool, places), shapes, strict=True)):
            maps[row, :height, :width] = photo.scores.reshape(height, width)
            mask = np.zeros(height * width, dtype=bool)
            mask[photo.anomalous] = True
            masks[row, :height, :width] = mask.reshape(height, width)
            if valid is not None:
                valid[row, :height, :width] = True
        ranking = PixelRanking(masks, maps) if valid is None else PixelRanking(masks[valid], maps[valid])
        is_defect, scores = self.is_defect[places], self.image_scores[places]
        values = evaluate_class(maps, masks, is_defect, scores, None, valid, ranking)
        values |= {**self._image_values(places), **self._cut_values(places)}
        drawn = ranking.curve(curve) if curve and len(ranking.positives) else None
        return ClassFigures(values, EXACT, curve=drawn)

    def _streamed(self, places: NDArray[np.int64], shapes: NDArray[np.int64], curve: int) -> ClassFigures:
        is_defect, areas = self.is_defect[places], self._at_cut().truth[places]
        pixels = shapes.prod(axis=1)
        values = {**dict.fromkeys(KEYS, NAN), **self._image_values(places), **self._cut_values(places)}
        values["dsc_empty"] = float(np.mean(areas == 0))
        if is_defect.any():
            values["ar"] = float(areas[is_defect].sum() / pixels[is_defect].sum())
        if not areas.any():
            return ClassFigures(values, HISTOGRAM)
        photos = _Photos(self._spool, places)
        ranks = top_ranks(int(pixels.sum() - areas.sum()), CANDIDATES)
        cells, distinct = _counted(photos)
        while len(chosen := cells.unsettled(ranks, AIM)):
            cells = cells.split(chosen, photos)
        peaks = np.array(self._peak, dtype=np.float32)[places]
        others = cells.negatives_at(ranks)
        best = _best_dsc(photos, others, distinct, peaks, areas == 0)
        marked = is_defect & (areas > 0)
        if marked.any():
            counted = _Photos(self._spool, places[marked])
            values["dsc_defective_single"] = _best_dsc(counted, others, distinct, peaks, areas == 0).value
        oracle, f1, ranked = cells.oracle(), cells.f1_max(), cells.ranked()
        values |= {"pap": ranked.pap, "pixel_auroc": ranked.auroc, "aupro": ranked.aupro}
        at_oracle, at_best = _overlaps(photos, areas, (oracle.threshold, best.threshold))
        values |= dice_figures(oracle, f1, best, at_oracle, at_best, is_defect)
        return ClassFigures(values, HISTOGRAM, ranked.error, cells.curve(curve) if curve else None)


class _Photos(Sequence[Photo]):
    """Some photos of a spool, read anew at each pass."""

    def __init__(self, spool: Spool, places: NDArray[np.int64]) -> None:
        self._spool, self._places = spool, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        return self._spool.photo(int(self._places[place]))


def _counted(photos: Sequence[Photo]) -> tuple[Cells, RankedKeys]:
    """The coarse histogram, and the distinct scores of anomalous pixels."""
    distinct = DistinctKeys()

    def seen() -> Iterator[Photo]:
        for part in chunks(photos):
            distinct.add(keys_of(part.scores[part.anomalous]))
            yield part

    return Cells.counted(seen()), distinct.settled()


def _best_dsc(
    counted: Sequence[Photo],
    others: NDArray[np.float32],
    distinct: RankedKeys,
    peaks: NDArray[np.float32],
    good: Bools,
) -> Best:
    """``metrics.best_dsc``: the same thresholds tried, two readings of the photos whose Dice counts."""

    def measure(grid: NDArray[Any]) -> NDArray[np.float64]:
        return mean_dice(((photo.scores, photo.scores[photo.anomalous]) for photo in counted), grid)

    def between(low: Any, high: Any) -> NDArray[np.float32]:
        first, last = keys_of(np.array([low, high], dtype=np.float32))
        return scores_of(distinct.between(int(first), int(last), CANDIDATES))

    grid = dice_grid(scores_of(distinct.every(CANDIDATES)), others, peaks, good, CANDIDATES)
    return best_on_grid(grid, measure, between)


def _overlaps(photos: Sequence[Photo], areas: NDArray[np.int64], thresholds: Sequence[float]) -> list[Overlap]:
    """What each threshold draws in each photo: one reading."""
    counts = np.zeros((len(thresholds), 2, len(photos)), dtype=np.int64)
    for place, photo in enumerate(photos):
        for row, threshold in zip(counts, thresholds, strict=True):
            drawn = at_least(photo.scores, threshold)
            row[:, place] = np.count_nonzero(drawn[photo.anomalous]), np.count_nonzero(drawn)
    return [Overlap(both, areas, drawn) for both, drawn in counts]
