"""Names, duplicates and conditions in a .pt2 file: torch writes names of inputs into Python that it runs."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unias.errors import DataError
from unias.inference.pt2 import check_plain, read_program, write_program

EVIL = "x=__import__('os').getcwd()"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(2, 3),))
    write_program(program, tmp_path / "plain.pt2")
    return tmp_path / "plain.pt2"


def rewritten(source: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    target = source.with_name("changed.pt2")
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as out:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("models/model.json"):
                model = json.loads(content)
                change(model)
                content = json.dumps(model).encode()
            out.writestr(name, content)
    return target


def evil_input(model: dict[str, Any]) -> None:
    model["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = EVIL


def evil_output(model: dict[str, Any]) -> None:
    model["graph_module"]["graph"]["nodes"][0]["outputs"][0]["as_tensor"]["name"] = "a\nb"


def evil_argument(model: dict[str, Any]) -> None:
    model["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"].append(EVIL)


def evil_keyword(model: dict[str, Any]) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    version, spec = json.loads(signature["in_spec"])
    spec["children_spec"][1]["context"] = json.dumps([EVIL])
    signature["in_spec"] = json.dumps([version, spec])


def evil_condition(model: dict[str, Any]) -> None:
    model["guards_code"] = ["__import__('os').getcwd()"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (evil_input, "it names something"),
        (evil_output, "it names something"),
        (evil_argument, "it names something"),
        (evil_keyword, "inputs by name"),
        (evil_condition, "conditions as Python"),
    ],
)
def test_foreign_code_is_refused(change: Callable[[dict[str, Any]], None], fault: str, plain: Path) -> None:
    read_program(plain)
    with pytest.raises(DataError, match=fault):
        read_program(rewritten(plain, change))


@pytest.mark.parametrize("root", ["plain", "other"])
def test_a_file_that_is_there_twice_is_refused(root: str, plain: Path) -> None:
    """Another reader may take another copy than the one that was looked at."""
    with zipfile.ZipFile(plain, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(f"{root}/models/model.json", b"{}")
    with pytest.raises(DataError, match="twice"):
        check_plain(plain)
