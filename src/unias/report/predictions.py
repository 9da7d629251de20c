"""What ``unias predict`` leaves on disk: heat maps, masks, level maps, results.csv and results.jsonl."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.calibration.drift import DriftWatch
from unias.data.decode import Photo, read_photo, to_display
from unias.errors import DataError, Interrupted, UniasError
from unias.files import claimed_folder, csv_line, explain_os_error, json_ready, printable, writing
from unias.inference.pictures import heat, strip
from unias.inference.predictor import Model
from unias.inference.result import Result
from unias.inference.sources import OnePhoto, OnError, each_photo, files_of, without_results
from unias.inference.video import Frame, called, frame_count, is_camera, is_stream
from unias.maps.resolution import describe
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
    "frame",
)
TABLES = ("results.csv", "results.jsonl")
NOT_UTF8 = re.compile("[\ud800-\udfff]")  # what stands for such bytes in a name
Pixels = NDArray[np.uint8]


@dataclass
class Summary:
    """How many photos came to what."""

    photos: int = 0
    ok: int = 0
    failed: int = 0
    unknown: int = 0  # of no known product; counted among the failed
    unreadable: list[str] = field(default_factory=list)
    drift: dict[str, str] = field(default_factory=dict)  # {product: what its last passed parts say}, where they drifted
    smallest_defect: dict[str, Any] | None = None  # {"product", "photo": (h, w), "defect": (h, w)} of the first photo

    def as_dict(self) -> dict[str, Any]:
        return {
            "photos": self.photos,
            "ok": self.ok,
            "failed": self.failed,
            "unknown": self.unknown,
            "unreadable": self.unreadable,
            "drift": self.drift,
            "smallest_defect": self.smallest_defect,
        }


def write_predictions(
    model: Model,
    sources: Sequence[Any],
    output: Path | str,
    product: str | None,
    levels: bool,
    progress: Progress,
    every: int = 1,
    most: int | None = None,
    keep_frames: bool = False,
) -> Summary:
    """Predict every photo and write as it goes; finished rows are kept whatever happens later.

    Args:
        sources: photos, folders, patterns, videos, cameras ("camera:0"). Of folders and patterns, what earlier runs wrote into
            ``output`` is left out.
        every: take every n-th frame of videos and cameras. most: stop after so many photos and frames.
        keep_frames: also keep the frames themselves, as PNG.

    Raises:
        Interrupted: Ctrl-C; says how many rows were kept.
        DataError: nothing to predict, or the output cannot be written.
    """
    plan = Plan(sources, every, most, Path(output))
    summary = Summary()
    working_folder = _working_folder()
    watches = {info.name: DriftWatch(info.held_out_scores, info.cut.value) for info in model.products}

    def unreadable(photo: Any, error: DataError) -> None:
        plan.forget(photo)
        summary.unreadable.append(printable(error))
        progress.say(f"unreadable: {printable(error)}")
        if not is_stream(photo):
            advance()

    photos = plan.photos(unreadable)
    results = model.predict(  # none is computed yet
        photos, product=product, levels=levels, batch_size=1 if plan.live else None, on_error=unreadable
    )
    with (
        contextlib.closing(photos),
        contextlib.closing(results),
        claimed_folder(output) as home,
        _rows(home) as write,
        progress.stage("predicting", plan.total) as advance,
    ):
        try:
            _say_what_is_there(plan, home, progress)
            for result in results:
                name, frame = plan.picture(result)
                try:
                    photo = _for_people(result, frame)
                except DataError as error:  # gone, or written over, since it was judged: no row without its pictures
                    unreadable(result.path, error)
                    continue
                row = write_pictures(home, name, result, photo, photo if frame is not None and keep_frames else None)
                write({**row, "path": printable(row["path"]), "working_folder": working_folder})
                summary.photos += 1
                if summary.photos == 1:
                    _say_smallest(summary, model, result, progress)
                summary.ok += result.ok
                summary.failed += not result.ok
                summary.unknown += not result.product_known
                if result.product is not None:
                    watches[result.product].add(result.raw_score)
                advance()
        except KeyboardInterrupt as error:
            kept = f"the {summary.photos} finished rows are in {home / 'results.csv'}"
            none = "no row was finished, so no table was written"
            raise Interrupted(f"prediction was interrupted; {kept if summary.photos else none}.") from error
    found = {name: watch.look() for name, watch in watches.items()}
    summary.drift = {name: one.describe() for name, one in found.items() if one.drifted}
    return summary


class Plan:
    """What is to be predicted, in order: how much it is, what pictures of it are called, and frames until they are written.

    Attributes:
        left_out: how many files of folders and patterns are pictures that predict wrote into ``output``.

    Raises DataError where there is nothing, UsageError for a source or a number that cannot be.
    """

    def __init__(self, sources: Sequence[Any], every: int, most: int | None, output: Path) -> None:
        self.every = every
        self.most = most
        self.items: list[Path | str] = []
        self.left_out = 0
        for source in sources:
            files = files_of(source)
            kept = without_results(source, files, output)
            self.left_out += len(files) - len(kept)
            self.items += kept
        self.live = any(is_camera(item) for item in self.items)
        self.names = _names([Path(called(item)) if is_stream(item) else Path(item) for item in self.items])
        self.waiting: dict[str, Frame] = {}
        self.total = self._total()

    def photos(self, on_error: OnError) -> Generator[OnePhoto, None, None]:
        """One after the other. Closing it closes the stream it is in."""
        with contextlib.closing(each_photo(self.items, self.every, on_error)) as source:
            for photo in itertools.islice(source, self.most):
                if isinstance(photo, Frame):
                    self.waiting[photo.name] = photo
                yield photo

    def forget(self, photo: Any) -> None:
        """It will not be written."""
        if isinstance(photo, Frame):
            self.waiting.pop(photo.name, None)

    def picture(self, result: Result) -> tuple[str, Frame | None]:
        """What the pictures of one photo are called, and the frame where it is one."""
        if result.path is not None:
            return self.names[result.path], None
        frame = self.waiting.pop(result.name)
        stream, _, number = frame.name.rpartition("#")
        return f"{self.names[Path(stream)]}{Path(stream).suffix}#{number}", frame

    def _total(self) -> int | None:
        total = 0
        for item in self.items:
            try:
                count = frame_count(item, self.every) if is_stream(item) else 1
            except DataError:
                count = 0  # said when its turn comes
            if count is None:
                return self.most
            total += count
        return total if self.most is None else min(total, self.most)


def _say_what_is_there(plan: Plan, home: Path, progress: Progress) -> None:
    if any((home / name).exists() for name in TABLES):
        progress.say(
            f"{home}: held results already. Its tables are replaced; heat maps and masks of photos that are not predicted "
            "again stay beside them."
        )
    if plan.left_out:
        progress.say(f"{home}: {plan.left_out} pictures there are left out, since predict writes them.")


def _say_smallest(summary: Summary, model: Model, result: Result, progress: Progress) -> None:
    defect = model.smallest_defect(result.size, result.nearest)
    if defect is not None:
        rounded = (round(defect[0], 1), round(defect[1], 1))
        summary.smallest_defect = {"product": result.nearest, "photo": result.size, "defect": rounded}
        progress.say(f"{result.nearest}: {describe(result.size, defect)}")


def _for_people(result: Result, frame: Frame | None) -> Pixels:
    """The frame, or the photo that a result is of, read again. Raises DataError where it cannot be read any more."""
    if frame is not None:
        return frame.pixels
    assert result.path is not None
    return to_display(read_photo(result.path, result.bits))


def _working_folder() -> str:
    """What relative paths are relative to; "" where that folder is gone."""
    try:
        return printable(Path.cwd())
    except OSError:
        return ""


def write_pictures(
    home: Path, name: str, result: Result, photo: Photo | Pixels, frame: Pixels | None = None
) -> dict[str, Any]:
    """Write the heat map, the mask and, where there are level maps, their picture below ``home``; give back the row.

    ``name`` is the pictures' path below their folders, without an ending; ``photo`` is what the result is of, as people see it;
    ``frame`` is kept too.
    """
    if isinstance(photo, Photo):
        photo = to_display(photo)
    heatmap, mask = home / "heatmaps" / f"{name}.png", home / "masks" / f"{name}.png"
    _save(heatmap, result.heatmap(photo=photo))
    _save(mask, result.pred_mask.astype(np.uint8) * 255)
    row: dict[str, Any] = {
        **result.to_dict(),
        "heatmap": heatmap.relative_to(home).as_posix(),
        "mask": mask.relative_to(home).as_posix(),
        "levels": "",
        "frame": "",
    }
    if frame is not None:
        file = home / "frames" / f"{name}.png"
        _save(file, frame)
        row["frame"] = file.relative_to(home).as_posix()
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
        below = Path(NOT_UTF8.sub("_", str(below)))  # so that rows can name the pictures
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
    """A function that adds a row to both tables; they get their names when the block ends, however it ends.

    Where it fails before the first row, tables that were there before stay.

    Raises DataError where a folder is in the way of a table, and where a finished one cannot get its name: where it is then.
    """
    for table in (home / name for name in TABLES):
        if table.is_dir():
            raise DataError(
                f"{table}: a folder is in the way of this table. Remove it or choose another output with -o."
            )
    parts = {name: home / f".{name}.part" for name in TABLES}
    handles: dict[str, TextIO] = {}
    whole: dict[str, int] = {}  # bytes of the finished rows

    def settle() -> None:
        for handle in handles.values():
            handle.flush()
        whole.update({name: os.fstat(handle.fileno()).st_size for name, handle in handles.items()})

    try:
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
    except BaseException as error:
        faults = _finish(home, handles, whole if whole.get("results.jsonl") else {})
        if faults and isinstance(error, UniasError):
            raise type(error)(" ".join([str(error), *faults])) from error
        raise
    if faults := _finish(home, handles, whole):
        raise DataError(" ".join(faults))


def _finish(home: Path, handles: dict[str, TextIO], whole: dict[str, int]) -> list[str]:
    """Close the tables; give those in ``whole`` = {name: bytes of finished rows} their names and remove the others.

    Gives back what the operating system refused, and where the rows are then.
    """
    faults = []
    for name, handle in handles.items():
        part = Path(handle.name)
        with contextlib.suppress(OSError):
            handle.close()
        try:
            if name in whole:
                os.truncate(part, whole[name])  # a full disk or Ctrl-C may have cut the last row short
                part.replace(home / name)
            else:
                part.unlink()
        except OSError as error:
            if name in whole:
                faults.append(
                    f"{explain_os_error(error, home / name)} Its rows are in {part}: close whatever has {name} open, and give "
                    "that file its name before the next run writes over it."
                )
    return faults
