"""How far a cut holds from one recording session to another (``unias calibrate --by-session``).

A promise by rank rests on photos that could have come in any order. Another day, lamp or fixture breaks that, and only photos of
several sessions can tell by how much: each session's held-out photos are judged by a cut from the other sessions' alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import ExifTags, Image

from unias.calibration.ranks import cut_at, failures_at_least, promise
from unias.errors import UsageError
from unias.inference.predictor import Model
from unias.inference.products import ProductInfo

DATE = re.compile(  # a time of day may follow at once, as cameras write it: 20240305101112
    r"(?<!\d)(20\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?=(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d(?:\d{3})?)?(?!\d)|(?!\d))"
)
UNLIKELY = 0.01


@dataclass(frozen=True)
class Session:
    """One session of one product.

    Attributes:
        photos: its held-out photos. failed: of them, above the cut from the other sessions.
        promised: rate that this cut promises, were sessions alike.
        chance: probability of so many failures or more where the promise holds.
    """

    product: str
    session: str
    photos: int
    failed: int
    promised: float
    chance: float

    @property
    def rate(self) -> float:
        """Share of its photos that fail."""
        return self.failed / self.photos


def sessions(model: Model, data: Path | None = None) -> list[Session]:
    """Every session of every product with two or more.

    A photo's session is the folder it lies in below train/good (or below the product); where all lie in one, the date in its
    name; failing that, the date it was taken (EXIF), for which ``data`` must be given. Raises UsageError where no product
    has two.
    """
    found = []
    for info in model.products:
        groups = _groups(info, data)
        if len(groups) < 2:
            continue
        for name, own in groups.items():
            others = [score for other, scores in groups.items() if other != name for score in scores]
            rank = promise(len(others), info.cut.promise.wished)
            failed = sum(score > cut_at(others, rank.rank) for score in own)
            chance = failures_at_least(rank, len(own), failed)
            found.append(Session(info.name, name, len(own), failed, rank.rate, chance))
    if not found:
        raise UsageError(
            "--by-session: no product has held-out photos of two sessions. Sessions are folders below train/good, or dates in "
            "file names or EXIF (with --data); hold photos of several back when training."
        )
    return found


def describe(found: Sequence[Session]) -> list[str]:
    """Lines for people."""
    lines = []
    for one in found:
        text = f"{one.product}, session {one.session}: {one.failed} of {one.photos} good photos fail ({one.rate:.1%}) by the "
        text += f"other sessions' cut, which promises {one.promised:.1%}"
        if one.chance < UNLIKELY:
            text += f": the promise does not hold here (chance {one.chance:.2g}); calibrate on this session's photos (--good)"
        lines.append(text)
    return lines


def _groups(info: ProductInfo, data: Path | None) -> dict[str, list[float]]:
    for naming in (_folder, _named_date, lambda key: _taken(key, data)):
        groups: dict[str, list[float]] = {}
        for key, score in zip(info.held_out, info.held_out_scores, strict=True):
            groups.setdefault(naming(key), []).append(score)
        groups.pop("", None)
        if len(groups) > 1:
            return dict(sorted(groups.items()))
    return {}


def _folder(key: str) -> str:
    """Photos that lie in train/good itself, beside folders of sessions, are a session too."""
    return "" if key.startswith("added/") else PurePosixPath(key).parent.name


def _named_date(key: str) -> str:
    match = DATE.search(PurePosixPath(key).name)
    return "-".join(match.groups()) if match else ""


def _taken(key: str, data: Path | None) -> str:
    if data is None or not (data / key).is_file():
        return ""
    try:
        with Image.open(data / key) as image:
            exif = image.getexif()
            text = str(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal, ""))
    except (OSError, ValueError):
        return ""
    match = DATE.search(text.replace(":", "-"))
    return "-".join(match.groups()) if match else ""
