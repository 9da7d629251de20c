"""``unias extend``: a trained model, a folder of a new product's good photos, what is left of the old ones (run/extend.py)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from unias.api import check_output
from unias.data.layouts import Dataset, Sample, require_training, scan
from unias.data.split import hold_out_products
from unias.errors import DataError, UsageError
from unias.files import claimed_folder, sha256
from unias.inference import rehearsal
from unias.inference.predictor import Model
from unias.inference.products import ProductInfo
from unias.inference.store import STATE_FOLDER, StoredModel, load_model, save_model
from unias.maps.detector import Detector
from unias.progress import Progress
from unias.run.base import Split
from unias.run.extend import ExtendRun, extended
from unias.run.remembered import refuse_folded, remembered
from unias.runtime import pick_device, set_threads
from unias.training.photos import HOW_TO_MEND, check_photos

SPARED = 4  # one kept photo in so many is not rehearsed


def extend(
    model: Path | str,
    data: Path | str,
    output: Path | str,
    *,
    old: Path | str | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Teach a trained model the products in ``data`` beside those that it knows, and write it to the new folder ``output``.

    Products of ``data`` that the model knows get their photos added to the old ones.

    Args:
        old: the folder that the model was trained on, where it is still there. Without it the photos that the model keeps are
            rehearsed, and the old products' cuts become provisional.
        minutes, steps: how long; one of the two.

    Raises:
        UsageError: an exported model or another system, both or none of minutes and steps, nothing to rehearse.
        DataError: photos that cannot be read, a model that cannot, old photos that are not where ``old`` says.
    """
    started = time.monotonic()
    progress = progress or Progress("silent")
    if (minutes is None) == (steps is None):
        raise UsageError("give --minutes or --steps: how long the new photos are learned.")
    set_threads(threads)
    place, home, folder = pick_device(device), Path(os.path.abspath(output)), Path(model)
    stored = load_model(folder, place)
    if not isinstance(stored.detector, Detector):
        raise UsageError(
            f"{folder}: only a model trained by UniAS itself can be extended, no export and no other system."
        )
    config = extended(stored.config, minutes, steps, seed)
    dataset = scan(data)
    for warning in dataset.warnings:
        progress.say(f"warning: {warning}")
    require_training(dataset)
    check_output(home, resume)
    with (
        claimed_folder(home.parent),
        claimed_folder(home / STATE_FOLDER),
        tempfile.TemporaryDirectory(prefix="unias-kept-") as spare,
    ):
        dataset = check_photos(dataset, config.bits, False, progress, HOW_TO_MEND)
        fresh = hold_out_products(dataset.train(), seed, config.train.hold_out, config.train.hold_out_least)
        known, kept_back = _old_split(folder, stored.products, old, Path(spare), progress)
        split = joined(known, fresh)
        names = ", ".join(f"{name} ({len(own)} + {len(held)} held out)" for name, (own, held) in fresh.items())
        progress.say(f"learning {names}; rehearsing {sum(len(own) for own, _ in known.values())} old photos")
        backbone = stored.detector.backbone
        whole = Dataset(
            dataset.root, dataset.layout, tuple(split), tuple(s for own, held in split.values() for s in own + held)
        )
        run = ExtendRun(whole, split, config, backbone, place, progress, started)
        stored.detector.compose()
        turns = {name: tuple(found) for name, found in stored.record.get("turns", {}).items()}
        run.begin_from(
            stored.detector,
            stored.products,
            turns,
            frozenset(sample.path for own, _ in fresh.values() for sample in own),
            kept_back,
        )
        outcome, detector = run.fit(home, resume, 0, [])
        products = run.calibrate(detector)
        record = {
            **run.record(outcome),
            "extended_from": stored.record.get("data", "unknown"),
            "rehearsed": _source(old),
        }
        kept = rehearsal.keep(
            {n: own for n, (own, _) in split.items()}, config.train.keep_photos, config.input_size, config.bits
        )
        result = StoredModel(detector, run.final_config(outcome), products, record, kept)
        save_model(home, result)
    return Model(result)


def joined(known: Split, fresh: Split) -> Split:
    """Old products first, in their order; a product in both has the photos of both, one that is in both folders once.

    Raises DataError for another photo of an old one's name: photos are remembered by their names.
    """
    split: Split = {}
    for name in [*known, *(name for name in fresh if name not in known)]:
        own, held = known.get(name, ([], []))
        there = {sample.key: sample for sample in (*own, *held)}
        more, more_held = ([s for s in part if _is_new(s, there)] for part in fresh.get(name, ([], [])))
        split[name] = (own + more, held + more_held)
    return split


def _is_new(sample: Sample, there: Mapping[str, Sample]) -> bool:
    old = there.get(sample.key)
    if old is None:
        return True
    if old.path != sample.path and sha256(old.path) != sha256(sample.path):
        raise DataError(
            f"{sample.path}: another photo than {old.path}, which the model was trained on under the same name. Give the new "
            "photos other names, or a folder of their own below train/good (train/good/monday/...)."
        )
    return False


def _old_split(
    folder: Path, products: Sequence[ProductInfo], old: Path | str | None, spare: Path, progress: Progress
) -> tuple[Split, dict[str, list[Sample]]]:
    """({product: (training photos, held-out photos)}, {}) from the old folder; or of the kept photos alone: (those to rehearse,
    no held-out ones), and one in four that is not rehearsed, so that it tells how scores have moved."""
    if old is not None:
        refuse_folded(
            folder, products, "Train all products anew, or leave --data out and calibrate with --good afterwards."
        )
        return remembered(products, Path(old), progress), {}
    if not (folder / rehearsal.FILE).is_file():
        raise UsageError(
            f"{folder}: keeps no photos of its products (keep_photos: 0), so they would be forgotten. Give the folder that "
            "it was trained on with --data."
        )
    found = rehearsal.unpack(folder / rehearsal.FILE, [product.name for product in products], spare)
    bare = [product.name for product in products if product.name not in found]
    if bare:
        raise DataError(f"{folder}: keeps no photo of {bare[0]}. Give the folder that it was trained on with --data.")
    progress.say("the old photos are not at hand: the kept ones are rehearsed, and old cuts become provisional")
    back = {name: samples[::SPARED] if len(samples) >= SPARED else samples for name, samples in found.items()}
    return {name: ([s for s in samples if s not in back[name]] or samples, []) for name, samples in found.items()}, back


def _source(old: Path | str | None) -> str:
    return "photos kept in the model" if old is None else Path(old).name
