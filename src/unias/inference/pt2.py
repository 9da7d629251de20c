"""A graph of ``torch.export`` on disk, written and read without pickle.

torch's own reader unpickles what a .pt2 file tells it to, resolves any function of ``torch`` by name, evaluates expressions
and writes names of inputs into Python that it runs, so a foreign file could run code. ``read_program`` looks first: weights as
plain bytes, no example inputs, no operator but torch's tensor operators, no expression but sums of sizes, no name that is none.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unias.errors import DataError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PLAIN_FILES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|eq|ge|le|gt|lt)"
)
SIZES = re.compile(
    r"(Symbol\('[su]\d+'(, (positive|nonnegative|integer)=True)*\)|Integer\(-?\d+\)|Add|Mul|Max|Min|[su]\d+|[\d+\-*/(), ])*"
)
NAMES = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def write_program(program: ExportedProgram, path: Path) -> None:
    """Without the example inputs, which torch would pickle, and conditions on inputs, which it would keep as Python code."""
    program.example_inputs = None
    if getattr(program, "_guards_code", None):
        program._guards_code = []
    torch.export.save(program, path)
    check_plain(path)


def read_program(path: Path) -> ExportedProgram:
    """Raises DataError for a file that is more than a plain graph."""
    check_plain(path)
    return torch.export.load(path)


def check_plain(path: Path) -> None:
    """Raise DataError unless reading the file can run nothing but tensor operators."""
    try:
        with zipfile.ZipFile(path) as archive:
            for fault in _faults(archive):
                raise DataError(
                    f"{path}: is more than a plain graph ({fault}) and is not opened, since it could run code of its own. "
                    "Export the model again."
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a graph ({error}). Export the model again.") from error


def _faults(archive: zipfile.ZipFile) -> Iterator[str]:
    names = archive.namelist()
    entries = {name.partition("/")[2]: name for name in names}
    if len({name.partition("/")[0] for name in names}) != 1 or len(entries) != len(names):
        yield "it holds a file twice"  # torch could read another copy than the one that is looked at
    for inner, name in entries.items():
        if not PLAIN_FILES.fullmatch(inner):
            yield f"it holds {name}"
        elif inner.startswith("data/sample_inputs/") and archive.getinfo(name).file_size:
            yield "it holds pickled example inputs"
    for part, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        payload = json.loads(archive.read(entries[f"data/{part}/model_{part}_config.json"]))
        for name, entry in payload["config"].items():
            if entry["use_pickle"] or not re.fullmatch(prefix + r"\d+", entry["path_name"]):
                yield f"{name} is pickled"
    model = json.loads(archive.read(entries["models/model.json"]))
    if model.get("guards_code"):
        yield "it holds conditions as Python code"
    for key, value in _strings(model):
        if key == "target" and not OPERATORS.fullmatch(value):
            yield f"it calls {value}"
        if key == "in_spec" and not _plain_inputs(json.loads(value)):
            yield f"it takes inputs by name: {value}"
        if key in ("name", "as_name", "forward_arg_names") and not NAMES.fullmatch(value):
            yield f"it names something {value!r}"
        if key == "expr_str" and not SIZES.fullmatch(value):
            yield f"it evaluates {value}"


def _plain_inputs(spec: Any) -> bool:
    """Whether a call takes tensors by place alone: torch writes the names of others into Python."""
    if isinstance(spec, list):
        return all(isinstance(one, int) or _plain_inputs(one) for one in spec)
    plain = spec["type"] in (None, "builtins.tuple", "builtins.list") or (
        spec["type"] == "builtins.dict" and spec["context"] == "[]"
    )
    return plain and all(_plain_inputs(child) for child in spec["children_spec"])


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested JSON, with the name that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
