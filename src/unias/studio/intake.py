"""Where a photo that was dropped belongs: by the folders it came in, else by what the person said.

Kept: MVTec-AD's layout. Understood: VisA's, PRODUCT/good/*.png and PRODUCT/bad/*.png, PRODUCT/good beside PRODUCT/scratch and
other kinds of defects, PRODUCT/*.png, a heap without folders.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from unias.data.decode import read_photo
from unias.data.layouts import NOT_PRODUCTS, SKIPPED, SUFFIXES
from unias.errors import DataError
from unias.files import writing
from unias.serve.photos import NAME as THE_PHOTO
from unias.serve.photos import check_photo, undecodable
from unias.serve.refusals import Refusal
from unias.serve.settings import ServeSettings
from unias.studio.workspace import NEW, PHOTOS, Workspace

GOOD = frozenset({"good", "ok", "normal"})
_OF_DEFECTS = ("bad", "nok", "ng", "defect", "defects", "defective", "anomaly", "anomalies", "anomalous")
BAD = frozenset({*_OF_DEFECTS, "fault", "faults", "faulty", "reject", "rejects", "rejected", "scrap"})
KINDS = ("good", "test_good", "new")
LONGEST = 100  # letters of a folder's or file's name
STRANGE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')


@dataclass
class Taken:
    """What became of an upload.

    Attributes:
        taken: photos that lie in the studio's folder now. same: of them, there before with the same bytes.
        refused: what was left out, and why.
        skipped: files that are no photos and nobody would miss (hidden files, Thumbs.db).
        ids: of the photos taken.
    """

    taken: int = 0
    same: int = 0
    skipped: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


def beside_good(names: Iterable[str]) -> frozenset[str]:
    """Folders that hold a folder of good photos, by the paths of what was dropped: what else they hold are kinds of defects."""
    found = set()
    for name in names:
        *above, _ = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")] or [""]
        if above and above[-1].casefold() in GOOD:
            found.add("/".join(above[:-1]))
    return frozenset(found)


def place_of(name: str, product: str = "", kind: str = "", sorted_in: Container[str] = ()) -> PurePosixPath | None:
    """Where below the studio's folder a photo goes that came as ``name``; None for a file that nobody would miss.

    Args:
        name: its path within what was dropped, such as screw/good/1.png.
        product: what the person says it shows; wins over folders that are not MVTec-AD's.
        kind: "good", "test_good", "new", the name of a defect, or "" = by its folders.
        sorted_in: folders with a folder of good photos in them (``beside_good``).

    Raises Refusal 422 for a name that is no photo's or leads out of its folder.
    """
    *above, file = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")] or [""]
    if any(part == ".." for part in (*above, file)):
        raise Refusal(422, "name", f"{name[:200]!r} leads out of its folder.", "Drop the folder itself.")
    if any(part.startswith((".", "~$")) or part.casefold() in SKIPPED for part in (*above, file)):
        return None
    if PurePosixPath(file).suffix.casefold() not in SUFFIXES:
        raise Refusal(
            415, "format", f"{file[:80]!r} is no photo by its name.", f"Photos end in {', '.join(sorted(SUFFIXES))}."
        )
    file = clean(file)
    if kind == "new":
        return PurePosixPath(NEW, *(clean(part, folder=True) for part in above), file)
    below = _mvtec(above) or _visa(above)
    if below is not None:
        folders, named = below
        return PurePosixPath(PHOTOS, _product(named or product), *(clean(part, folder=True) for part in folders), file)
    last: str = above[-1].casefold() if above else ""
    defect = last in BAD or (last not in GOOD and "/".join(above[:-1]) in sorted_in)
    said = last if last in GOOD or defect else ""
    own = (above[:-1] if said else above)[-1:]
    name_of = _product(product or (own[0] if own else ""))
    if kind:
        part = {"good": "train/good", "test_good": "test/good"}.get(kind) or f"test/{clean(kind, folder=True)}"
    else:
        part = f"test/{clean(above[-1], folder=True)}" if defect else "train/good"
    return PurePosixPath(PHOTOS, name_of, part, file)


def _mvtec(above: list[str]) -> tuple[list[str], str] | None:
    """(folders below the product, the product) of .../PRODUCT/train/good/..., the words in small letters."""
    for index, part in enumerate(above):
        word = part.casefold()
        if word in ("train", "test", "ground_truth") and index + 1 < len(above):
            kind = "good" if above[index + 1].casefold() in GOOD else above[index + 1]
            if word == "train" and kind != "good":
                raise Refusal(
                    422,
                    "layout",
                    f"{'/'.join(above)}: photos of {kind!r} in train, where good ones belong.",
                    "Put photos of defects into test.",
                )
            rest = above[index + 2 : index + 3] if word == "train" else []  # a recording session
            return [word, kind, *rest], above[index - 1] if index else ""
    return None


def _visa(above: list[str]) -> tuple[list[str], str] | None:
    words = [part.casefold() for part in above]
    ends = {
        ("data", "images", "normal"): ["train", "good"],
        ("data", "images", "anomaly"): ["test", "anomaly"],
        ("data", "masks", "anomaly"): ["ground_truth", "anomaly"],
    }
    folders = ends.get((words[-3], words[-2], words[-1])) if len(words) > 2 else None
    return None if folders is None else (folders, above[-4] if len(above) > 3 else "")


def _product(name: str) -> str:
    found = clean(name or "product", folder=True)
    if found.casefold() in NOT_PRODUCTS:
        raise Refusal(
            422, "product", f"{found!r} is no name for a product.", "Say what the photos show, such as screw."
        )
    return found


def clean(part: str, folder: bool = False) -> str:
    """A folder's or file's name that every system takes. Raises Refusal 422 where nothing is left of it."""
    usable = STRANGE.sub("_", part)
    stem, dot, suffix = usable.rpartition(".") if "." in part and not folder else (usable, "", "")
    found = f"{stem[:LONGEST]}{dot}{suffix[:10]}".strip(" .")
    if not found or found.startswith("."):
        raise Refusal(422, "name", f"{part[:80]!r} is no name.", "Use letters and digits.")
    return found


def take(
    workspace: Workspace,
    name: str,
    data: bytes,
    product: str,
    kind: str,
    settings: ServeSettings,
    found: Taken,
    sorted_in: Container[str] = (),
) -> None:
    """Look at one file and put it where it belongs; what is wrong with it is added to ``found.refused``."""
    try:
        below = place_of(name, product, kind, sorted_in)
        if below is None:
            found.skipped += 1
            return
        if not data:
            raise Refusal(400, "empty", f"{THE_PHOTO} has no bytes.", "Copy it again from where it came.")
        check_photo(data, settings)
        try:
            read_photo(data, None, THE_PHOTO)
        except DataError as error:
            raise undecodable(error) from error
    except Refusal as refusal:
        found.refused.append({"name": name[:300], "why": refusal.error})
        return
    target, same = free_place(workspace.root / below, data)
    if workspace.root not in target.parent.resolve().parents:
        found.refused.append({"name": name[:300], "why": "its folder is a link that leads out of the studio's."})
        return
    if not same:
        with writing(target) as temporary:
            temporary.write_bytes(data)
    found.taken += 1
    found.same += same
    found.ids.append(workspace.id_of(target))


def free_place(target: Path, data: bytes) -> tuple[Path, bool]:
    """(``target``, or the first of target-2, target-3, ... that is free, False); (a file of the same bytes, True)."""
    digest, number, place = hashlib.sha256(data).digest(), 1, target
    while place.exists():
        if place.is_file() and hashlib.sha256(place.read_bytes()).digest() == digest:
            return place, True
        number += 1
        place = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return place, False
