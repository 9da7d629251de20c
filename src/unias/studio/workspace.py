"""The one folder that a studio works in, and the names of photos in it.

    photos/PRODUCT/...  MVTec-AD's layout, what ``unias train`` reads      new/...      photos to be inspected only
    models/NAME/        trained models      exports/NAME/  exported ones      removed/...  photos taken out, not lost
    jobs/ID/            a job: job.json, progress.jsonl, log.txt              judged/NAME.jsonl  what models said of photos
    reviews.jsonl       verdicts of people, one line each                      settings.yaml      settings in place of a preset's

A photo's id is its path below the folder with forward slashes: photos/screw/train/good/001.png.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from unias.data.layouts import SUFFIXES
from unias.errors import UsageError
from unias.files import ensure_folder, write_json
from unias.serve.refusals import Refusal
from unias.studio.processes import Process

PHOTOS, NEW, MODELS, EXPORTS, JOBS, JUDGED, REMOVED = "photos", "new", "models", "exports", "jobs", "judged", "removed"
NAME = re.compile(
    r"[\w][\w .+-]{0,62}[\w]|[\w]"
)  # of models and exports: letters of any script, digits, and a few signs
LOCK = ".studio.json"


class Workspace:
    """A studio's folder; it is made where it is not there. Raises DataError where it cannot be written."""

    def __init__(self, folder: Path | str) -> None:
        self.root = ensure_folder(Path(os.path.abspath(folder))).resolve()
        for name in (PHOTOS, NEW, MODELS, EXPORTS, JOBS, JUDGED):
            ensure_folder(self.root / name)

    def __truediv__(self, part: str) -> Path:
        return self.root / part

    def id_of(self, path: Path) -> str:
        """A photo's id."""
        return path.relative_to(self.root).as_posix()

    def photo(self, number: str) -> Path:
        """The file of a photo's id. Raises Refusal 404 for what is no photo in ``photos`` or ``new``, links that lead out too."""
        path = self.root.joinpath(*self._parts(number))
        if path.suffix.casefold() not in SUFFIXES or not path.is_file():
            raise _no_photo(number)
        if self.root not in path.resolve().parents:
            raise _no_photo(number)
        return path

    @staticmethod
    def _parts(number: str) -> tuple[str, ...]:
        parts = PurePosixPath(number).parts
        bad = "\\" in number or "\0" in number or any(part.startswith((".", "/")) or ":" in part for part in parts)
        if bad or len(parts) < 2 or parts[0] not in (PHOTOS, NEW):
            raise _no_photo(number)
        return parts

    def named(self, kind: str, name: str) -> Path:
        """The folder of a model or export. Raises Refusal 422 for a name that is none."""
        if not NAME.fullmatch(name) or name.startswith("."):
            raise Refusal(
                422,
                "name",
                f"{name[:80]!r} is no name for a folder.",
                "Use letters, digits, spaces and dashes, at most 64.",
            )
        return self.root / kind / name

    def existing(self, kind: str, name: str) -> Path:
        """The same, there already. Raises Refusal 404 where it is not."""
        folder = self.named(kind, name)
        if not (folder / "manifest.json").is_file():
            raise Refusal(404, "missing", f"{kind}: there is no {name!r}.", "Reload the page: it lists what is there.")
        return folder

    def folders(self, kind: str) -> list[Path]:
        """Finished models or exports, the newest first."""
        found = [entry for entry in (self.root / kind).iterdir() if not entry.name.startswith(".")]
        found = [entry for entry in found if (entry / "manifest.json").is_file()]
        return sorted(found, key=lambda entry: (-(entry / "config.yaml").stat().st_mtime, entry.name))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Only one studio at a time works in a folder. Raises UsageError where another one does."""
        lock = self.root / LOCK
        other = Process.from_dict(read_json(lock))
        if other is not None and other.pid != os.getpid() and other.alive():
            raise UsageError(
                f"{self.root}: another studio (process {other.pid}) works in this folder. Use its page, or stop it first."
            )
        write_json(lock, Process.of(os.getpid()).to_dict())
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _no_photo(number: str) -> Refusal:
    return Refusal(
        404, "missing", f"{number[:200]!r} is no photo of this studio.", "Reload the page: it lists what is there."
    )


def read_json(path: Path) -> dict[str, Any]:
    """An object of a file; {} where it is not there or broken."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines; a last line that is only half there is left out."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        yield found
    except OSError:
        return
