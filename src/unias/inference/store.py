"""A model on disk: a folder that can be checked, read without pickle, and is written whole or not at all.

model.safetensors      backbone and trained weights
config.yaml            every setting
products.json          cuts, counts and the split (which photos were held out)
products.safetensors   what good parts of each product look like to the model
card.md                data, counts, seed, versions, figures, for people
zones.safetensors      ignore-zones, where a product has one
rehearsal.safetensors  a few good photos of each product, for `unias extend` (inference/rehearsal.py)
manifest.json          format version and the sha256 of each file
train_state/           only while training is unfinished

An export has the same files but the tensors: graph.* holds weights and statistics, export.json says how it was made.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from unias.backbones.timm_backbone import FrozenBackbone, create_network, freeze
from unias.config import Config, dump_config, load_config
from unias.errors import DataError, UniasError, UsageError
from unias.files import sha256, write_json, write_text, writing_folder
from unias.inference import rehearsal
from unias.inference.engines import GRAPH_FILES, INFO_FILE, ExportedDetector, open_session, read_info
from unias.inference.products import ProductInfo, product_from_dict, zones
from unias.maps.detector import Detector
from unias.maps.fusion import Rule
from unias.maps.statistics import ProductStatistics
from unias.model.build import build_unias
from unias.systems.base import Parts
from unias.systems.detector import SystemDetector
from unias.systems.registry import UNIAS, find, title

FORMAT_VERSION = 2
STATE_FOLDER = "train_state"
FILES = ("model.safetensors", "config.yaml", "products.json", "products.safetensors", "card.md")
EXPORT_FILES = (INFO_FILE, "config.yaml", "products.json", "card.md")
ZONES_FILE = "zones.safetensors"


@dataclass(frozen=True)
class StoredModel:
    """All that a model folder holds, in memory; the graph of an export in its place."""

    detector: Detector | SystemDetector | ExportedDetector
    config: Config
    products: tuple[ProductInfo, ...]
    record: dict[str, Any] = field(default_factory=dict)  # data, seed, steps, minutes, machine, versions, figures
    rehearsal: bytes | None = None  # what is written as rehearsal.safetensors; not read back into memory
    source: Path | None = None  # the folder that it was read from: where rehearsal.safetensors is copied from


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
    first, second, third, fourth = config.maps.weights
    rule = Rule((first, second, third, fourth), config.maps.power)
    statistics = ProductStatistics(products, backbone.channels, rule)
    return Detector(backbone, unias, statistics, config.maps, config.size, config.tiling)


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
    ours = any((folder / mark).exists() for mark in ("manifest.json", STATE_FOLDER))
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is no model. Choose another output with -o.")
    with writing_folder(folder, replace=True) as temporary:
        (temporary / "model.safetensors").write_bytes(save(tensors))
        (temporary / "products.safetensors").write_bytes(save(statistics))
        if model.rehearsal is not None:
            (temporary / rehearsal.FILE).write_bytes(model.rehearsal)
        elif model.source is not None and (model.source / rehearsal.FILE).is_file():
            shutil.copyfile(model.source / rehearsal.FILE, temporary / rehearsal.FILE)
        write_settings(temporary, model)
        write_text(temporary / "card.md", card(model))
        write_manifest(temporary, FILES)


def rewrite_products(folder: Path, products: Sequence[ProductInfo], output: Path | None = None) -> None:
    """Put other products' entries (cuts, areas, zones) into a model's or an export's folder, whole or not at all.

    output: write a copy there and leave ``folder`` as it is. Tensors and graphs are taken over as they are. Raises DataError
    where the folder is no model or the operating system refuses.
    """
    files = check_manifest(folder)
    content = json.loads((folder / "products.json").read_text(encoding="utf-8"))
    config = load_config(folder / "config.yaml")
    target = folder if output is None else output
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: exists already. Choose another output with -o.")
    ours = ("products.json", "card.md", ZONES_FILE)
    with writing_folder(target, replace=True) as temporary:
        for name in files:
            if name not in ours:
                _take_over(folder / name, temporary / name)
        record = dict(content.get("record", {}))
        write_json(temporary / "products.json", {"products": [p.to_dict() for p in products], "record": record})
        if ignored := zones(products):
            (temporary / ZONES_FILE).write_bytes(save(ignored))
        text = (folder / "card.md").read_text(encoding="utf-8")
        fresh = card_of(config, record, products)
        kept = text[text.find("## Export") :] if "## Export" in text else ""
        if kept:
            fresh = fresh.replace("model.safetensors", "the graph")
        write_text(temporary / "card.md", f"{fresh}{kept}")
        write_manifest(temporary, [name for name in files if name != ZONES_FILE])


def _take_over(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk knows no hard links."""
    try:
        os.link(source.resolve(), target)  # not the link that the cache of the Hub holds
    except OSError:
        shutil.copy2(source, target)


def write_settings(home: Path, model: StoredModel) -> None:
    """config.yaml, products.json, and zones.safetensors where there are ignore-zones."""
    write_text(home / "config.yaml", dump_config(model.config))
    content = {"products": [product.to_dict() for product in model.products], "record": model.record}
    write_json(home / "products.json", content)
    if ignored := zones(model.products):
        (home / ZONES_FILE).write_bytes(save(ignored))


def write_manifest(home: Path, files: Sequence[str]) -> None:
    """Format version and the hash of each file."""
    present = [
        *files,
        *(name for name in (ZONES_FILE, rehearsal.FILE) if name not in files and (home / name).is_file()),
    ]
    hashes = {name: sha256(home / name) for name in present}
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
        ignored = load_file(home / ZONES_FILE) if ZONES_FILE in files else {}
        products = tuple(
            product_from_dict(entry, _zone(ignored.get(str(place)), config.input_size))
            for place, entry in enumerate(content["products"])
        )
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
    return StoredModel(detector, config, products, content.get("record", {}), source=home)


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
    odd = [name for name in files if Path(name).name != name or "\\" in name or name in ("", ".", "..")]
    if odd:
        raise DataError(
            f"{manifest}: names {odd[0]!r}, which is no file of its folder. Do not use this model; get it again."
        )
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


def card(model: StoredModel) -> str:
    """The model card: what it learned from, and what its figures rest on."""
    return card_of(model.config, model.record, model.products)


def card_of(config: Config, record: Mapping[str, Any], products: Sequence[ProductInfo]) -> str:
    """The same from its parts."""
    lines = [
        f"# {title(config.system)} model",
        "",
        f"One model for {len(products)} product{'s' if len(products) != 1 else ''}, learned from good photos alone.",
        "",
        f"- data: {record.get('data', 'unknown')}",
        f"- preset: {config.preset}, input {config.size} x {config.size}, backbone {config.backbone.name}",
        *([_tiles(config)] if config.tile > 1 else []),
    ]
    lines += [f"- {key}: {value}" for key, value in config.settings.items() if value != "" and key != "textures"]
    lines += [
        f"- {key}: {record[key]}"
        for key in ("textures", "seed", "steps", "epochs", "minutes", "commit", "machine")
        if key in record
    ]
    if "versions" in record:
        lines.append("- versions: " + ", ".join(f"{key} {value}" for key, value in record["versions"].items()))
    lines += [
        "",
        "| product | training photos | held-out photos | cut | what it promises |",
        "| --- | --- | --- | --- | --- |",
    ]
    for product in products:
        name = product.name.replace("|", "\\|")
        lowered = f"; kept below {len(product.missed_scores)} missed defects" if product.missed_scores else ""
        area = f"; regions under {product.min_area} pixels do not count" if product.min_area > 1 else ""
        zone = "" if product.ignore is None else f"; {product.ignore.mean():.1%} of the picture ignored"
        more = lowered + area + zone
        lines.append(
            f"| {name} | {len(product.train)} | {len(product.held_out)} | {product.cut.value:.6g} | "
            f"{product.promised()}{more} |"
        )
    lines += [
        "",
        "The cut is a rank among the scores of a product's held-out good photos, which served nothing else.",
        "The backbone's weights inside model.safetensors keep their own licence.",
        "",
    ]
    return "\n".join(lines)


def _tiles(config: Config) -> str:
    tiling = config.tiling
    return (
        f"- tiles: a photo is brought to {tiling.side} x {tiling.side} and seen in {tiling.grid} x {tiling.grid} views that "
        f"overlap by {tiling.overlap} pixels"
    )


def _zone(stored: Tensor | None, size: int) -> NDArray[np.bool_] | None:
    if stored is None:
        return None
    if stored.shape != (size, size):
        raise ValueError(f"an ignore-zone of shape {tuple(stored.shape)}")
    zone: NDArray[np.bool_] = stored.numpy().astype(bool)
    return zone


def _fill(
    detector: Detector | SystemDetector, model: dict[str, Tensor], statistics: dict[str, Tensor], home: Path
) -> None:
    statistics.setdefault(
        "wide", torch.zeros(len(detector.statistics.products))
    )  # models from before there was a choice
    detector.statistics.load_state_dict(statistics)
    missing, unexpected = detector.load_state_dict(model, strict=False)
    missing = [name for name in missing if not name.startswith("statistics.")]
    if missing or unexpected:
        raise DataError(f"{home}: its tensors do not fit its settings ({(missing + unexpected)[:3]}). Train it again.")
