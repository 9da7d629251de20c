"""Systems by name. Modules are imported when their system is asked for, so that one extra less is not missed by others.

Others come in by ``register``, or from installed packages that declare an entry point in the group ``unias.systems``. A model's
settings name its system, and nothing that a model says is imported unless it is one of these.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from unias.config import Config
from unias.errors import UsageError
from unias.presets import PRESETS, preset
from unias.systems.base import System

UNIAS = "unias"
BUILT_IN = {
    "patchcore": "unias.systems.patchcore:PatchCoreSystem",
    "draem": "unias.systems.draem:DRAEMSystem",
    "destseg": "unias.systems.destseg:DeSTSegSystem",
    "rd4ad": "unias.systems.rd4ad:RD4ADSystem",
    "uniad": "unias.systems.uniad:UniADSystem",
    "hvq": "unias.systems.hvq:HVQSystem",
}
GROUP = "unias.systems"
_registered: dict[str, type[System]] = {}


def register(system: type[System]) -> type[System]:
    """Make a system known by its ``name``; a decorator. A name that is taken is a UsageError."""
    taken = _registered.get(system.name)
    if system.name in (UNIAS, *BUILT_IN) or (taken is not None and taken.__qualname__ != system.__qualname__):
        raise UsageError(f"system: {system.name!r} is taken. Give yours another name.")
    _registered[system.name] = system
    return system


def names() -> tuple[str, ...]:
    """Every system that can be asked for, UniAS last."""
    others = [*_registered, *(entry.name for entry in entry_points(group=GROUP))]
    return (*BUILT_IN, *(name for name in dict.fromkeys(others) if name not in (UNIAS, *BUILT_IN)), UNIAS)


def find(name: str) -> type[System]:
    """The class of a system beside UniAS. Raises UsageError for a name that is not known."""
    if name in _registered:
        return _registered[name]
    if name not in BUILT_IN:
        for entry in entry_points(group=GROUP, name=name):
            loaded: type[System] = entry.load()
            return loaded
        raise UsageError(f"system: {name!r} is not one of {', '.join(names())}.")
    module, _, attribute = BUILT_IN[name].partition(":")
    found: type[System] = getattr(importlib.import_module(module), attribute)
    return found


def title(name: str) -> str:
    """As tables name it."""
    return "UniAS" if name == UNIAS else find(name).title


def config_of(name: str, chosen: str) -> Config:
    """The settings of a system's preset. Raises UsageError for a system or preset that is not known."""
    if name == UNIAS:
        return preset(chosen)
    known = find(name).presets()
    if chosen not in known:
        others = ", ".join(known)
        more = f" {chosen!r} is UniAS's own." if chosen in PRESETS else ""
        raise UsageError(f"preset: {name} has {others}.{more}")
    return known[chosen]
