"""Maps and masks of a class, photo by photo, readable any number of times in flat memory (issue 4, item 6).

What does not fit into a small allowance of memory lies in ONE temporary file without a name: 4 bytes a pixel of the map as
the model gave it, so 2.0 GB for 10,000 photos of 224 x 224. The system removes it when the spool is closed and when the
process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unias.files import explain_os_error
from unias.maps.regions import Runs

Floats32 = NDArray[np.float32]
Enlarge = Callable[[Floats32, tuple[int, int]], Floats32]
MEMORY = 64 << 20  # bytes held in memory before the file is begun
CHUNK = 1 << 19  # pixels worked on at once


class Photo(NamedTuple):
    """Pixels of one photo, or of several, flattened.

    Attributes:
        scores: float32, (M,).
        anomalous: (P,), places of the anomalous pixels in ``scores``, ascending.
        share: (P,), in (0, 1]: 1 / size of the region that the anomalous pixel belongs to.
    """

    scores: Floats32
    anomalous: NDArray[np.int64]
    share: NDArray[np.float64]


class Spool:
    """Appended to once, then read as often as wanted; use it in a ``with`` block.

    Args:
        folder: where the temporary file may lie; None = the system's place for such files.
        memory: bytes held in memory before the file is begun.
        enlarge: brings a map to the mask's size on every reading; must give the same values each time. None: maps have it.

    Raises:
        DataError: the file cannot be written (disk full, read-only), from :meth:`append`.
    """

    def __init__(self, folder: Path | None = None, memory: int = MEMORY, enlarge: Enlarge | None = None) -> None:
        self._folder = folder if folder is not None else Path(tempfile.gettempdir())
        self._memory = memory
        self._enlarge = enlarge
        self._held: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._index = array("q")  # of each photo: h, w of the map, H, W of the mask, its runs, its first byte
        self._end = 0

    def __len__(self) -> int:
        return len(self._index) // 6

    @property
    def on_disk(self) -> bool:
        """Whether the temporary file was begun."""
        return self._file is not None

    def append(self, anomaly_map: Floats32, size: tuple[int, int], runs: Runs) -> None:
        """One photo: its map (h, w), the size (H, W) at which it counts, the anomalous pixels at that size."""
        marks = np.stack([runs.starts, runs.lengths, runs.sizes()]).astype(np.int32)
        record = np.ascontiguousarray(anomaly_map).tobytes() + marks.tobytes()
        if self._file is None and self._end + len(record) <= self._memory:
            self._held.append(record)
        else:
            self._write(record)
        self._index.extend((*anomaly_map.shape, *size, len(runs.starts), self._end))
        self._end += len(record)

    def shape(self, place: int) -> tuple[int, int]:
        """The size (H, W) at which the photo counts."""
        return self._index[6 * place + 2], self._index[6 * place + 3]

    def photo(self, place: int) -> Photo:
        """The photo appended as number ``place``, at its size (H, W)."""
        h, w, height, width, count, first = self._index[6 * place : 6 * place + 6]
        record = self._read(place, first, 4 * (h * w + 3 * count))
        scores = np.frombuffer(record, dtype=np.float32, count=h * w).reshape(h, w)
        if self._enlarge is not None and (h, w) != (height, width):
            scores = self._enlarge(scores.copy(), (height, width))  # what was read is read-only
        starts, lengths, sizes = np.frombuffer(record, dtype=np.int32, offset=4 * h * w).reshape(3, count)
        places = Runs(starts.astype(np.int64), lengths.astype(np.int64), np.zeros(0, dtype=np.int64), 0).places()
        return Photo(scores.reshape(-1), places, np.repeat(1.0 / sizes, lengths))

    def close(self) -> None:
        """Remove the temporary file and forget everything."""
        self._held.clear()
        self._index = array("q")
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk may refuse the last bytes once more
                self._file.close()

    def _write(self, record: bytes) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix=".unias-", dir=self._folder)  # noqa: SIM115  (closed by close)
                self._file.writelines(self._held)
                self._held.clear()
            self._file.seek(self._end)
            self._file.write(record)
            self._file.flush()
        except OSError as error:
            raise explain_os_error(error, self._folder) from error

    def _read(self, place: int, first: int, length: int) -> bytes:
        if self._file is None:
            return self._held[place]
        self._file.seek(first)
        return self._file.read(length)


def chunks(photos: Iterable[Photo], pixels: int = CHUNK) -> Iterator[Photo]:
    """The same pixels in portions of ``pixels`` to twice as many: small photos joined, large ones cut."""
    waiting: list[Photo] = []
    held = 0
    for photo in photos:
        for start in range(0, len(photo.scores), pixels):
            first, last = np.searchsorted(photo.anomalous, (start, start + pixels))
            scores = photo.scores[start : start + pixels]
            waiting.append(Photo(scores, photo.anomalous[first:last] + (held - start), photo.share[first:last]))
            held += len(scores)
            if held >= pixels:
                yield _joined(waiting)
                waiting, held = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Photo]) -> Photo:
    return parts[0] if len(parts) == 1 else Photo(*(np.concatenate(one) for one in zip(*parts, strict=True)))
