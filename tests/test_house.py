"""The house's own rules, read off the source: which way imports run, how long files are, what is never called."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unias

PACKAGE = Path(unias.__file__).resolve().parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYPROJECT = PACKAGE.parents[1] / "pyproject.toml"

# A file may import what stands in its own or an earlier group: the order of the layout in the house style.
GROUPS = (
    ("errors",),
    ("config",),
    ("presets",),
    ("runtime", "files", "progress", "memory"),
    ("data",),
    ("backbones",),
    ("model",),
    ("maps",),
    ("training",),
    ("systems",),
    ("calibration",),
    ("inference",),
    ("export",),
    ("evaluation",),
    ("report",),
    ("studies",),
    ("serve",),
    ("studio",),
    ("run",),
    ("api",),
    ("convert", "demo", "extension", "refit", "bench"),  # what the commands of these names call
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(GROUPS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST, package: str, inside_functions: bool = True) -> Iterator[str]:
    """Full names of what is imported, late imports included, those for type checkers alone left out."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(node, package, inside_functions)


def own(path: Path, inside_functions: bool = True) -> list[str]:
    """Imports of this package's own modules."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = imports(ast.parse(path.read_text(encoding="utf-8")), package, inside_functions)
    return [entry for entry in found if entry == "unias" or entry.startswith("unias.")]


def group_of(name: str) -> str:
    return name.split(".")[1]


def against_the_order(importer: str, imported: list[str]) -> list[str]:
    faults = []
    for name in imported:
        if name == "unias.__version__":
            continue
        if name.count(".") == 0 or group_of(name) not in RANK:
            faults.append(f"{importer} imports {name}: not a group of the layout")
        elif RANK[group_of(name)] > RANK[group_of(importer)]:
            faults.append(f"{importer} imports {name}")
    return faults


def test_every_file_belongs_to_a_group() -> None:
    assert len(SOURCES) > 40
    strangers = [module_name(path) for path in SOURCES if path.parent != PACKAGE or path.name != "__init__.py"]
    assert [name for name in strangers if group_of(name) not in RANK] == []


def test_imports_run_one_way() -> None:
    """Late imports count too."""
    faults: list[str] = []
    for path in SOURCES:
        name = module_name(path)
        if name == "unias":
            assert own(path) == []  # public names are loaded when they are first used
            continue
        faults += against_the_order(name, own(path))
    assert faults == []


@pytest.mark.parametrize(
    ("importer", "imported", "wrong"),
    [
        ("unias.training.loop", "unias.calibration.cuts.Cut", True),
        ("unias.model.unias", "unias.maps.levels.LevelMaps", True),
        ("unias.data.cache", "unias.api.train", True),
        ("unias.config", "unias.presets.preset", True),
        ("unias.errors", "unias.config.Config", True),
        ("unias.api", "unias.secret.thing", True),
        ("unias.runtime", "unias", True),
        ("unias.runtime", "unias.__version__", False),
        ("unias.presets", "unias.config.Config", False),
        ("unias.maps.detector", "unias.model.unias.UniAS", False),
        ("unias.maps.detector", "unias.maps.levels.LevelMaps", False),
        ("unias.cli.train", "unias.api.train", False),
    ],
)
def test_the_order_itself(importer: str, imported: str, wrong: bool) -> None:
    assert bool(against_the_order(importer, [imported])) is wrong


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import unias.api
from unias.model import unias as m
from . import sibling
from ..data.cache import x
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from unias.cli import main
try:
    import torch
except ImportError:
    torch = None
class A:
    def f(self):
        from unias.report import page
"""
    found = list(imports(ast.parse(source), "unias.maps"))
    for name in (
        "unias.api",
        "unias.model.unias",
        "unias.maps.sibling",
        "unias.data.cache.x",
        "torch",
        "unias.report.page",
    ):
        assert name in found
    assert "unias.cli.main" not in found
    assert "unias.report.page" not in list(imports(ast.parse(source), "unias.maps", inside_functions=False))


def test_no_circles() -> None:
    """Among imports at the head of files (those inside functions are there to put work off)."""
    modules = {module_name(path): path for path in SOURCES if module_name(path) != "unias"}
    edges = {
        name: {entry if entry in modules else entry.rpartition(".")[0] for entry in own(path, False)} & set(modules)
        for name, path in modules.items()
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in sorted(edges[name]):
            walk(target, (*trail, name))
        done.add(name)

    for name in sorted(modules):
        walk(name, ())
    assert done == set(modules)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    tree = ast.parse(text)
    if tree.body:
        assert ast.get_docstring(tree), f"{path} begins without a docstring"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_unsafe(path: Path) -> None:
    """No .cuda(), no pickle, weights_only=True on every load, no YAML but the safe kind, no eval, no shell."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = {name.split(".")[0] for name in imports(tree, "unias")}
    assert not taken & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for name, call in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert not name.endswith(".cuda"), ast.unparse(call)
        assert name not in ("eval", "exec", "os.system", "os.popen"), ast.unparse(call)
        assert keywords.get("shell") != "True", ast.unparse(call)
        if name in ("torch.load", "torch.hub.load", "torch.hub.load_state_dict_from_url"):
            assert keywords.get("weights_only") == "True", ast.unparse(call)
        if name.endswith("np.load") or name == "numpy.load":
            assert keywords.get("allow_pickle", "False") == "False", ast.unparse(call)
        if name in ("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"):
            raise AssertionError(ast.unparse(call))


def test_something_is_loaded_at_all() -> None:
    """The check above would pass on a package that never calls torch.load."""
    loads = [
        path
        for path in SOURCES
        for name, _ in calls(ast.parse(path.read_text(encoding="utf-8")))
        if name == "torch.load"
    ]
    assert len(loads) >= 3


def test_public_names_are_there_and_sorted() -> None:
    assert list(unias.__all__) == sorted(unias.__all__)
    assert len(set(unias.__all__)) == len(unias.__all__)
    for name in unias.__all__:
        assert getattr(unias, name) is not None, name
    assert set(unias.__all__) <= set(dir(unias))
    assert set(unias._WHERE) == set(unias.__all__) - {"__version__"}
    for name, where in unias._WHERE.items():
        assert getattr(unias, name) is getattr(importlib.import_module(where), name)
    with pytest.raises(AttributeError, match="no attribute 'secret'"):
        _ = unias.secret  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if is_type_checking(node))
    seen = {
        alias.name: node.module for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == unias._WHERE
    assert (PACKAGE / "py.typed").is_file()


HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "skimage", "lightning_fabric")


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import unias", HEAVY),
        ("import unias.cli", HEAVY[:3]),
        ("from unias import Config, UsageError, preset", HEAVY[:3]),
    ],
)
def test_what_stays_unimported(statement: str, heavy: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"


def test_pyproject_lists_the_extras_and_the_checks() -> None:
    if not PYPROJECT.is_file():
        pytest.skip("not a checkout: pyproject.toml is not beside src")
    text = PYPROJECT.read_text(encoding="utf-8")
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE)
    assert extras == ["offline", "demo", "export", "group", "video", "serve", "studio", "bench", "scale", "dev"]
    assert re.search(r'^filterwarnings = \["error"', text, flags=re.MULTILINE)
    assert re.search(r"^strict = true", text, flags=re.MULTILINE)
    version = re.search(r'^version = "(.+)"', text, flags=re.MULTILINE)
    assert version is not None
    assert version.group(1) == unias.__version__
