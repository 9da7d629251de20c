"""Videos and cameras as photos one after the other: one frame in memory, the stream closed whatever happens.

Decoding is OpenCV's (extra ``video``): one library for files and for cameras by number, on every platform. It does not say why a
file ends, so what came is counted against what the file says it holds.
"""

from __future__ import annotations

import glob
import importlib
import itertools
import os
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unias.errors import DataError, MissingError, UsageError

SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"])
VIDEO, CAMERA = "video:", "camera:"
LOST = 0.05  # share of the frames that a file says it holds that may be missing: some files only guess it


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    Attributes:
        name: such as clip.mp4#000123 or camera0#000123, counted from 0.
        number: the same number.
        pixels: uint8, h x w x 3, RGB.
    """

    name: str
    number: int
    pixels: NDArray[np.uint8] = field(repr=False)


def is_stream(source: Any) -> bool:
    """A video file by its ending, ``video:PATH`` whatever its ending is, or ``camera:NUMBER``."""
    if isinstance(source, str) and source.startswith((VIDEO, CAMERA)):
        return True
    if not isinstance(source, (str, Path)) or Path(source).suffix.lower() not in SUFFIXES or Path(source).is_dir():
        return False
    return Path(source).exists() or not glob.has_magic(str(source))


def is_camera(source: Any) -> bool:
    """A stream that goes on for ever."""
    return isinstance(source, str) and source.startswith(CAMERA)


def called(source: str | Path) -> str:
    """What frames of it are named after: the video's path, or camera0."""
    if is_camera(source):
        return f"camera{_number(str(source))}"
    return str(source).removeprefix(VIDEO)


def frames(source: str | Path, every: int = 1) -> Generator[Frame, None, None]:
    """Every ``every``-th frame, the first one first. Closing the iterator closes the stream.

    Raises:
        DataError: a file that is no video or ends before it should, a camera that is not there or gives no picture.
        UsageError: ``camera:`` without a number, ``every`` below 1. MissingError: OpenCV is not installed.
    """
    if every < 1:
        raise UsageError(f"--every {every}: must be at least 1; 1 is every frame.")
    name = called(source)
    stream = _open(source)
    try:
        for number in itertools.count():
            if not stream.grab():
                _check_end(source, number, stream)
                return
            if number % every == 0:
                there, picture = stream.retrieve()
                if not there:
                    raise DataError(f"{name}: frame {number} cannot be decoded. {_advice(source)}")
                yield Frame(f"{name}#{number:06}", number, _rgb(picture))
    finally:
        stream.release()


def frame_count(source: str | Path, every: int = 1) -> int | None:
    """How many frames ``frames`` will about give; None for cameras and for files that do not say.

    Raises what ``frames`` raises for a source that cannot be opened.
    """
    if is_camera(source):
        return None
    stream = _open(source)
    try:
        told = _told(stream)
        return None if told is None else -(-told // every)
    finally:
        stream.release()


def _open(source: str | Path) -> Any:
    cv2 = _opencv()
    if is_camera(source):
        stream = cv2.VideoCapture(_number(str(source)))
        if not stream.isOpened():
            stream.release()
            raise DataError(f"{source}: cannot be opened. {_advice(source)}")
        stream.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver can: the newest picture, not one from a while ago
        return stream
    path = Path(called(source))
    if not path.is_file():
        raise DataError(f"{path}: there is no such video. Check the path.")
    stream = cv2.VideoCapture(str(path))
    if not stream.isOpened():
        stream.release()
        raise DataError(f"{path}: cannot be read as a video. {_advice(source)}")
    return stream


def _check_end(source: str | Path, count: int, stream: Any) -> None:
    if is_camera(source):
        raise DataError(f"{source}: gives no picture any more. {_advice(source)}")
    told = _told(stream)
    if not count or (told is not None and count < (1 - LOST) * told - 1):
        held = f"of {told} frames" if told is not None else "frames"
        raise DataError(f"{called(source)}: ends after {count} {held}. {_advice(source)}")


def _told(stream: Any) -> int | None:
    count = stream.get(_opencv().CAP_PROP_FRAME_COUNT)
    return round(count) if 0 < count < 2**40 else None


def _advice(source: str | Path) -> str:
    if is_camera(source):
        return "Is it connected, switched on, allowed to this program and not used by another?"
    return "Copy or record it again; what was read of it is done."


def _number(source: str) -> int:
    number = source.removeprefix(CAMERA)
    if not number.isdecimal():
        raise UsageError(f"{source}: give the camera's number, such as {CAMERA}0.")
    return int(number)


def _rgb(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """OpenCV's BGR, or grey, to RGB."""
    if picture.ndim == 2:
        picture = picture[..., None].repeat(3, axis=2)
    return np.ascontiguousarray(picture[..., ::-1])


def _opencv() -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its decoder is silent: what goes wrong is said here, once
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise MissingError(
            'videos and cameras need OpenCV, which is not installed here. pip install "unias[video]" brings it.'
        ) from error
