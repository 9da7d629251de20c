"""Cuts moved without training (``unias calibrate``): another wish, a least area, ignore-zones, new good photos, missed defects.

The held-out photos stay what cuts are ranked among. Good photos that people add join them: give all good photos of a stretch of
production, not only those that failed, or the cut comes out higher than it need be (never lower than promised). Defects that
were missed pull the cut below them, as far as a held-out photo allows; what that costs in good photos is shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unias.calibration.cuts import MOST_FALSE_ALARMS, Cut, lowered_cut, rank_cut, unpromised
from unias.data.masks import read_mask, resize_mask
from unias.errors import DataError, UsageError
from unias.files import sha256
from unias.inference.predictor import Model, score_of
from unias.inference.products import ProductInfo
from unias.inference.sources import each_photo
from unias.progress import Progress
from unias.systems.registry import UNIAS

ADDED = "added/"  # how keys of photos that people added begin; the rest is their sha256
BATCH = 8


@dataclass(frozen=True)
class Price:
    """One product before and after.

    Attributes:
        good: held-out and added good photos. good_failed: of them, above the cut (before, after).
        missed: defective photos that people gave. caught: of them, above the cut (before, after).
        notes: what could not be done, in words.
    """

    product: str
    before: Cut
    after: Cut
    good: int
    good_failed: tuple[int, int]
    missed: int = 0
    caught: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """For people."""
        text = (
            f"{self.product}: cut {self.before.value:.6g} -> {self.after.value:.6g}; of {self.good} good photos "
            f"{self.good_failed[0]} -> {self.good_failed[1]} fail"
        )
        if self.missed:
            text += f"; of {self.missed} missed defects {self.caught[0]} -> {self.caught[1]} fail"
        return "; ".join([f"{text}; {self.after.describe()}", *self.notes])


class Added(NamedTuple):
    """What people's photos left in a product: keys of good ones among the held-out, scores of missed defects."""

    good: tuple[str, ...] = ()
    missed: tuple[float, ...] = ()


def without(info: ProductInfo, added: Added) -> ProductInfo:
    """The product as it was before; its cut still rests on what is taken out."""
    kept = [(k, s) for k, s in zip(info.held_out, info.held_out_scores, strict=True) if k not in added.good]
    missed = list(info.missed_scores)
    for score in added.missed:
        near = next((place for place, one in enumerate(missed) if math.isclose(one, score, rel_tol=1e-6)), None)
        if near is not None:
            del missed[near]
    if len(kept) == len(info.held_out) and len(missed) == len(info.missed_scores):
        return info
    return dataclasses.replace(
        info,
        held_out=tuple(key for key, _ in kept),
        held_out_scores=tuple(score for _, score in kept),
        missed_scores=tuple(missed),
    )


@dataclass
class _Found:
    """What photos of people came to, product by product."""

    good: dict[str, dict[str, float]] = field(default_factory=dict)  # {product: {key: score}}
    missed: dict[str, list[float]] = field(default_factory=dict)
    unknown: list[Path] = field(default_factory=list)


def recalibrate(
    model: Model,
    *,
    false_alarms: float | None = None,
    min_area: int | None = None,
    ignore: Mapping[str, Path | None] | None = None,
    data: Path | None = None,
    good: Path | Sequence[Path] | None = None,
    missed: Path | Sequence[Path] | None = None,
    product: str | None = None,
    most_false_alarms: float = MOST_FALSE_ALARMS,
    forget: Mapping[str, Added] | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[ProductInfo, ...], list[Price], list[Path]]:
    """Give back the products with their cuts moved, the price of each, and photos of no known product.

    Args:
        false_alarms: rate wished from now on, in (0, 1).
        min_area: pixels of the model's map that a region must have to count.
        ignore: {product: picture whose marked pixels are ignored; None = nothing is}.
        data: folder of the held-out photos, which another least area or zone asks to score anew.
        good: folder of photos of good parts, or a list of them. missed: likewise of defects that passed.
        product: what the photos in ``good`` and ``missed`` show, and whom the wishes are for; None = recognised, and all.
        most_false_alarms: missed defects that only a cut promising more than this would find are named and left.
        forget: {product: what earlier calls added}, taken out first.

    Raises:
        UsageError: a product that the model does not know, a rate or an area that cannot be, a missing ``data``.
        DataError: a photo or mask that cannot be read, held-out photos that are not in ``data``.
    """
    progress = progress or Progress("silent")
    known = {info.name: place for place, info in enumerate(model.products)}
    for name in [*(ignore or {}), *([product] if product is not None else [])]:
        if name not in known:
            raise UsageError(f"{name!r} is not one of this model's products: {', '.join(known)}.")
    if false_alarms is not None and not 0 < false_alarms < 1:
        raise UsageError(f"--false-alarms {false_alarms}: must lie between 0 and 1, such as 0.01.")
    if min_area is not None and min_area < 1:
        raise UsageError(f"--min-area {min_area}: must be at least 1 pixel of the model's map.")
    infos = list(model.products)
    notes: dict[str, list[str]] = {}
    for place, info in enumerate(infos):
        wished = product in (None, info.name)
        area = info.min_area if min_area is None or not wished else min_area
        zone = info.ignore
        if ignore is not None and info.name in ignore:
            zone = _zone(ignore[info.name], model.config.input_size)
        if area != info.min_area or not _same(zone, info.ignore):
            infos[place] = _scored_anew(
                model, place, dataclasses.replace(info, min_area=area, ignore=zone), data, progress
            )
            notes[info.name] = _forgotten(info, infos[place], (forget or {}).get(info.name, Added()))
        infos[place] = without(infos[place], (forget or {}).get(info.name, Added()))
    found = _Found()
    if good is not None:
        _look(model, infos, good, product, found, False, progress)
    if missed is not None:
        _look(model, infos, missed, product, found, True, progress)
    prices = []
    for place, info in enumerate(infos):
        rate = false_alarms if false_alarms is not None and product in (None, info.name) else None
        infos[place], price = _moved(
            model.products[place], info, rate, found, most_false_alarms, notes.get(info.name, [])
        )
        if price is not None:
            prices.append(price)
    return tuple(infos), prices, found.unknown


def _moved(
    before: ProductInfo, info: ProductInfo, wish: float | None, found: _Found, most: float, told: Sequence[str]
) -> tuple[ProductInfo, Price | None]:
    """The product with its cut where it belongs now; the price, with what was ``told`` before, is None where nothing was to be
    done."""
    name = info.name
    new_good = {key: score for key, score in found.good.get(name, {}).items() if key not in info.held_out}
    new_missed = found.missed.get(name, [])
    rate = info.cut.promise.wished if wish is None else wish
    if not new_good and not new_missed and info is before and (wish is None or wish == info.cut.promise.wished):
        return info, None
    scores = (*info.held_out_scores, *new_good.values())
    missed = (*info.missed_scores, *new_missed)
    notes = list(told)
    if scores:
        cut = rank_cut(scores, rate)
        if missed:
            cut, left = lowered_cut(scores, rate, missed, most)
            if left:
                notes.append(
                    f"{left} of {len(missed)} missed defects look like good photos to the model: a cut that finds them fails "
                    f"more than {most:.0%} of those (--most-false-alarms allows it; more training or a larger --size may mend it)"
                )
    else:
        cut = unpromised(info.cut.value, rate) if info.cut.promise.held_out else info.cut
        notes.append("no photo was held out, so the cut stays; add good photos with --good")
    after = dataclasses.replace(
        info,
        cut=cut,
        held_out=(*info.held_out, *new_good),
        held_out_scores=scores,
        missed_scores=missed,
    )
    above = [(sum(s > c.value for s in scores), sum(s > c.value for s in new_missed)) for c in (before.cut, cut)]
    price = Price(
        name,
        before.cut,
        cut,
        len(scores),
        (above[0][0], above[1][0]),
        len(new_missed),
        (above[0][1], above[1][1]),
        tuple(notes),
    )
    return after, price


def _forgotten(before: ProductInfo, after: ProductInfo, wished: Added) -> list[str]:
    """What scoring anew has lost, since the photos are not at hand: all that people gave, but for what is to be forgotten."""
    good = [key for key in before.held_out if key.startswith(ADDED) and key not in (*after.held_out, *wished.good)]
    missed = len(before.missed_scores) - len(after.missed_scores) - len(wished.missed)
    lost = [(len(good), "added good photos", "--good"), (missed, "missed defects", "--missed")]
    return [f"{count} {what} are forgotten: give them again with {how}" for count, what, how in lost if count > 0]


def _zone(picture: Path | None, size: int) -> NDArray[np.bool_] | None:
    if picture is None:
        return None
    zone = resize_mask(read_mask(picture), size)
    if zone.all():
        raise DataError(f"{picture}: marks the whole picture, so nothing would be looked at. Leave what counts black.")
    return zone if zone.any() else None


def _same(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _scored_anew(model: Model, place: int, info: ProductInfo, data: Path | None, progress: Progress) -> ProductInfo:
    """The held-out photos ranked again, by the new area and zone."""
    if model.config.system != UNIAS:  # exports of them have the score too
        progress.say(f"{info.name}: judged by its map from now on, not by the score of {model.config.system}")
    if info.folded:
        raise UsageError(
            f"{info.name}: its cut rests on folds, so this model learned from the photos that would have to be ranked again. "
            "Train again with other settings (calibration: min_area)."
        )
    own = [key for key in info.held_out if not key.startswith(ADDED)]
    if not own:
        return dataclasses.replace(info, held_out=(), held_out_scores=(), missed_scores=())
    if data is None:
        raise UsageError(
            f"{info.name}: another least area or ignore-zone ranks its {len(own)} held-out photos again. Give the folder that "
            "the model was trained on with --data."
        )
    paths = [data / key for key in own]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: a held-out photo that is not there. Give the folder that was trained on.")
    scores = [
        score
        for batch in scored(model, [info] * len(model.products), paths, place, progress, f"held-out {info.name}")
        for _, _, _, score in batch
    ]
    return dataclasses.replace(info, held_out=tuple(own), held_out_scores=tuple(scores), missed_scores=())


def _look(
    model: Model,
    infos: Sequence[ProductInfo],
    photos: Path | Sequence[Path],
    product: str | None,
    found: _Found,
    defective: bool,
    progress: Progress,
) -> None:
    paths = [Path(str(photo)) for photo in each_photo(photos)]
    place = None if product is None else [info.name for info in infos].index(product)
    word = "missed defects" if defective else "good photos"
    learned: dict[str, Path] = {}
    for batch in scored(model, infos, paths, place, progress, word):
        for path, index, known, score in batch:
            info = infos[index]
            if not known:
                found.unknown.append(path)
            elif defective:
                found.missed.setdefault(info.name, []).append(score)
            elif _held_already(info, path, score):
                continue
            else:
                if any(_ends_with(path, key) for key in info.train):
                    learned.setdefault(info.name, path)
                found.good.setdefault(infos[index].name, {})[f"{ADDED}{sha256(path)}"] = score

    for name, path in learned.items():
        progress.say(
            f"warning: {path} has the name of a photo that the model learned {name} from. Cuts that rank among such photos "
            "promise nothing: give photos that it has not seen"
        )


def _ends_with(path: Path, key: str) -> bool:
    """Whether a photo lies where a remembered one did, below whatever folder. Bare names, of flat folders, tell nothing."""
    return "/" in key and path.as_posix().endswith(f"/{key}")


def _held_already(info: ProductInfo, path: Path, score: float) -> bool:
    """A held-out photo given once more: the same place and the same score."""
    pairs = zip(info.held_out, info.held_out_scores, strict=True)
    return any(math.isclose(score, one, rel_tol=1e-4) and _ends_with(path, key) for key, one in pairs)


def scored(
    model: Model,
    infos: Sequence[ProductInfo],
    paths: Sequence[Path],
    place: int | None,
    progress: Progress,
    word: str,
) -> Any:
    """Batches of (path, product's place, whether it is known, score); ``place`` None = recognised."""
    with progress.stage(word, len(paths)) as advance:
        at_once = max(1, BATCH // model.config.tiling.views)
        for start in range(0, len(paths), at_once):
            some = paths[start : start + at_once]
            images = np.stack([model.decode(path).pixels for path in some])
            told = None if place is None else torch.full((len(some),), place, device=model.detector.device)
            with torch.inference_mode():
                maps = model.detector(torch.from_numpy(images).to(model.detector.device), told)
            arrays = maps.anomaly_map.float().cpu().numpy()
            rows = []
            for row, path in enumerate(some):
                index = int(maps.product[row])
                known = maps.novelty is None or float(maps.novelty[row]) <= 1
                rows.append((path, index, known, score_of(maps, row, arrays[row], infos[index])))
            advance(len(some))
            yield rows
