"""Evaluation with flat memory: the figures of the exact mode and of scikit-learn, from photos that are never together."""

from __future__ import annotations

import contextlib
import errno
import math
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from unias.errors import DataError
from unias.evaluation import metrics, radix, streaming
from unias.evaluation.keys import DistinctKeys, keys_of, scores_of
from unias.evaluation.protocol import KEYS, evaluate_class
from unias.evaluation.radix import Cells
from unias.evaluation.spool import Photo, Spool, chunks
from unias.evaluation.streaming import AIM, ERROR, EXACT, HISTOGRAM, Batch, ClassFigures, ClassStream, evaluate_stream
from unias.maps.regions import region_runs

BOUNDED = ("pap", "pixel_auroc", "aupro")
CUT = 0.9


def smooth(rng: np.random.Generator, shape: tuple[int, ...], width: int = 5) -> np.ndarray:
    """Noise blurred by a box, twice: values near each other are alike, as in a map that was enlarged."""
    field = rng.standard_normal(shape)
    kernel = np.ones(width) / width
    for axis in (1, 2, 1, 2):
        field = np.apply_along_axis(np.convolve, axis, field, kernel, mode="same")
    return np.asarray(field / field.std())


def truth(rng: np.random.Generator, shape: tuple[int, ...], good: float = 0.4) -> np.ndarray:
    """One or two rectangles in some photos."""
    masks = np.zeros(shape, dtype=bool)
    for mask in masks:
        for _ in range(int(rng.integers(1, 3)) if rng.random() > good else 0):
            y, x = (int(rng.integers(0, side - 3)) for side in shape[1:])
            mask[y : y + int(rng.integers(1, 12)), x : x + int(rng.integers(1, 12))] = True
    return masks


def make(kind: str, photos: int = 24, side: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(sum(kind.encode()))
    shape = (photos, side, side)
    masks = truth(rng, shape)
    field = smooth(rng, shape) + 1.5 * masks
    maps = {
        "smooth": lambda: np.exp(field / 3),
        "ties": lambda: np.exp(field / 3).round(2),
        "half floats": lambda: np.exp(field).astype(np.float16),
        "heavy tail": lambda: np.exp(2 * field + rng.standard_normal(shape)),
        "very small": lambda: 1e-30 * np.exp(field / 3),
        "subnormal": lambda: 1e-42 * np.exp(field),
        "decades": lambda: 10.0 ** np.clip(9 * field, -37, 37),
        "one cell": lambda: 1 + 1e-4 * np.tanh(field),  # all scores share their upper 16 bits
        "narrow": lambda: 1 + 1e-2 * np.tanh(field),
        "signs": lambda: field.round(1),  # with 0.0 and -0.0
        "all equal": lambda: np.full(shape, 0.25),
        "noise": lambda: rng.random(shape),  # no signal at all
        "perfect": lambda: np.where(masks, 2, 1) + 0.1 * np.tanh(field),
        "clusters": lambda: (np.abs(field) * 4).round() + 1e-6 * rng.random(shape),  # a few cells hold everything
    }[kind]()
    if kind == "signs":
        maps[maps == 0] *= rng.choice([-1, 1], int((maps == 0).sum()))
    return np.asarray(maps, dtype=np.float32), masks


KINDS = (
    *("smooth", "ties", "half floats", "heavy tail", "very small", "subnormal", "decades", "one cell", "narrow"),
    *("signs", "all equal", "noise", "perfect", "clusters"),
)


def scores_of_photos(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(len(maps), -1).max(axis=1).astype(np.float64)


def stream_of(
    maps: np.ndarray, masks: np.ndarray | None, is_defect: np.ndarray, cut: float | None, sizes: tuple[int, ...] = (7,)
) -> ClassFigures:
    """By histogram, from the disk, in batches of ``sizes``, over and over."""
    scores = scores_of_photos(maps)
    with ClassStream(cut, exact_pixels=0, memory=0) as stream:
        start, turn = 0, 0
        while start < len(maps):
            part = slice(start, start + sizes[turn % len(sizes)])
            stream.add(maps[part], None if masks is None else masks[part], is_defect[part], scores[part])
            start, turn = part.stop, turn + 1
        return stream.figures(curve=100)


def agree(streamed: dict[str, float], exact: dict[str, float], within: float = ERROR) -> None:
    assert list(streamed) == list(exact) == list(KEYS)
    for key in KEYS:
        if key in BOUNDED:
            assert streamed[key] == pytest.approx(exact[key], abs=within, nan_ok=True), key
        else:
            assert streamed[key] == exact[key] or (math.isnan(streamed[key]) and math.isnan(exact[key])), key


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_exact_mode(kind: str) -> None:
    maps, masks = make(kind)
    is_defect = masks.any(axis=(1, 2))
    cut = float(np.quantile(maps, 0.97))
    found = stream_of(maps, masks, is_defect, cut)
    exact = evaluate_class(maps, masks, is_defect, scores_of_photos(maps), cut)
    assert found.ranking == HISTOGRAM
    assert found.error <= AIM < ERROR
    agree(found.values, exact, found.error + 1e-12)  # not only below the error promised: below the bound given


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_holds_however_coarse_the_cells_are(kind: str) -> None:
    """Of the histogram as first counted, where the bound is large, and after each split."""
    maps, masks = make(kind)
    photos = [photo(one, mask) for one, mask in zip(maps, masks, strict=True)]
    exact = evaluate_class(maps, masks, masks.any(axis=(1, 2)), scores_of_photos(maps), None)
    cells, nothing = Cells.counted(photos), np.zeros(0, dtype=np.int64)
    errors = []
    for _ in range(3):
        ranked = cells.ranked()
        errors.append(ranked.error)
        for key, value in zip(BOUNDED, ranked, strict=False):
            assert abs(value - exact[key]) <= ranked.error + 1e-12, key
        cells = cells.split(np.flatnonzero(cells.rest > 0), photos)
    assert errors[0] + 1e-12 >= errors[1] >= errors[2] == 0.0
    assert (cells.rest == 0).all()
    assert len(cells.unsettled(nothing, 0.0)) == 0
    assert cells.ranked()[:3] == pytest.approx([exact[key] for key in BOUNDED], abs=1e-12)
    assert cells.ranked().error == 0.0


def photo(one: np.ndarray, mask: np.ndarray) -> Photo:
    runs = region_runs(mask)
    return Photo(one.reshape(-1), runs.places(), np.repeat(1 / runs.sizes(), runs.lengths))


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_few_splits_a_reading_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = make("one cell", photos=6)
    whole = stream_of(maps, masks, masks.any(axis=(1, 2)), CUT)
    monkeypatch.setattr(radix, "SPLITS", limit)
    monkeypatch.setattr(streaming, "AIM", ERROR)
    few = stream_of(maps, masks, masks.any(axis=(1, 2)), CUT)
    agree(few.values, whole.values)


@settings(deadline=None, max_examples=30)
@given(
    hnp.arrays(np.bool_, (3, 5, 6)),
    hnp.arrays(np.float32, (3, 5, 6), elements=st.integers(-4, 9).map(lambda v: v / 8)),
    st.sampled_from([None, 0.25]),
)
def test_agrees_on_small_tables(masks: np.ndarray, maps: np.ndarray, cut: float | None) -> None:
    is_defect = masks.any(axis=(1, 2))
    found = stream_of(maps, masks, is_defect, cut, (2,))
    agree(found.values, evaluate_class(maps, masks, is_defect, scores_of_photos(maps), cut), AIM)


def test_agrees_with_scikit_learn() -> None:
    maps, masks = make("ties")
    values = stream_of(maps, masks, masks.any(axis=(1, 2)), None).values
    labels, scores = masks.ravel(), maps.ravel()
    assert values["pap"] == pytest.approx(sk.average_precision_score(labels, scores), abs=ERROR)
    assert values["pixel_auroc"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=ERROR)
    precision, recall, thresholds = sk.precision_recall_curve(labels, scores)
    assert values["dsc_threshold"] == thresholds[int(np.argmax((precision + recall)[:-1]))]
    drawn = scores >= values["pixel_f1max_threshold"]
    assert values["pixel_f1max"] == pytest.approx(sk.f1_score(labels, drawn), abs=1e-12)
    both = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert values["pixel_f1max"] == pytest.approx(both.max(), abs=1e-12)


@pytest.mark.parametrize("what", ["no positive", "no negative", "one photo whole", "one pixel", "nothing drawn"])
def test_edges(what: str) -> None:
    maps, masks = make("smooth", photos=8)
    cut = float(np.quantile(maps, 0.9))
    if what in ("no positive", "one pixel"):
        masks[:] = False
        masks[3, 4, 5] = what == "one pixel"
    elif what == "no negative":
        masks[:] = True
    elif what == "one photo whole":
        masks[2] = True
    else:
        cut = float(maps.max())
    is_defect = masks.any(axis=(1, 2))
    found = stream_of(maps, masks, is_defect, cut)
    agree(found.values, evaluate_class(maps, masks, is_defect, scores_of_photos(maps), cut))
    assert (found.curve is None) == (what == "no positive")


def test_without_masks_and_without_photos() -> None:
    maps, _ = make("smooth", photos=6)
    is_defect, nothing = np.arange(6) < 3, np.zeros(0)
    found = stream_of(maps, None, is_defect, CUT)
    agree(found.values, evaluate_class(maps, None, is_defect, scores_of_photos(maps), CUT))
    assert found.curve is None
    none = evaluate_stream([], CUT)
    agree(none, evaluate_class(maps[:0], maps[:0] > 0, is_defect[:0], nothing, CUT))
    with ClassStream(CUT) as stream:
        assert math.isnan(stream.quantile(0.5))
        assert stream.dice_at_cut is None


def test_batches_change_nothing() -> None:
    maps, masks = make("heavy tail")
    is_defect = masks.any(axis=(1, 2))
    one = stream_of(maps, masks, is_defect, CUT, (24,))
    for sizes in ((1,), (2, 5), (23, 1)):
        other = stream_of(maps, masks, is_defect, CUT, sizes)
        np.testing.assert_equal(other.values, one.values)  # NaN equals NaN
        np.testing.assert_equal(other.curve, one.curve)


def test_small_sets_are_exact_and_the_border_is_a_number_of_pixels() -> None:
    maps, masks = make("smooth", photos=6)
    is_defect, scores = masks.any(axis=(1, 2)), scores_of_photos(maps)
    exact = evaluate_class(maps, masks, is_defect, scores, CUT)
    for pixels, ranking in ((maps.size, EXACT), (maps.size - 1, HISTOGRAM)):
        with ClassStream(CUT, exact_pixels=pixels) as stream:
            stream.add(maps, masks, is_defect, scores)
            found = stream.figures(curve=50)
        assert found.ranking == ranking
        assert len(found.curve[0]) <= 50
        agree(found.values, exact, 0.0 if ranking == EXACT else ERROR)
    batches = (Batch(maps[i : i + 2], masks[i : i + 2], is_defect[i : i + 2], scores[i : i + 2]) for i in (0, 2, 4))
    np.testing.assert_equal(evaluate_stream(batches, CUT), exact)


def test_photos_of_several_sizes_and_some_of_the_photos() -> None:
    """As ``evaluate_class`` with padding gives them; enlarged on every reading; of a part of the photos."""
    maps, masks = make("ties", photos=9, side=20)
    is_defect, scores = masks.any(axis=(1, 2)), scores_of_photos(maps)
    sizes = [(20, 20), (40, 20), (20, 60)] * 3

    def enlarge(one: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.kron(one, np.ones((size[0] // 20, size[1] // 20), dtype=np.float32))

    whole, marks, valid = (
        np.full((9, 40, 60), -np.inf, np.float32),
        np.zeros((9, 40, 60), bool),
        np.zeros((9, 40, 60), bool),
    )
    for row, (height, width) in enumerate(sizes):
        whole[row, :height, :width] = enlarge(maps[row], (height, width))
        marks[row, :height, :width] = enlarge(masks[row], (height, width)) > 0
        valid[row, :height, :width] = True
    chosen = np.arange(9) % 4 != 1
    for pixels in (0, 1 << 20):
        with ClassStream(CUT, enlarge=enlarge, exact_pixels=pixels, memory=0) as stream:
            for row, (height, width) in enumerate(sizes):
                mask = marks[row : row + 1, :height, :width]
                stream.add(maps[row : row + 1], mask, is_defect[row : row + 1], scores[row : row + 1])
            all_of_them, some = stream.figures(), stream.figures(chosen)
            np.testing.assert_array_equal(stream.is_defect, is_defect)
            np.testing.assert_array_equal(stream.image_scores, scores)
            dice = metrics.dice_per_sample(marks, metrics.above(whole, CUT))
            np.testing.assert_array_equal(stream.dice_at_cut, dice)
            assert stream.quantile(0.9) == pytest.approx(np.quantile(whole[valid], 0.9), rel=0.02)
        agree(all_of_them.values, evaluate_class(whole, marks, is_defect, scores, CUT, valid))
        parts = (whole[chosen], marks[chosen], is_defect[chosen], scores[chosen])
        agree(some.values, evaluate_class(*parts, CUT, valid[chosen]))


@pytest.mark.parametrize("kind", ["ties", "noise", "decades"])
def test_curve_is_that_of_the_pixels(kind: str) -> None:
    maps, masks = make(kind)
    found = stream_of(maps, masks, masks.any(axis=(1, 2)), None)
    assert found.curve is not None
    precision, recall, thresholds = found.curve
    assert 2 <= len(thresholds) <= 100
    assert (np.diff(thresholds) > 0).all()
    for p, r, threshold in zip(precision, recall, thresholds, strict=True):
        drawn = metrics.at_least(maps, threshold)
        assert p == pytest.approx((drawn & masks).sum() / drawn.sum())
        assert r == pytest.approx((drawn & masks).sum() / masks.sum())


# --- what it costs ------------------------------------------------------------------------------------------


def small_batches(photos: int) -> Iterator[Batch]:
    rng = np.random.default_rng(4)
    for _ in range(photos // 20):
        masks = truth(rng, (20, 32, 32))
        maps = (rng.random(masks.shape) + 0.5 * masks + 0.1).astype(np.float32)
        yield Batch(maps, masks, masks.any(axis=(1, 2)), scores_of_photos(maps))


def peak_of(photos: int) -> int:
    tracemalloc.start()
    try:
        with ClassStream(CUT, exact_pixels=0, memory=1 << 16) as stream:
            for batch in small_batches(photos):
                stream.add(*batch)
            assert stream.figures().ranking == HISTOGRAM
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the photos, 7 MiB of maps more: the peak stays, but for less than 200 bytes a photo."""
    from unias.evaluation import spool

    monkeypatch.setattr(spool.chunks, "__defaults__", (1 << 15,))
    few, many = peak_of(200), peak_of(2000)
    assert many < few + 1800 * 200


# --- the temporary file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DataError("no"), KeyboardInterrupt(), MemoryError()])
def test_the_temporary_file_goes_whatever_happens(error: BaseException, tmp_path: Path) -> None:
    maps, masks = make("smooth", photos=4)
    with contextlib.suppress(type(error)), ClassStream(CUT, tmp_path, memory=0) as stream:
        stream.add(maps, masks, masks.any(axis=(1, 2)), scores_of_photos(maps))
        file = stream._spool._file
        assert file is not None
        assert file.seek(0, 2) > maps.nbytes
        raise error
    assert file.closed
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = make("smooth", photos=4)

    def refuse(*_args: Any, **_named: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with ClassStream(CUT, tmp_path, memory=maps.nbytes // 2) as stream, pytest.raises(DataError, match="disk is full"):
        stream.add(maps, masks, masks.any(axis=(1, 2)), scores_of_photos(maps))


def test_spool_gives_back_what_it_took_from_memory_and_from_disk(tmp_path: Path) -> None:
    maps, masks = make("smooth", photos=6)
    for memory in (0, maps.nbytes // 2, 1 << 30):
        spool = Spool(tmp_path, memory)
        for one, mask in zip(maps, masks, strict=True):
            spool.append(one, (40, 40), region_runs(mask))
        assert spool.on_disk == (memory < maps.nbytes)
        for place in (5, 0, 3):
            expected = photo(maps[place], masks[place])
            for got, wanted in zip(spool.photo(place), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)
        spool.close()


# --- what is refused ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    maps, masks = make("smooth", photos=4)
    is_defect, scores = masks.any(axis=(1, 2)), scores_of_photos(maps)
    with ClassStream(CUT) as stream:
        for wrong in (
            (maps[:3], masks, is_defect, scores),
            (maps, masks[:, :9], is_defect, scores),
            (maps, masks, is_defect[:3], scores),
            (maps.astype(np.float64), masks, is_defect, scores),
        ):
            with pytest.raises(DataError, match="do not fit"):
                stream.add(*wrong)
        stream.add(maps, masks, is_defect, scores)
        with pytest.raises(DataError, match="some photos only"):
            stream.add(maps, None, is_defect, scores)
        for bad in (math.nan, math.inf, -math.inf):
            spoilt = maps.copy()
            spoilt[1, 2, 3] = bad
            with pytest.raises(DataError, match="NaN or infinite"):
                stream.add(spoilt, masks, is_defect, scores)


# --- the parts ----------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_nan=False)))
def test_keys_keep_the_order(scores: np.ndarray) -> None:
    keys = keys_of(scores)
    np.testing.assert_array_equal(scores_of(keys), scores)
    order = np.argsort(scores, kind="stable")
    assert (np.diff(keys[order].astype(np.int64)) >= 0).all()
    np.testing.assert_array_equal(keys[:, None] == keys, scores[:, None] == scores)


def test_distinct_keys() -> None:
    rng = np.random.default_rng(2)
    scores = (rng.standard_normal(20_000).round(3) * 10.0 ** rng.integers(-3, 3, 20_000)).astype(np.float32)
    distinct = DistinctKeys()
    for part in np.array_split(scores, 7):
        distinct.add(keys_of(part))
    distinct.add(keys_of(scores[:0]))
    ranked, expected = distinct.settled(), np.unique(scores)
    assert len(ranked) == len(expected)
    np.testing.assert_array_equal(scores_of(ranked.at(np.arange(len(expected)))), expected)
    np.testing.assert_array_equal(scores_of(ranked.every(10)), expected[metrics.spaced(len(expected), 10)])
    low, high = expected[[100, 4000]]
    near = expected[(expected >= low) & (expected <= high)]
    between = ranked.between(int(keys_of(low[None])[0]), int(keys_of(high[None])[0]), 33)
    np.testing.assert_array_equal(scores_of(between), near[metrics.spaced(len(near), 33)])
    assert len(DistinctKeys().settled()) == 0
    assert ranked.between(0, 1, 5).size == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 17))
def test_portions_hold_every_pixel_in_order(sizes: list[int], pixels: int) -> None:
    rng = np.random.default_rng(0)
    photos = []
    for size in sizes:
        places = np.flatnonzero(rng.random(size) < 0.3)
        photos.append(Photo(rng.random(size).astype(np.float32), places, rng.random(len(places))))
    parts = list(chunks(photos, pixels))
    assert all(len(part.scores) < 2 * pixels for part in parts)
    for name in ("scores", "share"):
        whole = [getattr(one, name) for one in photos]
        np.testing.assert_array_equal(
            np.concatenate([[], *(getattr(one, name) for one in parts)]), np.concatenate([[], *whole])
        )
    np.testing.assert_array_equal(
        np.concatenate([[], *(one.scores[one.anomalous] for one in parts)]),
        np.concatenate([[], *(one.scores[one.anomalous] for one in photos)]),
    )
