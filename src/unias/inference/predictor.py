"""A model in use, trained or exported: photos in, Results out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unias.config import Config
from unias.data.decode import Photo, load_input, to_display
from unias.errors import DataError, UsageError
from unias.inference.engines import ExportedDetector, ExportInfo
from unias.inference.result import Result, pred_score
from unias.inference.sources import OnePhoto, each_photo, is_one_photo
from unias.inference.store import ProductInfo, StoredModel, load_model, save_model
from unias.maps.levels import to_input_size
from unias.runtime import inference_half, pick_device

OnError = Callable[[OnePhoto, DataError], None]


class Model:
    """One model for every product it was trained on. ``unias.load`` and ``unias.train`` make it."""

    def __init__(self, stored: StoredModel) -> None:
        self._stored = stored
        self.detector = stored.detector.eval()
        if not isinstance(self.detector, ExportedDetector):
            self.detector.compose()
        self._index = {product.name: place for place, product in enumerate(stored.products)}

    @classmethod
    def load(cls, folder: Path | str, device: str = "auto", precision: str = "float32") -> Model:
        """A trained model's folder, or an export's, which runs on the processor.

        Args:
            precision: float32, in which the cuts were measured; bfloat16; or auto: half precision where the device has it.
                Maps then differ by up to 2% of their maximum.

        Raises DataError naming what is wrong with the folder, UsageError for a device or precision that is not here,
        MissingError where the runtime of an export is not installed.
        """
        place = pick_device(device)
        half = inference_half(precision, place)
        model = cls(load_model(folder, place))
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

    @property
    def record(self) -> dict[str, Any]:
        """Data, seed, steps, minutes, machine, versions."""
        return self._stored.record

    def predict(
        self,
        source: Any,
        product: str | None = None,
        levels: bool = False,
        image: bool = False,
        batch_size: int = 8,
        on_error: OnError | None = None,
    ) -> Any:
        """One photo (path, bytes, PIL image, array) gives one Result; anything else an iterator of Results in order, with flat
        memory: a folder, a pattern, an N x H x W x 3 array, any iterable.

        Args:
            product: which product the photos show; None = the nearest class mean of pooled features.
            levels: keep the level maps (supplement Fig. 3).
            image: keep the photo as the model saw it.
            on_error: called with a photo that cannot be read and its error, instead of raising.

        Raises:
            DataError: a photo that cannot be read; names it.
            UsageError: a product the model does not know, or something that is no photo.
        """
        if product is not None and product not in self._index:
            raise UsageError(f"product: {product!r} is not one of this model's: {', '.join(self._index)}.")
        if is_one_photo(source):
            return next(self._results([source], product, levels, image, 1, None))
        return self._results(each_photo(source), product, levels, image, batch_size, on_error)

    def _results(
        self,
        photos: Iterable[OnePhoto],
        product: str | None,
        levels: bool,
        image: bool,
        batch_size: int,
        on_error: OnError | None,
    ) -> Iterator[Result]:
        waiting: list[OnePhoto] = []
        for photo in photos:
            waiting.append(photo)
            if len(waiting) == batch_size:
                yield from self._batch(waiting, product, levels, image, on_error)
                waiting = []
        if waiting:
            yield from self._batch(waiting, product, levels, image, on_error)

    def _check_depth(self, photo: OnePhoto, decoded: Photo) -> None:
        if decoded.bits > 8 and self.exported is not None and self.exported.pixels == "uint8":
            name = photo if isinstance(photo, (str, Path)) else "the photo"
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
        inputs: list[NDArray[np.float32]] = []
        kept: list[tuple[OnePhoto, tuple[int, int], NDArray[np.uint8] | None]] = []
        for photo in photos:
            try:
                pixels, decoded = load_input(photo, self.config.size, self.config.bits)
                self._check_depth(photo, decoded)
            except DataError as error:
                if on_error is None:
                    raise
                on_error(photo, error)
                continue
            inputs.append(pixels)
            kept.append((photo, decoded.size, to_display(decoded, self.config.size) if image else None))
        if not inputs:
            return
        device = self.detector.device
        with torch.inference_mode():
            images = torch.from_numpy(np.stack(inputs)).to(device)
            known = None if product is None else torch.full((len(images),), self._index[product], device=device)
            maps = self.detector(images, known)
            at_size = {k: to_input_size(v.float(), self.config.size) for k, v in maps.levels.items()} if levels else {}
            level_maps = {k: v.cpu().numpy() for k, v in at_size.items()}
            anomaly_maps = maps.anomaly_map.float().cpu().numpy()
            own_scores = None if maps.score is None else maps.score.tolist()
        for row, (photo, size, picture) in enumerate(kept):
            info = self.products[int(maps.product[row])]
            anomaly_map = np.ascontiguousarray(anomaly_maps[row])
            raw = float(anomaly_map.max()) if own_scores is None else own_scores[row]
            cut, failed = info.cut.value, raw > info.cut.value
            yield Result(
                path=Path(photo) if isinstance(photo, (str, Path)) else None,
                product=info.name,
                raw_score=raw,
                pred_score=pred_score(raw, cut),
                ok=not failed,
                cut=cut,
                anomaly_map=anomaly_map,
                pred_mask=failed & (anomaly_map.astype(np.float64) > cut),  # in float32 the cut itself would be rounded
                size=size,
                level_maps={k: v[row] for k, v in level_maps.items()},
                image=picture,
            )
