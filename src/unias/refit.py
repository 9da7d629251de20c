"""``unias calibrate --refit``: all that a model keeps of good parts fitted anew, by today's version; its weights stay.

For a model whose photos look otherwise than they did (another lamp, another camera), or that an earlier version of unias
calibrated: statistics, the fusion of the levels, the cuts.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from unias.api import check_output
from unias.data.layouts import Dataset
from unias.errors import UsageError
from unias.files import claimed_folder
from unias.inference import rehearsal
from unias.inference.predictor import Model
from unias.inference.store import StoredModel, load_model, save_model
from unias.maps.detector import Detector
from unias.presets import preset
from unias.progress import Progress
from unias.run.remembered import refuse_folded, remembered
from unias.run.unias import UniASRun
from unias.runtime import pick_device, set_threads, stamp


def refit(
    model: Path | str,
    data: Path | str,
    output: Path | str,
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Fit statistics, fusions and cuts of a trained model anew, on the photos of ``data``, and write it to ``output``.

    Args:
        data: folder with the photos that the model was trained on, the held-out ones among them, under the same names: photos
            that it learned from serve statistics, held-out ones the cuts, as in training.

    Held-out photos that joined by ``unias calibrate --good`` and are not in ``data`` are left out, and said.

    How levels are fused is set as the model's preset sets it today. What ``unias calibrate`` set (areas, zones, rates of single
    products, missed defects) is the settings' again. Raises UsageError for an export or another system, DataError for
    photos that are not there.
    """
    progress = progress or Progress("silent")
    set_threads(threads)
    place, folder, home = pick_device(device), Path(model), Path(os.path.abspath(output))
    stored = load_model(folder, place)
    if not isinstance(stored.detector, Detector):
        raise UsageError(
            f"{folder}: only a model trained by UniAS itself can be fitted anew, no export and no other system."
        )
    if home != Path(os.path.abspath(folder)):
        check_output(home, False)  # said now, not after minutes
    refuse_folded(folder, stored.products, "Train it again.")
    split = remembered(stored.products, Path(data), progress)
    config = dataclasses.replace(stored.config, maps=preset(stored.config.preset).maps)
    photos = tuple(sample for own, held in split.values() for sample in own + held)
    with claimed_folder(home.parent):
        whole = Dataset(Path(data), "refit", tuple(split), photos)
        detector = Detector(
            stored.detector.backbone,
            stored.detector.unias,
            stored.detector.statistics,
            config.maps,
            config.size,
            config.tiling,
        )
        run = UniASRun(whole, split, config, detector.backbone, place, progress, time.monotonic())
        if config.train.cache:
            run.fill_cache()  # rounded as training saw them
        products = run.calibrate(detector.to(place).eval())
        config = dataclasses.replace(config, maps=dataclasses.replace(config.maps, drawn=run.drawn))
        own = {name: own for name, (own, _) in split.items()}
        kept = rehearsal.keep(own, config.train.keep_photos, config.input_size, config.bits)
        record = {**stored.record, "refitted": {"data": Path(data).resolve().name, "commit": stamp()["commit"]}}
        result = StoredModel(detector, config, products, record, kept)
        save_model(home, result)
    return Model(result)
