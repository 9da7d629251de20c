"""What ``unias predict`` leaves on disk: heat maps, masks, level maps, results.csv and results.jsonl."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from unias.data.decode import Photo, read_photo, to_display
from unias.errors import DataError, Interrupted
from unias.files import claimed_folder, csv_line, explain_os_error, json_ready, writing
from unias.inference.pictures import fit, heat, overlay, strip
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.inference.sources import each_photo
from unias.progress import Progress

COLUMNS = (
    "path",
    "verdict",
    "ok",
    "product",
    "pred_score",
    "p_value",
    "raw_score",
    "cut",
    "defect_area",
    "heatmap",
    "mask",
    "levels",
)
LONGEST_SIDE = 1600  # of a heat map, in pixels; masks keep the photo's own size


@dataclass
class Summary:
    """How many photos came to what."""

    photos: int = 0
    ok: int = 0
    failed: int = 0
    unknown: int = 0  # of no known product; counted among the failed
    unreadable: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "photos": self.photos,
            "ok": self.ok,
            "failed": self.failed,
            "unknown": self.unknown,
            "unreadable": self.unreadable,
        }


def write_predictions(
    model: Model, sources: Sequence[Any], output: Path | str, product: str | None, levels: bool, progress: Progress
) -> Summary:
    """Predict every photo and write as it goes; finished rows are kept whatever happens later.

    Raises:
        Interrupted: Ctrl-C; says how many rows were kept.
        DataError: nothing to predict, or the output cannot be written.
    """
    photos = [Path(str(photo)) for source in sources for photo in each_photo(source)]
    names = _names(photos)
    summary = Summary()

    def unreadable(_photo: Any, error: DataError) -> None:
        summary.unreadable.append(str(error))
        progress.say(f"unreadable: {error}")
        advance()

    results = model.predict(photos, product=product, levels=levels, on_error=unreadable)  # none is computed yet
    with (
        claimed_folder(output) as home,
        _rows(home) as write,
        progress.stage("predicting", len(photos)) as advance,
    ):
        try:
            for result in results:
                write(_write_pictures(home, names[result.path], result, model))
                summary.photos += 1
                summary.ok += result.ok
                summary.failed += not result.ok
                summary.unknown += not result.product_known
                advance()
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"prediction was interrupted; the {summary.photos} finished rows are in {home / 'results.csv'}."
            ) from error
    return summary


def _write_pictures(home: Path, name: str, result: Result, model: Model) -> dict[str, Any]:
    """The pictures of one photo, read from its path, and its row."""
    assert result.path is not None
    return write_pictures(home, name, result, read_photo(result.path, model.config.bits))


def write_pictures(home: Path, name: str, result: Result, photo: Photo) -> dict[str, Any]:
    """Write the heat map, the mask and, where there are level maps, their picture below ``home``; give back the row.

    ``name`` is the pictures' path below their folders, without an ending; ``photo`` is what the result is of.
    """
    shown = fit(to_display(photo), min(LONGEST_SIDE, max(photo.size)))
    spread = Image.fromarray(result.model_map).resize((shown.shape[1], shown.shape[0]), Image.Resampling.BILINEAR)
    heatmap, mask = home / "heatmaps" / f"{name}.png", home / "masks" / f"{name}.png"
    _save(heatmap, overlay(shown, np.asarray(spread), 2 * result.cut))
    _save(mask, result.pred_mask.astype(np.uint8) * 255)
    row: dict[str, Any] = {
        **result.to_dict(),
        "heatmap": heatmap.relative_to(home).as_posix(),
        "mask": mask.relative_to(home).as_posix(),
        "levels": "",
    }
    if result.level_maps:
        panels = [heat(values, float(values.max()), float(values.min())) for values in result.level_maps.values()]
        panels.append(heat(result.model_map, 2 * result.cut))
        file = home / "levels" / f"{name}.png"
        _save(file, strip(panels))
        row["levels"] = file.relative_to(home).as_posix()
    return row


def _save(file: Path, picture: np.ndarray[Any, Any]) -> None:
    with writing(file) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def _names(photos: Sequence[Path]) -> dict[Path, str]:
    """A name for each photo's pictures: its path below the folder common to all, made unique, without its ending."""
    whole = [Path(os.path.abspath(photo)) for photo in photos]
    try:
        common: Path | None = Path(os.path.commonpath([photo.parent for photo in whole]))
    except ValueError:  # no photos, or several drives
        common = None
    taken: set[str] = set()
    names: dict[Path, str] = {}
    for given, photo in zip(photos, whole, strict=True):
        if given in names:
            continue
        below = photo.relative_to(common) if common is not None else Path(*photo.parts[1:])
        name = below.with_suffix("").as_posix()
        if name.casefold() in taken:
            name = below.as_posix()
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        names[given] = name
    return names


@contextlib.contextmanager
def _rows(home: Path) -> Iterator[Any]:
    """A function that adds a row to both tables; they get their names when the block ends, however it ends."""
    parts = {name: home / f".{name}.part" for name in ("results.csv", "results.jsonl")}
    handles: dict[str, TextIO] = {}
    whole: dict[str, int] = {}  # bytes of the finished rows

    def settle() -> None:
        for handle in handles.values():
            handle.flush()
        whole.update({name: os.fstat(handle.fileno()).st_size for name, handle in handles.items()})

    try:
        for name, part in parts.items():
            handles[name] = part.open("w", encoding="utf-8", newline="")
        handles["results.csv"].write(csv_line(COLUMNS))
        settle()

        def write(row: dict[str, Any]) -> None:
            handles["results.csv"].write(csv_line([row[column] for column in COLUMNS]))
            handles["results.jsonl"].write(json.dumps(json_ready(row), ensure_ascii=False) + "\n")
            settle()

        yield write
    except OSError as error:
        raise explain_os_error(error, home) from error
    finally:
        for name, handle in handles.items():
            with contextlib.suppress(OSError):
                handle.close()
            with contextlib.suppress(OSError):
                if name in whole:
                    os.truncate(parts[name], whole[name])  # a full disk or Ctrl-C may have cut the last row short
                    parts[name].replace(home / name)
                else:
                    parts[name].unlink()
