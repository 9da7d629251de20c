"""The models of a studio: opened once, asked by one thread at a time, their cuts shown and moved."""

from __future__ import annotations

import functools
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.calibration.cuts import Cut
from unias.calibration.ranks import CONFIDENCE, beta_quantile
from unias.inference import pictures
from unias.inference.predictor import Model
from unias.inference.products import ProductInfo
from unias.inference.recalibrate import recalibrate
from unias.inference.result import Result
from unias.inference.store import rewrite_products
from unias.serve.refusals import Refusal
from unias.studio.judged import Judged, model_key, product_of, read_judged, stamp_of, weights_of
from unias.studio.workspace import MODELS, Workspace, read_json

MOST_RESULTS = 24  # kept in memory, a few MB each
LONGEST_SIDE = 2048  # of a layer, in pixels
MAP, MASK = "map", "mask"
T = TypeVar("T")


class Shelf:
    """One model in memory, the one asked last; another one takes its place."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.RLock()
        self._open: tuple[str, str, Model] | None = None
        self._results: OrderedDict[tuple[str, str, str], Result] = OrderedDict()

    def listed(self) -> list[dict[str, Any]]:
        """[{"name", "made", "products", "system"}], the newest first; nothing is opened."""
        return [self._line(folder) for folder in self.workspace.folders(MODELS)]

    @staticmethod
    def _line(folder: Path) -> dict[str, Any]:
        content = read_json(folder / "products.json")
        record = content.get("record") or {}
        return {
            "name": folder.name,
            "made": weights_of(folder).stat().st_mtime,
            "products": [str(entry.get("name")) for entry in content.get("products") or []],
            "system": str(record.get("system") or "unias"),
            "minutes": record.get("minutes"),
            "steps": record.get("steps"),
        }

    def using(self, name: str, work: Callable[[Model], T]) -> T:
        """``work`` with a model, alone with it. Raises Refusal 404 where there is none, DataError for a broken one."""
        folder = self.workspace.existing(MODELS, name)
        with self._lock:
            stamp = _stamp(folder)
            if self._open is None or self._open[:2] != (name, stamp):
                self._open = None  # out of memory before the next one comes in
                self._results.clear()
                self._open = (name, stamp, Model.load(folder))
            return work(self._open[2])

    def products(self, name: str) -> tuple[ProductInfo, ...]:
        """With their cuts."""
        return self.using(name, lambda model: model.products)

    def about(self, name: str) -> dict[str, Any]:
        """The model with each product's cut and what it promises."""

        def look(model: Model) -> dict[str, Any]:
            rows = [product_view(info) for info in model.products]
            return {"name": name, "system": model.config.system, "products": rows}

        return {**self._line(self.workspace.existing(MODELS, name)), **self.using(name, look)}

    def judged(self, name: str) -> dict[str, Judged]:
        """What it said of photos, by their ids."""
        folder = self.workspace.existing(MODELS, name)
        return read_judged(self.workspace, name, model_key(folder))

    def judged_views(self, name: str, product: str = "") -> list[dict[str, Any]]:
        """The same by the cuts of today, sorted by id; of one product (its folder's, else recognised) where given."""
        lines = self.judged(name)
        if not lines:
            return []
        products = {info.name: info for info in self.products(name)}
        rows = [line.view(products) for _, line in sorted(lines.items()) if line.nearest in products]
        return [row for row in rows if not product or row["nearest"] == product]

    def scores(self, name: str, product: str) -> dict[str, Any]:
        """All that the threshold screen draws, so that the line is moved without a question."""
        info = self.info(name, product)
        rows = self.judged_views(name, product)
        test = [row for row in rows if row["split"] == "test"]
        count = len(info.held_out_scores)
        return {
            "product": product,
            "good": sorted(info.held_out_scores),
            "cut": info.cut.value,
            "k": info.cut.promise.rank,
            "wished": info.cut.promise.wished,
            "missing": info.cut.promise.missing,
            "provisional": info.cut.provisional,
            "bounds": list(_bounds(count)),
            "rates": [rank / (count + 1) for rank in range(1, count + 1)],
            "missed": sorted(info.missed_scores),
            "judged": bool(self.judged(name)),
            "test_good": [{"id": row["id"], "score": row["score"]} for row in test if row["kind"] == "good"],
            "defect": [
                {"id": row["id"], "score": row["score"], "kind": row["kind"]} for row in test if row["kind"] != "good"
            ],
        }

    def info(self, name: str, product: str) -> ProductInfo:
        """One product. Raises Refusal 422 where the model does not know it."""
        infos = {info.name: info for info in self.products(name)}
        if product not in infos:
            raise Refusal(422, "product", f"the model does not know {product[:80]!r}.", f"It knows {', '.join(infos)}.")
        return infos[product]

    def set_cut(self, name: str, product: str, rank: int) -> dict[str, Any]:
        """The cut to the ``rank``-th largest held-out score, by what ``unias calibrate --false-alarms`` does.

        Raises Refusal 422 for a rank that is none.
        """

        def move(model: Model) -> dict[str, Any]:
            count = len(self.info(name, product).held_out_scores)
            if not 1 <= rank <= count:
                raise Refusal(
                    422,
                    "parameters",
                    f"k: {rank} is not 1 to {count}, the held-out photos of {product}.",
                    "Choose one.",
                )
            products, _, _ = recalibrate(model, false_alarms=rank / (count + 1), product=product)
            return self.rewritten(name, products, product)

        return self.using(name, move)

    def rewritten(self, name: str, products: Sequence[ProductInfo], product: str = "") -> dict[str, Any]:
        """Write cuts into the model's folder: {"before", "after"} of one product, or {"products": [...]} of all."""
        folder = self.workspace.existing(MODELS, name)

        def move(model: Model) -> tuple[ProductInfo, ...]:
            before = model.products
            rewrite_products(folder, products)
            model.move_cuts(products)
            self._results.clear()
            self._open = (name, _stamp(folder), model)
            return before

        old = self.using(name, move)
        pairs = [(one, other) for one, other in zip(old, products, strict=True) if product in ("", one.name)]
        views = [
            {"product": one.name, "before": cut_view(one.cut), "after": cut_view(other.cut)} for one, other in pairs
        ]
        return views[0] if product else {"products": views}

    def result(self, name: str, number: str) -> Result:
        """A model's full answer on a photo: as its folder's product, or recognised."""
        path = self.workspace.photo(number)
        key = (name, number, stamp_of(path))

        def ask(model: Model) -> Result:
            if key not in self._results:
                told = product_of(number, [info.name for info in model.products])
                self._results[key] = model.predict(path, product=told, levels=True)
                while len(self._results) > MOST_RESULTS:
                    self._results.popitem(last=False)
            self._results.move_to_end(key)
            return self._results[key]

        return self.using(name, ask)

    def inspected(self, name: str, number: str) -> dict[str, Any]:
        """A photo's answer for the page."""
        result = self.result(name, number)
        height, width = result.size
        levels = [str(level) for level in sorted(result.level_maps, reverse=True)]
        least = self.using(name, lambda model: model.smallest_defect((height, width), result.product))
        seen = None if least is None else [round(least[1], 1), round(least[0], 1)]
        shown = {"path": number, "id": number, "width": width, "height": height, "levels": levels}
        return {**result.to_dict(), **shown, "smallest_defect": seen}

    def layer(self, name: str, number: str, layer: str) -> bytes:
        """The map, the mask or a level in colour over nothing: a PNG with alpha. Raises Refusal 404 for no such layer."""
        result = self.result(name, number)
        side = min(LONGEST_SIDE, max(result.size))
        size = pictures.fitted(result.size, side)
        if layer == MASK:
            return _rgba_png(_mask_layer(result, side))
        if layer == MAP:
            return _rgba_png(_map_layer(result.model_map, size, 0.0, 2 * result.cut))
        for level, values in result.level_maps.items():
            if layer == str(level):
                return _rgba_png(_map_layer(values, size, float(values.min()), float(values.max())))
        raise Refusal(404, "missing", f"layer: there is no {layer[:40]!r}.", "The answer of inspect lists the levels.")


@functools.lru_cache(maxsize=64)
def _bounds(count: int) -> tuple[float, ...]:
    """The bound at 95% of the cut at each rank among so many held-out scores."""
    return tuple(beta_quantile(CONFIDENCE, rank, count + 1 - rank) for rank in range(1, count + 1))


def _stamp(folder: Path) -> str:
    """Changes with anything in a model's folder."""
    stat = (folder / "manifest.json").stat()
    return f"{stat.st_ino}-{stat.st_mtime_ns}"


def cut_view(cut: Cut) -> dict[str, Any]:
    """A cut and what it promises."""
    found = cut.promise
    return {
        "cut": cut.value,
        "held_out": found.held_out,
        "k": found.rank,
        "wished": found.wished,
        "promised": found.rate,
        "bound95": found.bound,
        "provisional": cut.provisional,
        "missing": found.missing,
    }


def product_view(info: ProductInfo) -> dict[str, Any]:
    """A product's cut, and in words what it promises."""
    return {"name": info.name, **cut_view(info.cut), "min_area": info.min_area, "said": info.promised()}


def _map_layer(values: NDArray[np.float32], size: tuple[int, int], low: float, high: float) -> NDArray[np.uint8]:
    """Colours from low to high; the lower, the clearer."""
    strength = pictures.scaled(pictures.resized_map(values, size), high, low)
    colour = pictures.COLOURS[(strength * 255).round().astype(np.uint8)]
    alpha = (255 * strength**0.6).round().astype(np.uint8)
    return np.concatenate([colour, alpha[..., None]], axis=2)


def _mask_layer(result: Result, side: int) -> NDArray[np.uint8]:
    mask = pictures.fit_mask(result.pred_mask, side)
    layer = np.zeros((*mask.shape, 4), dtype=np.uint8)
    layer[mask] = (*pictures.RED, 255)
    return layer


def _rgba_png(layer: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(layer, "RGBA").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
