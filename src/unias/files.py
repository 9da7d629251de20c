"""Files written whole or not at all, and the hashes that prove it.

Everything the product leaves on disk goes through here: it is written under a temporary name in the same folder, then
renamed, so that a full disk, a crash or Ctrl-C never leaves half a file under a name that somebody trusts.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unias.errors import DataError, UniasError


def explain_os_error(error: OSError, path: Path | str) -> UniasError:
    """Turn the operating system's refusal to write ``path`` into one clear error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{path}: the disk is full. Nothing half-written was kept; free some space and run again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DataError(f"{path}: cannot be written (read-only or not permitted). Choose another output with -o.")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return DataError(f"{path}: a file is in the way of this folder. Remove it or choose another output with -o.")
    return DataError(f"{path}: cannot be written: {error.strerror or error}. Choose another output with -o.")


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well, remove it otherwise.

    Raises DataError when the operating system refuses (disk full, read-only).
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name[:40]}.", suffix=".part" + target.suffix, dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(path: Path | str, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; rename it to ``path`` when the block ends well, remove it otherwise.

    An existing folder of that name is an error unless ``replace``; then it is swapped out last and removed.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        if target.exists() and not replace:
            raise DataError(f"{target}: exists already. Choose another output with -o, or remove it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".part", dir=target.parent))
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".old", dir=target.parent))
            os.replace(target, old / "old")
            try:
                os.replace(temporary, target)
            except BaseException:
                os.replace(old / "old", target)
                old.rmdir()
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def ensure_folder(path: Path | str) -> Path:
    """Make ``path`` a folder that can be written to, proven by writing one file, before hours go into its content."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".unias-", dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    return folder


@contextlib.contextmanager
def claimed_folder(path: Path | str) -> Iterator[Path]:
    """``ensure_folder``; folders that it made are taken away again where the block fails with nothing left in them."""
    folder = Path(path)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield ensure_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):  # from the innermost outwards, until one holds something
            for place in made:
                place.rmdir()
        raise


def require_utf8(paths: Iterable[Path]) -> None:
    """Raise DataError for a path that is not UTF-8: a name of another encoding, from an old zip for example."""
    for path in paths:
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode("utf-8", "replace")
            raise DataError(
                f"{shown}: its name is not UTF-8, so nothing can be written about it. Rename it."
            ) from error


def printable(value: Any) -> str:
    """Text that UTF-8 can hold: bytes of a name that are not UTF-8 become escapes such as ``\\udce9``."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8 with plain line feeds, whole or not at all."""
    with writing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def read_lines(path: Path | str) -> list[str]:
    """A text file's lines that are not blank, without spaces round them. Raises DataError for one that cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a text file with one path a line ({error}).") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def write_json(path: Path | str, value: Any, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, indented for people, or on one line. NaN becomes null, since JSON has no NaN."""
    write_text(path, json.dumps(json_ready(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def json_ready(value: Any) -> Any:
    """The same value with NaN and infinities as None and numpy scalars as plain numbers."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)) and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Path):
        return value.as_posix()
    return value


def csv_line(values: Sequence[Any]) -> str:
    """One line of a CSV file, with its plain line feed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_of_tensors(tensors: dict[str, Any]) -> str:
    """One hash of named tensors' bytes, for keys that must change with the weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode("utf-8"))
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
