"""Every test photo and every new one through a model; photos judged before are not judged again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unias.errors import DataError
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.progress import Progress
from unias.studio.judged import Judged, model_key, product_of, read_judged, stamp_of, to_judge, write_judged
from unias.studio.workspace import MODELS, Workspace

BATCH = 8


def line_of(workspace: Workspace, path: Path, key: str, result: Result) -> Judged:
    """What is kept of one answer."""
    return Judged(workspace.id_of(path), stamp_of(path), key, result.nearest, result.product_known, result.raw_score)


def judge_all(workspace: Workspace, name: str, progress: Progress) -> dict[str, Any]:
    """Judge, keep the lines, and count: {"judged", "failed", "unreadable": [{"id", "why"}]}.

    A photo in a product's folder is judged as that product, a new one as what it is recognised to be.
    """
    folder = workspace / MODELS / name
    key = model_key(folder)
    lines = read_judged(workspace, name, key)
    photos = to_judge(workspace)
    wanted = [path for path in photos if workspace.id_of(path) not in lines]
    unreadable: list[dict[str, str]] = []
    model = Model.load(folder)
    names = [info.name for info in model.products]

    def refuse(photo: Any, error: DataError) -> None:
        unreadable.append({"id": workspace.id_of(Path(photo)), "why": str(error)})

    groups: dict[str | None, list[Path]] = {}
    for path in wanted:
        groups.setdefault(product_of(workspace.id_of(path), names), []).append(path)
    with progress.stage("judging photos", len(wanted)) as advance:
        for product, paths in groups.items():
            for start in range(0, len(paths), BATCH):
                some = paths[start : start + BATCH]
                for result in model.predict(some, product=product, on_error=refuse):
                    if result.path is not None:
                        line = line_of(workspace, result.path, key, result)
                        lines[line.id] = line
                advance(len(some))
    there = [lines[number] for number in map(workspace.id_of, photos) if number in lines]
    write_judged(workspace, name, there)
    products = {info.name: info for info in model.products}
    failed = sum(not line.view(products)["ok"] for line in there)
    return {"judged": len(there), "failed": failed, "unreadable": unreadable}
