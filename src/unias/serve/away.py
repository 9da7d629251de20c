"""Photos that have their row leave the watched folder, moved or deleted, and no photo that came in the meantime leaves with them.

A camera may write over a photo in place between the last look at it and its going. So it is taken aside first, under a hidden
name beside its own: whoever opens its own name from then on makes a new file, and what was written over before shows in size or
time and is given back. A process killed in between leaves the hidden file, for the next one to deal with.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from pathlib import Path

from unias.files import writing
from unias.serve.folder import Found, is_still, key_of

ASIDE = ".unias-aside"  # the hidden name's ending


def put_away(found: Found, target: Path | None) -> bool:
    """Move a photo to ``target``, or delete it (None); False where it is no longer what was found: it stays.

    Raises OSError or DataError where the system does not allow it (disk full, read-only); then it stays as well.
    """
    if not is_still(found):
        return False
    aside = found.path.with_name(f".{found.path.name}{ASIDE}")
    try:
        os.replace(found.path, aside)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        aside = found.path  # a name as long as the system allows: not guarded
    try:
        if not is_still(Found(aside, found.key, found.signature)):
            give_back(aside, found.path)
            return False
        finish(aside, target)
    except BaseException:
        give_back(aside, found.path)
        raise
    return True


def finish(aside: Path, target: Path | None) -> None:
    """Move what was taken aside to ``target``, or delete it (None)."""
    if target is None:
        aside.unlink()
    else:
        _move(aside, target)


def left_aside(root: Path) -> list[tuple[Path, Found]]:
    """What a killed process had taken aside in a folder and below: the hidden file, and what it was under its own name."""
    left = []
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            if name.startswith(".") and name.endswith(ASIDE):
                aside = Path(folder, name)
                path = aside.with_name(name[1 : -len(ASIDE)])
                try:
                    stat = aside.stat()
                except OSError:
                    continue  # gone meanwhile, or a link to nothing
                left.append((aside, Found(path, key_of(path, root), (stat.st_size, stat.st_mtime_ns))))
    return left


def give_back(aside: Path, path: Path) -> None:
    """To its own name, or, where a newer photo has that by now, to a name with a number; nothing is written over."""
    if aside == path:
        return
    for number in itertools.count(1):
        place = path if number == 1 else path.with_name(f"{path.stem} ({number}){path.suffix}")
        try:
            os.link(aside, place, follow_symlinks=False)
        except FileExistsError:
            continue
        except FileNotFoundError:
            return  # somebody took it
        except (OSError, NotImplementedError):  # no links here
            if os.path.lexists(place):
                continue
            os.replace(aside, place)
            return
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        return


def _move(source: Path, target: Path) -> None:
    """Rename, or copy whole and then delete where the target is on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with writing(target) as temporary:
            shutil.copy2(source, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        source.unlink()
