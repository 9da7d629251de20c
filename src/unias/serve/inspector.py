"""A model as the watcher wants one: encoded photos in, a row and pictures for each out, as ``unias predict`` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unias.data.decode import read_photo
from unias.errors import DataError
from unias.inference.predictor import Model
from unias.report.predictions import COLUMNS, write_pictures
from unias.serve.watch import Row, Taken


class ModelInspector:
    """Judges photos with a model and writes their heat maps and masks below ``home``.

    Args:
        product: which product they show; None = it is recognised.
        levels: also a picture of the map of every level.
    """

    columns = COLUMNS

    def __init__(self, model: Model, home: Path, product: str | None = None, levels: bool = False) -> None:
        self._model = model
        self._home = home
        self._product = product
        self._levels = levels
        model.predict([], product=product)  # a product that the model does not know is said now

    def __call__(self, photos: Sequence[Taken]) -> list[Row | DataError]:
        """A row for each photo, or the error of one that cannot be decoded."""
        refused: dict[int, DataError] = {}

        def refuse(data: Any, error: DataError) -> None:
            refused[id(data)] = error  # the photos' bytes live in ``photos`` until this call ends

        results = self._model.predict(
            [photo.data for photo in photos],
            product=self._product,
            levels=self._levels,
            batch_size=max(1, len(photos)),
            on_error=refuse,
        )
        answers: list[Row | DataError] = []
        found = iter(list(results))
        for photo in photos:
            if id(photo.data) in refused:
                answers.append(self._named(photo, refused[id(photo.data)]))
                continue
            decoded = read_photo(photo.data, self._model.config.bits, str(photo.path))
            answers.append(write_pictures(self._home, photo.name, next(found), decoded))
        return answers

    def _named(self, photo: Taken, error: DataError) -> DataError:
        """The same error with the photo's path in it."""
        if not photo.data:
            return DataError(f"{photo.path}: empty, a file of zero bytes. Send it again.")
        try:
            read_photo(photo.data, self._model.config.bits, str(photo.path))
        except DataError as named:
            return named
        return DataError(f"{photo.path}: {error}")
