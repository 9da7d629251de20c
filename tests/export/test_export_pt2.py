"""A .pt2 file is opened only where it can run nothing but tensor operators."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unias.errors import DataError
from unias.inference.pt2 import check_plain, read_program, write_program


class Doubles(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight).flatten()[: x.shape[0]]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    program = torch.export.export(Doubles(), (torch.ones(2, 3),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    write_program(program, tmp_path / "plain.pt2")
    return tmp_path / "plain.pt2"


def test_round_trip(plain: Path) -> None:
    graph = read_program(plain).module()
    for count in (1, 2, 5):
        assert torch.equal(graph(torch.ones(count, 3)), torch.full((count,), 2.0))


def test_nothing_in_it_is_pickled(plain: Path) -> None:
    with zipfile.ZipFile(plain) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"PK")), name


def changed(source: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    target = source.with_name("changed.pt2")
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as out:
        root = archive.namelist()[0].partition("/")[0]
        for name in archive.namelist():
            out.writestr(name, change(name.partition("/")[2], archive.read(name)))
        for name, content in (extra or {}).items():
            out.writestr(f"{root}/{name}", content)
    return target


def in_model(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def with_pickled_weights(name: str, content: bytes) -> bytes:
    if name != "data/weights/model_weights_config.json":
        return content
    settings = json.loads(content)
    for entry in settings["config"].values():
        entry["use_pickle"] = True
    return json.dumps(settings).encode()


def test_foreign_files_are_refused(plain: Path, tmp_path: Path) -> None:
    def same(name: str, content: bytes) -> bytes:
        return content

    cases = {
        "it calls torch.os.system": changed_copy(plain, in_model("torch.ops.aten.mul.Tensor", "torch.os.system")),
        "it calls torch.ops.aten.from_file": changed_copy(
            plain, in_model("torch.ops.aten.mul.Tensor", "torch.ops.aten.from_file.default")
        ),
        "is pickled": changed_copy(plain, with_pickled_weights),
        "pickled example inputs": changed_copy(
            plain, lambda name, content: pickled({}) if name == "data/sample_inputs/model.pt" else content
        ),
        "data/weights/model.pt": changed_copy(plain, same, {"data/weights/model.pt": pickled({})}),
        "custom_obj_0": changed_copy(plain, same, {"data/constants/custom_obj_0": b""}),
        "extra": changed_copy(plain, same, {"extra/code.py": b""}),
    }
    for fault, content in cases.items():
        target = tmp_path / "case.pt2"
        target.write_bytes(content)
        with pytest.raises(DataError, match="more than a plain graph") as caught:
            check_plain(target)
        assert fault in str(caught.value)


def changed_copy(source: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> bytes:
    return changed(source, change, extra).read_bytes()


def test_expressions_are_sums_of_sizes(plain: Path, tmp_path: Path) -> None:
    """torch hands them to sympy, which evaluates Python."""
    with zipfile.ZipFile(plain) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        text = archive.read(name).decode()
    start = text.index('"expr_str"')
    expression = json.JSONDecoder().raw_decode(text[start + len('"expr_str"') :].lstrip(" :"))[0]
    evil = changed_copy(plain, in_model(json.dumps(expression), json.dumps("__import__('os').getcwd()")))
    (tmp_path / "evil.pt2").write_bytes(evil)
    with pytest.raises(DataError, match="it evaluates __import__"):
        read_program(tmp_path / "evil.pt2")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x04K\x01."])
def test_no_archive_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a graph"):
        read_program(tmp_path / "x.pt2")
