"""Verdicts of people on photos that lie near the cut, and cuts moved by them.

FOLDER/reviews.jsonl: {"id", "label", "model", "time", "stamp"}, one line each time a person says something; the last one counts.
FOLDER/counted.json: {model: {"model", "products"}}, what verdicts have left in which model, so that it can be taken out again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unias.errors import DataError
from unias.files import write_json
from unias.inference.predictor import Model
from unias.inference.recalibrate import Added, Price, recalibrate, without
from unias.serve.refusals import Refusal
from unias.studio.judged import model_key, product_of, stamp_of
from unias.studio.models import Shelf, cut_view
from unias.studio.workspace import MODELS, Workspace, read_json, read_lines_of

FILE = "reviews.jsonl"
COUNTED = "counted.json"
LABELS = ("good", "defect", None)


class Reviews:
    """What people said of photos; a photo that changes is one that nobody has seen."""

    def __init__(self, workspace: Workspace, shelf: Shelf) -> None:
        self.workspace = workspace
        self.shelf = shelf
        self._lock = threading.Lock()

    def labels(self) -> dict[str, str]:
        """{photo's id: "good" or "defect"} of photos that are still there, unchanged."""
        said: dict[str, dict[str, Any]] = {}
        for line in read_lines_of(self.workspace / FILE):
            if isinstance(line.get("id"), str) and line.get("label") in LABELS:
                said[line["id"]] = line
        found = {}
        for number, line in said.items():
            try:
                if line["label"] is not None and stamp_of(self.workspace.photo(number)) == line.get("stamp"):
                    found[number] = line["label"]
            except (Refusal, OSError):
                continue
        return found

    def say(self, model: str, number: str, label: str | None) -> dict[str, Any]:
        """Keep a verdict; null takes it back."""
        path = self.workspace.photo(number)
        line = {"id": number, "label": label, "model": model, "time": round(time.time(), 3), "stamp": stamp_of(path)}
        try:
            with self._lock, open(self.workspace / FILE, "a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise DataError(
                f"{self.workspace / FILE}: cannot be written ({error.strerror}). Free some space."
            ) from error
        return {"id": number, "label": label}

    def borderline(self, name: str, product: str) -> list[dict[str, Any]]:
        """Judged photos of known products, nearest to the cut first, with what people said."""
        labels = self.labels()
        rows = [row for row in self.shelf.judged_views(name, product) if row["product"] is not None]
        rows.sort(key=lambda row: (abs(row["pred_score"] - 0.5), row["id"]))
        return [{**row, "label": labels.get(row["id"])} for row in rows]

    def recalibrate(self, name: str, product: str) -> dict[str, Any]:
        """Move the cuts by the verdicts of today, as ``unias calibrate --good --missed`` does: before, after and the price. What
        earlier verdicts left in the model is taken out first, so that one that was taken back or changed counts no more.

        Raises Refusal 422 where nobody has said anything that could move a cut.
        """
        infos = self.shelf.products(name)
        if product:
            self.shelf.info(name, product)
        good, defect, left_out = self._by_product(name, [info.name for info in infos], product)

        def move(model: Model) -> list[Price]:
            counted, now = self._counted(name), {}
            moved, prices = list(model.products), []
            for place, info in enumerate(model.products):
                mine, missed = good.get(info.name, []), defect.get(info.name, [])
                before = counted.get(info.name, Added()) if product in ("", info.name) else Added()
                if not mine and not missed and before == Added():
                    continue
                products, found, _ = recalibrate(
                    model, good=mine or None, missed=missed or None, product=info.name, forget={info.name: before}
                )
                after, base = products[place], without(info, before)
                moved[place] = after
                prices += found
                now[info.name] = Added(
                    after.held_out[len(base.held_out) :], after.missed_scores[len(base.missed_scores) :]
                )
            if prices:
                both = {}
                for one, added in now.items():
                    was = counted.get(one, Added())
                    both[one] = Added(was.good + added.good, was.missed + added.missed)
                self._count(name, {**counted, **both})  # killed between the two, either is taken out next time
                self.shelf.rewritten(name, moved)
                self._count(name, {**counted, **now})
            return prices

        prices = self.shelf.using(name, move)
        if not prices and not good and not defect:
            raise Refusal(
                422,
                "nothing",
                "no photo was reviewed yet.",
                'Say "good" or "defect" of some photos near the cut first.',
            )
        return {"products": [_price(price) for price in prices], "left_out": left_out, "moved": bool(prices)}

    def _counted(self, name: str) -> dict[str, Added]:
        """{product: what verdicts left in the model}, of this training of it."""
        line = read_json(self.workspace / COUNTED).get(name)
        if not isinstance(line, dict) or line.get("model") != model_key(self.workspace.existing(MODELS, name)):
            return {}
        return {product: Added(tuple(one["good"]), tuple(one["missed"])) for product, one in line["products"].items()}

    def _count(self, name: str, added: Mapping[str, Added]) -> None:
        key = model_key(self.workspace.existing(MODELS, name))
        products = {product: {"good": list(one.good), "missed": list(one.missed)} for product, one in added.items()}
        lines = {**read_json(self.workspace / COUNTED), name: {"model": key, "products": products}}
        write_json(self.workspace / COUNTED, lines)

    def _by_product(
        self, name: str, names: Sequence[str], product: str
    ) -> tuple[dict[str, list[Path]], dict[str, list[Path]], list[str]]:
        """({product: good photos}, {product: defective ones}, photos of no known product)."""
        self.workspace.existing(MODELS, name)
        judged = {row["id"]: row for row in self.shelf.judged_views(name)}
        good: dict[str, list[Path]] = {}
        defect: dict[str, list[Path]] = {}
        left_out = []
        for number, label in sorted(self.labels().items()):
            said = judged.get(number)
            own = product_of(number, names) or (said["product"] if said else None)
            if own is None:
                left_out.append(number)
            elif product in ("", own):
                (good if label == "good" else defect).setdefault(own, []).append(self.workspace.photo(number))
        return good, defect, left_out


def _price(price: Price) -> dict[str, Any]:
    return {
        "product": price.product,
        "before": {**cut_view(price.before), "good_failed": price.good_failed[0], "caught": price.caught[0]},
        "after": {**cut_view(price.after), "good_failed": price.good_failed[1], "caught": price.caught[1]},
        "good": price.good,
        "missed": price.missed,
        "notes": list(price.notes),
        "line": price.line(),
    }
