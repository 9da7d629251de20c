"""A model in use, trained or exported: photos in, Results out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.calibration.ranks import p_value
from unias.calibration.verdict import draw_mask, image_score
from unias.config import Config
from unias.data.decode import Photo, load_input
from unias.errors import DataError, UsageError
from unias.inference.engines import ExportedDetector, ExportInfo
from unias.inference.hub import local_folder
from unias.inference.products import ProductInfo
from unias.inference.result import Result, pred_score
from unias.inference.sources import OnePhoto, OnError, each_photo, in_batches, is_one_photo
from unias.inference.store import StoredModel, load_model, save_model
from unias.inference.video import Frame, is_camera
from unias.maps.detector import Maps
from unias.maps.levels import to_input_size
from unias.maps.resolution import smallest_defect
from unias.runtime import inference_half, pick_device
from unias.systems.registry import UNIAS

BATCH = 8  # photos, or views of them


@dataclass(frozen=True)
class Decoded:
    """A photo on its way to the model.

    Attributes:
        path: the photo's, None for pixels that came without one.
        pixels: float32 (3, S, S) in [0, 1], the model's input.
        size: the photo's own (h, w).
        picture: what to show of it, uint8 (S, S, 3); None unless asked for.
        seconds: how long decoding took.
        name: what results call it; "" for pixels that came without one.
    """

    path: Path | None
    pixels: NDArray[np.float32]
    size: tuple[int, int]
    picture: NDArray[np.uint8] | None
    seconds: float
    name: str = ""


class Model:
    """One model for every product it was trained on. ``unias.load`` and ``unias.train`` make it."""

    def __init__(self, stored: StoredModel) -> None:
        self._stored = stored
        self.detector = stored.detector.eval()
        if not isinstance(self.detector, ExportedDetector):
            self.detector.compose()
            self.detector.backbone.fold()
        self._index = {product.name: place for place, product in enumerate(stored.products)}

    @classmethod
    def load(
        cls, folder: Path | str, device: str = "auto", precision: str = "float32", revision: str | None = None
    ) -> Model:
        """A trained model's folder, or an export's, which runs on the processor, or a model on the Hugging Face Hub.

        Args:
            folder: its path, or user/model or hf://user/model (``inference.hub``).
            precision: float32, in which the cuts were measured; bfloat16; or auto: half precision where the device has it.
                Maps then differ by up to 2% of their maximum.
            revision: branch, tag or commit of a model on the Hub.

        Raises DataError naming what is wrong with the folder, UsageError for a device or precision that is not here,
        MissingError where the runtime of an export is not installed, or the Hub cannot be reached.
        """
        place = pick_device(device)
        half = inference_half(precision, place)
        model = cls(load_model(local_folder(folder, revision), place))
        if not isinstance(model.detector, ExportedDetector):
            model.detector.compute_type = half
        elif precision == "bfloat16":
            raise UsageError(f"--precision: {folder} is an export, whose numbers were chosen when it was made.")
        if model.exported is not None and device not in ("auto", "cpu"):
            raise UsageError(
                f"--device: {device!r} is not for {folder}: exports run on the processor. Use --device cpu."
            )
        return model

    def save(self, folder: Path | str) -> None:
        """Write the model folder, whole or not at all."""
        save_model(Path(folder), self._stored)

    @property
    def exported(self) -> ExportInfo | None:
        """How the graph was made and checked, where this is an exported model."""
        return self.detector.info if isinstance(self.detector, ExportedDetector) else None

    @property
    def config(self) -> Config:
        """Every setting it was trained with."""
        return self._stored.config

    @property
    def products(self) -> tuple[ProductInfo, ...]:
        """Its products, with their cuts."""
        return self._stored.products

    def move_cuts(self, products: Sequence[ProductInfo]) -> None:
        """Judge by these entries from now on, in memory (``store.rewrite_products`` writes them).

        Raises UsageError unless they are of this model's products, in their order.
        """
        if [info.name for info in products] != list(self._index):
            raise UsageError(f"products: give an entry for each of {', '.join(self._index)}, in this order.")
        self._stored = replace(self._stored, products=tuple(products))

    @property
    def record(self) -> dict[str, Any]:
        """Data, seed, steps, minutes, machine, versions."""
        return self._stored.record

    def smallest_defect(self, size: tuple[int, int], product: str | None = None) -> tuple[float, float] | None:
        """(height, width) in pixels of the smallest defect that keeps half its contrast in a photo of ``size`` = (height, width).

        It rests on the grid of the levels and their smoothing, not on the photos (``maps.resolution`` says how), and on a last
        blur and the least area that a region must have (of ``product``, or the largest of all). None for systems beside UniAS,
        whose grids are their own.
        """
        if self.config.system != UNIAS:
            return None
        chosen = [info for info in self.products if product in (None, info.name)]
        area = max((info.min_area for info in chosen), default=1)
        return smallest_defect(size, self.config, area, max((info.blurred for info in chosen), default=0.0))

    def predict(
        self,
        source: Any,
        product: str | None = None,
        levels: bool = False,
        image: bool = False,
        batch_size: int | None = None,
        on_error: OnError | None = None,
        every: int = 1,
    ) -> Any:
        """One photo (path, bytes, PIL image, array) gives one Result; anything else an iterator of Results in order, with flat
        memory: a folder, a pattern, an N x H x W x 3 array, a video (clip.mp4), a camera ("camera:0"), any iterable of these.
        Closing the iterator closes videos and cameras.

        Args:
            product: which product the photos show; None = it is recognised, or found to be none that the model knows.
            levels: keep the level maps (supplement Fig. 3).
            image: keep the photo as the model saw it, though it has a path.
            batch_size: photos computed at once; None = 8, or fewer where they are tiled. Those of a camera are computed one by
                one, as they come; give 1 for an iterable whose photos come one by one too.
            on_error: called with a photo (or video) that cannot be read and its error, instead of raising.
            every: take every n-th frame of videos and cameras.

        Raises:
            DataError: a photo that cannot be read; names it.
            MissingError: videos and cameras need the extra ``video``.
            UsageError: a product the model does not know, or something that is no photo.
        """
        if product is not None and product not in self._index:
            raise UsageError(f"product: {product!r} is not one of this model's: {', '.join(self._index)}.")
        if is_one_photo(source):
            return next(self._results(iter([source]), product, levels, image, 1, None))
        photos = each_photo(source, every, on_error)
        at_once = batch_size or max(1, BATCH // self.config.tiling.views)
        live = any(is_camera(one) for one in (source if isinstance(source, (list, tuple)) else [source]))
        return self._results(photos, product, levels, image, 1 if live else at_once, on_error)

    def _results(
        self,
        photos: Iterator[OnePhoto],
        product: str | None,
        levels: bool,
        image: bool,
        batch_size: int,
        on_error: OnError | None,
    ) -> Iterator[Result]:
        try:
            for batch in in_batches(photos, batch_size):
                yield from self._batch(batch, product, levels, image, on_error)
        finally:
            if isinstance(photos, Generator):
                photos.close()  # and with it the video or camera it reads from

    def _check_depth(self, name: str, decoded: Photo) -> None:
        if decoded.bits > 8 and self.exported is not None and self.exported.pixels == "uint8":
            raise DataError(
                f"{name}: has {decoded.bits} bits a channel, and this export takes 8. Export the model again with "
                "--pixels float32, or use the trained model."
            )

    def _batch(
        self,
        photos: list[OnePhoto],
        product: str | None,
        levels: bool,
        image: bool,
        on_error: OnError | None,
    ) -> Iterator[Result]:
        decoded: list[Decoded] = []
        for photo in photos:
            try:
                decoded.append(self.decode(photo, image))
            except DataError as error:
                if on_error is None:
                    raise
                on_error(photo, error)
        yield from self.predict_decoded(decoded, [product] * len(decoded), levels)

    def decode(self, photo: OnePhoto, image: bool = False, name: str | None = None) -> Decoded:
        """One photo as the model takes it; any number of threads may do so at once.

        Args:
            image: keep the photo as the model sees it, though it has a path.
            name: what messages call the photo; by default its path.

        Raises DataError for a photo that cannot be read.
        """
        began = time.perf_counter()
        path = Path(photo) if isinstance(photo, (str, Path)) else None
        source = photo.pixels if isinstance(photo, Frame) else photo
        called = name or (photo.name if isinstance(photo, Frame) else None)
        pixels, found = load_input(source, self.config.input_size, self.config.bits, called)
        self._check_depth(called or str(path or "the photo"), found)
        picture = (
            _as_seen(pixels) if image or path is None else None
        )  # what has no path cannot be read again for pictures
        return Decoded(path, pixels, found.size, picture, time.perf_counter() - began, _name(photo))

    def predict_decoded(
        self, photos: Sequence[Decoded], products: Sequence[str | None], levels: bool = False
    ) -> list[Result]:
        """Results of decoded photos in their order, as one batch; two where some products are given and some are not.

        Args:
            products: of each photo, one of the model's; None = it is recognised.
        """
        results: dict[int, Result] = {}
        for given in (False, True):
            places = [place for place, product in enumerate(products) if (product is not None) is given]
            if places:
                known = [self._index[str(products[place])] for place in places] if given else None
                judged = self._run([photos[place] for place in places], known, levels)
                results.update(zip(places, judged, strict=True))
        return [results[place] for place in range(len(photos))]

    def _run(self, photos: Sequence[Decoded], products: list[int] | None, levels: bool) -> list[Result]:
        """One batch; ``products`` are indices."""
        device = self.detector.device
        began = time.perf_counter()
        with torch.inference_mode():
            images = torch.from_numpy(np.stack([photo.pixels for photo in photos])).to(device)
            known = None if products is None else torch.tensor(products, device=device)
            maps = self.detector(images, known)
            at_size = (
                {k: to_input_size(v.float(), self.config.input_size) for k, v in maps.levels.items()} if levels else {}
            )
            level_maps = {k: v.cpu().numpy() for k, v in at_size.items()}
            anomaly_maps = maps.anomaly_map.float().cpu().numpy()
        seconds = (time.perf_counter() - began) / len(photos)
        found = []
        for row, photo in enumerate(photos):
            of_photo = {level: values[row] for level, values in level_maps.items()}
            found.append(self._judge(photo, maps, row, np.ascontiguousarray(anomaly_maps[row]), of_photo, seconds))
        return found

    def _judge(
        self,
        photo: Decoded,
        maps: Maps,
        row: int,
        anomaly_map: NDArray[np.float32],
        level_maps: dict[int, NDArray[np.float32]],
        seconds: float,
    ) -> Result:
        """The verdict on one photo of a batch."""
        began = time.perf_counter()
        info = self.products[int(maps.product[row])]
        known = maps.novelty is None or float(maps.novelty[row]) <= 1
        # Else it would pass: nothing is above a cut that is compared with no number.
        if not np.isfinite(anomaly_map).all():
            raise DataError(
                f"{photo.path or photo.name or 'photo'}: its anomaly map has values that are no numbers. Try --precision float32 "
                "and --device cpu; where that does not help, the model's weights are broken: train it again."
            )
        raw = score_of(maps, row, anomaly_map, info)
        failed = raw > info.cut.value
        held = info.held_out_scores
        if known:
            mask = draw_mask(anomaly_map, raw, info.cut.value, info.lower, info.min_area, info.ignore)
        else:
            mask = np.zeros(anomaly_map.shape, dtype=bool)
        took = {"decode": photo.seconds, "model": seconds, "verdict": time.perf_counter() - began}
        return Result(
            path=photo.path,
            product=info.name if known else None,
            nearest=info.name,
            ok=known and not failed,
            raw_score=raw,
            pred_score=pred_score(raw, info.cut.value),
            p_value=p_value(raw, held) if known and held else None,
            cut=info.cut.value,
            size=photo.size,
            model_map=anomaly_map,
            model_mask=mask,
            level_maps=level_maps,
            image=photo.picture,
            timings=took,
            name=photo.name,
            bits=self.config.bits,
        )


def _name(photo: OnePhoto) -> str:
    return photo.name if isinstance(photo, Frame) else str(photo) if isinstance(photo, (str, Path)) else ""


def _as_seen(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A model's input (3, S, S) in [0, 1] -> (S, S, 3) for people."""
    return np.ascontiguousarray(np.rint(pixels * 255).astype(np.uint8).transpose(1, 2, 0))


def score_of(maps: Maps, row: int, anomaly_map: NDArray[np.float32], info: ProductInfo) -> float:
    """What one photo of a batch is judged by: its map, or the system's own score where that has one and neither a least area
    nor an ignore-zone is set."""
    if maps.score is not None and info.min_area <= 1 and info.ignore is None:
        return float(maps.score[row])
    return image_score(anomaly_map, info.min_area, info.ignore)
