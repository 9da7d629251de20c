"""A model as the watcher wants one: encoded photos in, a row and pictures for each out, as ``unias predict`` makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unias.calibration.drift import LAST, DriftWatch
from unias.data.decode import read_photo
from unias.errors import DataError
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.report.predictions import COLUMNS, write_pictures
from unias.serve.watch import Row, Taken

FIRST = (
    50  # passed parts of a product before the first look; then there is one each time that ``LAST`` more have passed
)


class _DriftOfProducts:
    """Looks at stretches of parts that do not overlap, so that a warning without a cause stays as rare as ``drift.CHANCE``."""

    def __init__(self, model: Model, say: Callable[[str], None]) -> None:
        self._watches = {info.name: DriftWatch(info.held_out_scores, info.cut.value) for info in model.products}
        self._left = dict.fromkeys(self._watches, FIRST)
        self._say = say

    def see(self, result: Result) -> None:
        """One more part."""
        if result.product is None or not result.ok:
            return
        watch = self._watches[result.product]
        watch.add(result.raw_score)
        self._left[result.product] -= 1
        if self._left[result.product] > 0:
            return
        self._left[result.product] = LAST
        found = watch.look()
        if found.drifted:
            self._say(f"{result.product}: {found.describe()}")


class ModelInspector:
    """Judges photos with a model and writes their heat maps and masks below ``home``.

    Args:
        product: which product they show; None = it is recognised.
        levels: also a picture of the map of every level.
        say: is told when the parts that pass no longer look like the held-out ones.
    """

    columns = COLUMNS

    def __init__(
        self,
        model: Model,
        home: Path,
        product: str | None = None,
        levels: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._model = model
        self._home = home
        self._product = product
        self._levels = levels
        self._drift = _DriftOfProducts(model, say)
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
            result = next(found)
            self._drift.see(result)
            answers.append(write_pictures(self._home, photo.name, result, decoded))
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
