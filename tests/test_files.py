"""Files and folders appear whole or not at all, and a refusal of the operating system becomes one clear error."""

# ruff: noqa: PT012 (what happens half-way inside the block is the point here)
from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unias.errors import EXIT_DATA, DataError, UniasError
from unias.files import (
    ensure_folder,
    explain_os_error,
    json_ready,
    sha256,
    sha256_of_tensors,
    write_json,
    write_text,
    writing,
    writing_folder,
)

needs_permissions = pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="root and Windows ignore read-only folders",
)


class BoomError(Exception):
    """Something else that goes wrong half-way."""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- one file -----------------------------------------------------------------------------------------------


def test_file_appears_at_the_end_alone(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "note.txt"
    with writing(target) as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename within one file system
        assert temporary.suffix == ".txt"  # writers that go by the ending see the right one
    assert target.read_text(encoding="utf-8") == "whole"
    assert names(target.parent) == ["note.txt"]


@pytest.mark.parametrize("failure", [BoomError, KeyboardInterrupt, SystemExit, DataError])
def test_failure_half_way_leaves_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "note.txt"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(failure), writing(target) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        raise failure
    assert target.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["note.txt"]


def test_failure_without_an_old_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BoomError), writing(tmp_path / "note.txt") as temporary:
        temporary.write_text("ne", encoding="utf-8")
        raise BoomError
    assert names(tmp_path) == []


def test_success_replaces(tmp_path: Path) -> None:
    write_text(tmp_path / "note.txt", "a much longer text")
    write_text(tmp_path / "note.txt", "zwei\nö")
    assert (tmp_path / "note.txt").read_bytes() == "zwei\nö".encode()
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    """mkstemp makes private files; a report must be readable like any other file."""
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "note.txt", "")
        with writing_folder(tmp_path / "model") as folder:
            (folder / "a").touch()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o755


def test_long_and_foreign_names(tmp_path: Path) -> None:
    name = "ä" * 60 + " b.json"
    write_json(tmp_path / name, {"x": 1})
    assert names(tmp_path) == [name]


# --- one folder ---------------------------------------------------------------------------------------------


def test_folder_appears_at_the_end_alone(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "model"
    with writing_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("1", encoding="utf-8")
        assert not target.exists()
        assert folder.parent == target.parent
    assert names(target.parent) == ["model"]
    assert (target / "inner" / "a.txt").read_text(encoding="utf-8") == "1"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("failure", [BoomError, KeyboardInterrupt])
def test_folder_failure_leaves_nothing(tmp_path: Path, replace: bool, failure: type[BaseException]) -> None:
    with pytest.raises(failure), writing_folder(tmp_path / "model", replace=replace) as folder:
        (folder / "a.txt").write_text("1", encoding="utf-8")
        raise failure
    assert names(tmp_path) == []


def test_existing_folder_is_kept_unless_replace_is_said(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").touch()
    entered = False
    with pytest.raises(DataError, match="exists already"), writing_folder(tmp_path / "model"):
        entered = True
    assert not entered  # before hours go into it
    assert names(tmp_path / "model") == ["old.txt"]
    with writing_folder(tmp_path / "model", replace=True) as folder:
        (folder / "new.txt").touch()
        assert names(tmp_path / "model") == ["old.txt"]
    assert names(tmp_path / "model") == ["new.txt"]
    assert names(tmp_path) == ["model"]


def test_replace_that_fails_half_way_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").touch()
    with pytest.raises(BoomError), writing_folder(tmp_path / "model", replace=True) as folder:
        (folder / "new.txt").touch()
        raise BoomError
    assert names(tmp_path / "model") == ["old.txt"]
    assert names(tmp_path) == ["model"]


def test_swap_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is moved away first; when the new one cannot take its place, the old one must be there again."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").touch()
    original = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == "model" and Path(source).suffix == ".part":
            raise OSError(errno.EACCES, "in use")
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DataError), writing_folder(tmp_path / "model", replace=True) as folder:
        (folder / "new.txt").touch()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["old.txt"]


# --- refusals of the operating system -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)])
def test_full_disk(tmp_path: Path, code: int) -> None:
    target = tmp_path / "note.txt"
    with (
        pytest.raises(DataError, match=r"note\.txt: the disk is full. Nothing half-written was kept"),
        writing(target) as temporary,
    ):
        temporary.write_text("ne", encoding="utf-8")
        raise OSError(code, "No space left on device")
    assert names(tmp_path) == []
    with pytest.raises(DataError, match="model: the disk is full"), writing_folder(tmp_path / "model") as folder:
        (folder / "a").touch()
        raise OSError(code, "No space left on device")
    assert names(tmp_path) == []


def test_disk_that_fills_at_the_rename_or_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match="the disk is full"):
            write_text(tmp_path / "note.txt", "text")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", full)
        with pytest.raises(DataError, match="the disk is full"):
            write_text(tmp_path / "note.txt", "text")
        with pytest.raises(DataError, match="the disk is full"):
            ensure_folder(tmp_path)
    assert names(tmp_path) == []


@needs_permissions
def test_read_only_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    try:
        for write in (
            lambda: write_text(closed / "a.txt", ""),
            lambda: ensure_folder(closed),
            lambda: ensure_folder(closed / "inner"),
        ):
            with pytest.raises(DataError, match="read-only or not permitted"):
                write()
        with pytest.raises(DataError, match="read-only"), writing_folder(closed / "model"):
            pass
    finally:
        closed.chmod(0o755)
    assert names(closed) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_read_only_by_any_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_arguments: object, **_settings: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(DataError, match=r"a\.txt: cannot be written \(read-only or not permitted\).*-o"):
        write_text(tmp_path / "a.txt", "")
    with pytest.raises(DataError, match="read-only"), writing_folder(tmp_path / "model"):
        pass


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (lambda: write_text(tmp_path / "file" / "a.txt", ""), lambda: ensure_folder(tmp_path / "file")):
        with pytest.raises(DataError, match="a file is in the way"):
            write()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EEXIST, errno.EIO, errno.ENAMETOOLONG])
def test_every_message_names_the_path_and_ends_with_the_data_code(code: int) -> None:
    error = explain_os_error(OSError(code, os.strerror(code)), Path("some") / "where")
    assert isinstance(error, UniasError)
    assert error.exit_code == EXIT_DATA
    assert str(error).startswith(str(Path("some") / "where"))


def test_ensure_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    assert ensure_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert names(tmp_path / "a" / "b") == []
    assert ensure_folder(tmp_path) == tmp_path


# --- JSON and hashes ----------------------------------------------------------------------------------------


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {
        "a": float("nan"),
        "b": [float("inf"), 1.5, np.float32(0.5), np.int64(3)],
        4: (Path("x") / "y", None, True),
    }
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [None, 1.5, 0.5, 3], "4": ["x/y", None, True]}
    assert text.endswith("\n")
    assert json_ready(np.float64("nan")) is None


def test_json_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert names(tmp_path) == []


def test_sha256(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    (tmp_path / "a").write_bytes(b"")
    assert sha256(tmp_path / "a") == hashlib.sha256().hexdigest()


def test_hash_of_tensors_follows_names_and_values_not_order() -> None:
    one = {"a": torch.arange(3.0), "b": torch.zeros(2, 2)}
    assert sha256_of_tensors(one) == sha256_of_tensors(dict(reversed(one.items())))
    assert sha256_of_tensors(one) != sha256_of_tensors(one | {"a": torch.arange(3.0) + 1e-6})
    assert sha256_of_tensors(one) != sha256_of_tensors({"c": one["a"], "b": one["b"]})
    turned = torch.arange(6.0).view(2, 3).T
    assert sha256_of_tensors({"a": turned}) == sha256_of_tensors({"a": turned.contiguous()})


@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/full")
def test_a_device_that_is_really_full(tmp_path: Path) -> None:
    """The operating system's own ENOSPC, not ours."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(DataError, match="the disk is full"), writing(tmp_path / "a.txt") as temporary:
        temporary.write_text("something", encoding="utf-8")
        Path("/dev/full").write_bytes(b"x")
    assert names(tmp_path) == []
