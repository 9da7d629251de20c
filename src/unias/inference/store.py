"""A model on disk: a folder that can be checked, read without pickle, and is written whole or not at all.

model.safetensors      backbone and trained weights
config.yaml            every setting
products.json          cuts, counts and the split (which photos were held out)
products.safetensors   what good parts of each product look like to the model
card.md                data, counts, seed, versions, figures, for people
manifest.json          format version and the sha256 of each file
train_state/           only while training is unfinished

An export has the same files but the tensors: graph.* holds weights and statistics, export.json says how it was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from unias.backbones.timm_backbone import FrozenBackbone, create_network, freeze
from unias.calibration.cuts import Cut
from unias.config import Config, dump_config, load_config
from unias.errors import DataError, UniasError, UsageError
from unias.files import sha256, write_json, write_text, writing_folder
from unias.inference.engines import GRAPH_FILES, INFO_FILE, ExportedDetector, open_session, read_info
from unias.maps.detector import Detector
from unias.maps.statistics import ProductStatistics
from unias.model.build import build_unias
from unias.systems.base import Parts
from unias.systems.detector import SystemDetector
from unias.systems.registry import UNIAS, find, title

FORMAT_VERSION = 1
STATE_FOLDER = "train_state"
FILES = ("model.safetensors", "config.yaml", "products.json", "products.safetensors", "card.md")
EXPORT_FILES = (INFO_FILE, "config.yaml", "products.json", "card.md")


@dataclass(frozen=True)
class ProductInfo:
    """One product of a model: its cut and the photos behind it, by key (path below the data folder)."""

    name: str
    cut: Cut
    train: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    held_out_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class StoredModel:
    """All that a model folder holds, in memory; the graph of an export in its place."""

    detector: Detector | SystemDetector | ExportedDetector
    config: Config
    products: tuple[ProductInfo, ...]
    record: dict[str, Any] = field(default_factory=dict)  # data, seed, steps, minutes, machine, versions, figures


def build_system(
    config: Config, products: tuple[str, ...], backbone: FrozenBackbone, half: bool = False
) -> SystemDetector:
    """The same for a system beside UniAS. ``half``: see ``systems.base.Parts``."""
    kind = find(config.system)
    parts = Parts(backbone, products, config.size, config.backbone.name, config.train, half)
    statistics = ProductStatistics(products, backbone.channels)
    return SystemDetector(backbone, kind(kind.settings_of(config), parts), statistics, config.size)


def build_detector(config: Config, products: tuple[str, ...], backbone: FrozenBackbone) -> Detector:
    """Modules by the settings, around a backbone."""
    unias = build_unias(config.model, backbone.channels, config.grid)
    statistics = ProductStatistics(products, backbone.channels)
    return Detector(backbone, unias, statistics, config.maps, config.size)


def save_model(folder: Path, model: StoredModel) -> None:
    """Write the folder under a temporary name, then rename; an unfinished training state there is dropped.

    Raises DataError where the operating system refuses; nothing half-written stays. UsageError for an export.
    """
    if isinstance(model.detector, ExportedDetector):
        raise UsageError(f"{folder}: an exported model is not written again. Copy the folder it was loaded from.")
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.detector.state_dict().items()
        if not name.startswith("statistics.")
    }
    statistics = {
        name: value.detach().cpu().contiguous() for name, value in model.detector.statistics.state_dict().items()
    }
    names = [product.name for product in model.products]
    ours = any((folder / mark).exists() for mark in ("manifest.json", STATE_FOLDER))
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is no model. Choose another output with -o.")
    with writing_folder(folder, replace=True) as temporary:
        (temporary / "model.safetensors").write_bytes(save(tensors))
        (temporary / "products.safetensors").write_bytes(save(statistics))
        write_settings(temporary, model)
        write_text(temporary / "card.md", card(model, names))
        write_manifest(temporary, FILES)


def write_settings(home: Path, model: StoredModel) -> None:
    """config.yaml and products.json."""
    write_text(home / "config.yaml", dump_config(model.config))
    content = {"products": [asdict(product) for product in model.products], "record": model.record}
    write_json(home / "products.json", content)


def write_manifest(home: Path, files: Sequence[str]) -> None:
    """Format version and the hash of each file."""
    hashes = {name: sha256(home / name) for name in files}
    write_json(home / "manifest.json", {"format": FORMAT_VERSION, "files": hashes})


def load_model(folder: Path | str, device: torch.device) -> StoredModel:
    """Read and check a model folder.

    Raises DataError for a folder that is no model, is unfinished, of another format version, has a file missing or changed.
    """
    home = Path(folder)
    files = check_manifest(home)
    try:
        config = load_config(home / "config.yaml")
        content = json.loads((home / "products.json").read_text(encoding="utf-8"))
        products = tuple(_product(entry) for entry in content["products"])
        if INFO_FILE in files:
            return StoredModel(_open_export(home, files), config, products, content.get("record", {}))
        backbone = freeze(*create_network(config.backbone.name), config.backbone)
        names = tuple(product.name for product in products)
        build = build_detector if config.system == UNIAS else build_system
        detector: Detector | SystemDetector = build(config, names, backbone)
        _fill(detector, load_file(home / "model.safetensors"), load_file(home / "products.safetensors"), home)
    except UniasError:
        raise
    except Exception as error:
        raise DataError(f"{home}: cannot be read as a model ({error}). Train or convert it again.") from error
    detector.to(device).eval()
    return StoredModel(detector, config, products, content.get("record", {}))


def check_manifest(home: Path) -> dict[str, str]:
    """Format version and hashes. Returns {file: sha256}. Raises DataError naming the file at fault."""
    if not home.is_dir():
        raise DataError(f"{home}: there is no such model folder. Make one with `unias train DATA -o {home}`.")
    manifest = home / "manifest.json"
    if not manifest.is_file():
        if (home / STATE_FOLDER).is_dir():
            raise DataError(f"{home}: training is unfinished. Run the same `unias train` command with --resume.")
        raise DataError(f"{manifest}: is missing, so this is no model folder. Train or copy the model again.")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        version, files = content["format"], dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest}: cannot be read. Copy the model folder again.") from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"{manifest}: format version {version}, this unias reads {FORMAT_VERSION}. Use the unias release that wrote the "
            "model, or train it again."
        )
    for name in sorted({*(EXPORT_FILES if INFO_FILE in files else FILES), *files}):
        file = home / name
        if name not in files or not file.is_file():
            raise DataError(f"{file}: is missing from the model. Copy the whole folder again.")
        if _hash(file) != files[name]:
            raise DataError(
                f"{file}: was changed since it was written (its sha256 differs). Copy the model folder again."
            )
    return files


def _hash(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error


def _open_export(home: Path, files: Mapping[str, str]) -> ExportedDetector:
    info = read_info(home)
    missing = [name for name in GRAPH_FILES[info.engine] if name not in files]
    if missing:
        raise DataError(f"{home / missing[0]}: is missing from the model. Copy the whole folder again.")
    return ExportedDetector(open_session(home, info), info)


def card(model: StoredModel, names: list[str]) -> str:
    """The model card: what it learned from, and what its figures rest on."""
    record = model.record
    lines = [
        f"# {title(model.config.system)} model",
        "",
        f"One model for {len(names)} product{'s' if len(names) != 1 else ''}, learned from good photos alone.",
        "",
        f"- data: {record.get('data', 'unknown')}",
        f"- preset: {model.config.preset}, input {model.config.size} x {model.config.size}, backbone "
        f"{model.config.backbone.name}",
    ]
    lines += [f"- {key}: {value}" for key, value in model.config.settings.items() if value != "" and key != "textures"]
    lines += [
        f"- {key}: {record[key]}"
        for key in ("textures", "seed", "steps", "epochs", "minutes", "commit", "machine")
        if key in record
    ]
    if "versions" in record:
        lines.append("- versions: " + ", ".join(f"{key} {value}" for key, value in record["versions"].items()))
    lines += [
        "",
        "| product | training photos | held-out photos | cut | false alarms promised on average |",
        "| --- | --- | --- | --- | --- |",
    ]
    for product in model.products:
        promise = "none (provisional)" if product.cut.provisional else f"{product.cut.false_alarm_rate:.1%}"
        name = product.name.replace("|", "\\|")
        lines.append(
            f"| {name} | {len(product.train)} | {len(product.held_out)} | {product.cut.value:.6g} | {promise} |"
        )
    lines += [
        "",
        "The cut is the highest score of a product's held-out good photos; they served nothing else."
        if not any(product.cut.provisional for product in model.products)
        else "Provisional cuts rest on photos that the model may have learned from: they promise nothing.",
        "The backbone's weights inside model.safetensors keep their own licence.",
        "",
    ]
    return "\n".join(lines)


def _product(entry: dict[str, Any]) -> ProductInfo:
    return ProductInfo(
        name=entry["name"],
        cut=Cut(**entry["cut"]),
        train=tuple(entry["train"]),
        held_out=tuple(entry["held_out"]),
        held_out_scores=tuple(entry["held_out_scores"]),
    )


def _fill(
    detector: Detector | SystemDetector, model: dict[str, Tensor], statistics: dict[str, Tensor], home: Path
) -> None:
    detector.statistics.load_state_dict(statistics)
    missing, unexpected = detector.load_state_dict(model, strict=False)
    missing = [name for name in missing if not name.startswith("statistics.")]
    if missing or unexpected:
        raise DataError(f"{home}: its tensors do not fit its settings ({(missing + unexpected)[:3]}). Train it again.")
