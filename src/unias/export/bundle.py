"""One file for a PC without internet: the model folder with hashes, licences, the list of packages, and how to install them.

The unpacked folder is a model folder: ``unias predict FOLDER photos -o out`` takes it as it is. The backbone's weights are inside
the model's own, so no package with weights and no download is needed. The same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unias.backbones.weights import OFFLINE_PACKAGES
from unias.config import BackboneConfig, load_config
from unias.errors import DataError, UsageError
from unias.files import writing
from unias.inference import rehearsal
from unias.inference.engines import INFO_FILE, read_info
from unias.inference.store import check_manifest

RUNTIMES = {"onnx": ("onnxruntime",), "openvino": ("openvino",), "torch": ()}
ACCELERATORS = re.compile(r"nvidia-|cuda-|triton$")  # come with torch's GPU build where there is one
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold
NOT_FOUND = "no licence text comes with it"
SHOWN = 8  # packages that a message names


@dataclass(frozen=True)
class Bundle:
    """What was written.

    Attributes:
        photos: whether the training photos that the model keeps are in it; None = it keeps none.
    """

    file: Path
    files: int
    bytes: int
    sha256: str
    photos: bool | None = None


def write_bundle(
    model: Path | str, file: Path | str, wheels: Path | str | None = None, *, photos: bool = False
) -> Bundle:
    """Pack a model folder, trained or exported.

    Args:
        file: a new .zip; its name, without the ending, is the name of the folder in it.
        wheels: a folder of wheels (``pip download``) that go in too, so that nothing else has to be carried over.
        photos: pack the few training photos that a trained model keeps for ``unias extend`` too.

    Raises:
        UsageError: a name that does not end in .zip, a wheels folder without wheels, or without all that are needed.
        DataError: no whole model, or a file that is there already.
    """
    home, target = Path(model), Path(file)
    root = _root(target)
    files = check_manifest(home)
    kept = photos if rehearsal.FILE in files else None
    entries: dict[str, bytes | Path] = {name: home / name for name in ("manifest.json", *files)}
    if kept is False:
        del files[rehearsal.FILE], entries[rehearsal.FILE]
        manifest = json.loads((home / "manifest.json").read_text(encoding="utf-8"))
        entries["manifest.json"] = _text(json.dumps({**manifest, "files": files}, indent=2))
    config = load_config(home / "config.yaml")
    engine = read_info(home).engine if INFO_FILE in files else "torch"
    packages = needed_packages(("unias", *RUNTIMES[engine]))
    for wheel in _wheels(wheels, packages):
        entries[f"wheels/{wheel.name}"] = wheel
    entries["requirements.txt"] = _text(*(f"{p.name}=={p.version}" for p in packages.values() if p.name != "unias"))
    entries |= licences(packages, config.backbone)
    entries["README.md"] = _readme(root, engine, packages, wheels is not None, kept)
    hashes = {name: _sha256(content) for name, content in entries.items()}
    entries["SHA256SUMS"] = _text(*(f"{hashes[name]}  {name}" for name in sorted(hashes)))
    with writing(target) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(entries):
                _add(archive, f"{root}/{name}", entries[name])
        digest, size = _sha256(temporary), temporary.stat().st_size
    return Bundle(target, len(entries), size, digest, kept)


def check_bundle(file: Path | str, wheels: Path | str | None, engine: str) -> None:
    """What can be wrong with the wish alone, before a model is exported for ``engine``. Raises as ``write_bundle``."""
    _root(Path(file))
    if wheels is not None:
        _wheels(wheels, needed_packages(("unias", *RUNTIMES.get(engine, ()))))


def _root(target: Path) -> str:
    """The folder's name in the zip."""
    root = re.sub(r"(\.unias)?\.zip$", "", target.name, flags=re.IGNORECASE)
    if not target.name.lower().endswith(".zip") or not root:
        raise UsageError(f"--bundle: {target} does not end in .zip. Name it line.unias.zip, for example.")
    if target.exists():
        raise DataError(f"{target}: exists already. Choose another name for --bundle, or remove it.")
    return root


@dataclass(frozen=True)
class Package:
    """An installed package: what its own metadata say."""

    name: str
    version: str
    licence: str
    texts: Mapping[str, str]


def needed_packages(names: tuple[str, ...]) -> dict[str, Package]:
    """Those packages and all that they need, as installed here, by normalised name; GPU libraries left out."""
    from packaging.requirements import Requirement

    found: dict[str, Package] = {}
    waiting = list(names)
    while waiting:
        name = _normal(waiting.pop(0))
        if name in found or ACCELERATORS.match(name):
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional part that is not installed
        found[name] = _package(distribution)
        for line in distribution.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return dict(sorted(found.items(), key=lambda item: item[1].name.casefold()))


def licences(packages: Mapping[str, Package], backbone: BackboneConfig) -> dict[str, bytes | Path]:
    """licences/: a list, the texts that come with the packages, and what is known of the backbone's weights."""
    lines = ["# Licences", "", "| package | version | licence | text |", "| --- | --- | --- | --- |"]
    entries: dict[str, bytes | Path] = {}
    for name, package in packages.items():
        file = f"licences/{name}.txt"
        if package.texts:
            entries[file] = _text(*(f"{title}\n{'=' * len(title)}\n\n{body}" for title, body in package.texts.items()))
        shown = f"[{file}]({file.removeprefix('licences/')})" if package.texts else NOT_FOUND
        lines.append(f"| {package.name} | {package.version} | {package.licence} | {shown} |")
    lines += ["", "## The backbone's weights", "", *_backbone_licence(backbone, entries)]
    lines += [
        "",
        "## The model",
        "",
        "Its weights were learned from your own photos; they carry no licence of ours.",
        "",
    ]
    return entries | {"licences/README.md": _text(*lines)}


def _backbone_licence(backbone: BackboneConfig, entries: dict[str, bytes | Path]) -> list[str]:
    lines = [f"{backbone.name}, frozen, inside the model's own weights. They were read from: {backbone.weights}."]
    package = OFFLINE_PACKAGES.get(backbone.name.split(".")[0]) if backbone.weights == "auto" else None
    try:
        source = _package(importlib.metadata.distribution(package[0])) if package else None
    except importlib.metadata.PackageNotFoundError:
        source = None
    if source is None:
        lines.append("Look up their licence where they come from: timm's page of that name tells it.")
    else:
        lines.append(f"The package {source.name} {source.version} ships them; its licence: licences/backbone.txt.")
        entries["licences/backbone.txt"] = _text(*(source.texts.values() or [NOT_FOUND]))
    return lines


def _package(distribution: importlib.metadata.Distribution) -> Package:
    about: Any = distribution.metadata
    licence = about.get("License-Expression") or about.get("License") or ""
    if not licence or licence == "UNKNOWN" or "\n" in licence:
        kinds = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
        licence = ", ".join(kind.rpartition(" :: ")[2] for kind in kinds) or "see its text"
    texts = {}
    for path in sorted(distribution.files or [], key=str):
        if ".dist-info" in path.parts[0] and re.match(r"licen[cs]e|notice|copying", path.name, flags=re.IGNORECASE):
            file = Path(str(distribution.locate_file(path)))
            if file.is_file():
                texts["/".join(path.parts[1:])] = file.read_text(encoding="utf-8", errors="replace").strip()
    version = distribution.version.partition("+")[0]  # 2.14.1+cpu: the build is the index's business
    return Package(distribution.metadata["Name"], version, licence.replace("|", "/"), texts)


def _readme(root: str, engine: str, packages: Mapping[str, Package], packed: bool, photos: bool | None) -> bytes:
    """packed: whether the wheels are in it. photos: as in ``Bundle``."""
    version = ".".join(platform.python_version_tuple()[:2])
    unias = packages["unias"].version if "unias" in packages else "of this model"
    told = {
        True: "A few training photos of each product are in `rehearsal.safetensors`, for `unias extend`.",
        False: "The training photos that the model keeps for `unias extend` were left out: none is in this file.",
        None: "No photo is in this file.",
    }
    carried = "They are in `wheels/`." if packed else "They are not in this file; make the folder `wheels` once."
    return _text(
        f"# {root}",
        "",
        "A UniAS model for a PC without internet. `card.md` tells what it learned from, `licences/README.md` what it may be",
        f"used with. It runs by {engine}. Nothing is downloaded when it runs, and nothing is sent anywhere.",
        told[photos],
        "",
        "## 1. Is it whole?",
        "",
        "    sha256sum -c SHA256SUMS",
        "",
        f"## 2. Install (Python {version}, the same kind of PC as the one that the wheels were fetched on)",
        "",
        f"{carried} On a PC with internet, beside a checkout of unias {unias}:",
        "",
        "    pip download -r requirements.txt -d wheels",
        "    pip wheel --no-deps PATH/TO/unias -w wheels",
        "",
        "On the PC without:",
        "",
        "    python -m venv venv",
        "    venv/bin/pip install --no-index --find-links wheels -r requirements.txt unias",
        "",
        "## 3. Use",
        "",
        "    venv/bin/unias predict . PHOTOS -o out",
        "",
        "This folder is the model: any folder of photos goes in the place of PHOTOS. On Windows write venv\\Scripts\\ for",
        "venv/bin/.",
        "",
    )


def _wheels(folder: Path | str | None, packages: Mapping[str, Package]) -> list[Path]:
    """The wheels in a folder. Raises UsageError unless all ``packages`` are among them, in the versions of requirements.txt."""
    if folder is None:
        return []
    found = sorted(Path(folder).glob("*.whl"))
    if not found:
        raise UsageError(f"--wheels: {folder} holds no .whl files. Fill it with `pip download -d {folder} ...`.")
    lacking = _lacking(found, packages)
    if lacking:
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise UsageError(
            f"--wheels: {folder} lacks {', '.join(lacking[:SHOWN])}{more}. Make the bundle without --wheels first: its README.md "
            "says how to fetch all that its requirements.txt names, and how to make the wheel of unias."
        )
    return found


def _lacking(wheels: Sequence[Path], packages: Mapping[str, Package]) -> list[str]:
    """Packages without a wheel, unias and torch first; of unias any version will do, as the README asks for none."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    there: set[tuple[str, str]] = set()
    for wheel in wheels:
        try:
            name, version, _, _ = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename as error:
            raise UsageError(
                f"--wheels: {wheel} has no name of a wheel ({error}). Take it out, or fetch it again."
            ) from error
        there |= {(str(name), version.public), (str(name), "")}
    pins = {name: "" if name == "unias" else package.version for name, package in packages.items()}
    pins = {"unias": "", **pins}
    lacking = [name for name, version in pins.items() if (name, _public(version)) not in there]
    lacking.sort(key=lambda name: (name != "unias", name != "torch", name))
    return [f"{name} {pins[name]}".strip() for name in lacking]


def _public(version: str) -> str:
    from packaging.version import Version

    return Version(version).public if version else ""


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    info = zipfile.ZipInfo(name, EARLIEST)
    info.external_attr, info.create_system = 0o644 << 16, 3
    with archive.open(info, "w", force_zip64=True) as target:
        for block in _blocks(content):
            target.write(block)


def _blocks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as source:
        while block := source.read(1 << 20):
            yield block


def _sha256(content: bytes | Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(content):
        digest.update(block)
    return digest.hexdigest()


def _text(*lines: str) -> bytes:
    return ("\n".join(lines).rstrip("\n") + "\n").encode("utf-8")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
