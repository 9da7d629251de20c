"""The models that are measured: ``paper`` with random weights, ``small`` trained or random, and their exports."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unias.backbones.timm_backbone import build_backbone
from unias.bench.work import multiply_adds
from unias.calibration.cuts import unpromised
from unias.config import Config
from unias.errors import DataError, ExportError, MissingError, UniasError, UsageError
from unias.export.photos import Photos, drawn_pictures, good_photos, spread, with_defects
from unias.files import write_json, write_text, writing_folder
from unias.inference.engines import GRAPH_FILES, INFO_FILE, ExportInfo, import_runtime, to_pixels
from unias.inference.products import ProductInfo
from unias.inference.store import (
    EXPORT_FILES,
    StoredModel,
    build_detector,
    card,
    load_model,
    save_model,
    write_manifest,
    write_settings,
)
from unias.maps.detector import Detector
from unias.progress import Progress
from unias.runtime import seed_everything

PHOTOS = 8  # the larger batch
SETTLED = 24  # photos that a random backbone's batch norm is set by
INSTALL = 'not installed: pip install "unias[export]"'
RANDOM, TRAINED = "random weights", "trained"
HIGH = 1e9  # a cut that nothing passes
ANY = ProductInfo("any", unpromised(HIGH))


@dataclass
class Subject:
    """One model, and what it is measured on.

    Attributes:
        name: paper or small.
        folder: of the model.
        trained: False = random weights.
        photos: the batch that is timed and whose maps are compared; (8, 3, S, S).
        about: what the table says of the model.
        exports: {engine: folder, or why there is none}.
    """

    name: str
    folder: Path
    config: Config
    trained: bool
    photos: Photos
    data: Path | None
    about: dict[str, Any]
    exports: dict[str, Path | str] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """Trained or not, in words."""
        return TRAINED if self.trained else RANDOM

    @property
    def images(self) -> torch.Tensor:
        """(8, 3, S, S) in [0, 1]."""
        return torch.from_numpy(self.photos.images)


def random_subject(name: str, config: Config, home: Path, data: Path | None, seed: int = 0) -> Subject:
    """A model of these settings with weights by chance, the backbone's too, written below ``home``."""
    seed_everything(seed)
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, weights="random"))
    photos = batch_of(config, (), data)
    backbone = build_backbone(config.backbone)
    many = torch.from_numpy(batch_of(config, (), data, SETTLED).images)
    _settle(backbone.network, (many - backbone.mean) / backbone.std)
    detector = build_detector(config, (ANY.name,), backbone).eval()
    folder = home / name
    stored = StoredModel(detector, config, (ANY,), {"data": RANDOM, "seed": seed})
    save_model(folder, stored)
    return Subject(name, folder, config, False, photos, data, _described(stored, photos, RANDOM, {}))


@torch.no_grad()
def _settle(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Batch norm's statistics by one pass over photos: with those it starts with, random features would fade or burst."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [module.momentum for module in norms]
    for module in norms:
        module.momentum = None  # the plain mean over passes: of one, its own statistics
    network.train()
    network(images)
    network.eval()
    for module, momentum in zip(norms, before, strict=True):
        module.momentum = momentum


def trained_subject(name: str, folder: Path, data: Path | None) -> Subject:
    """A model that ``unias train`` made. Raises UsageError for an export."""
    stored = load_trained(folder)
    photos = batch_of(stored.config, stored.products, data)
    kept: dict[str, Any] = {
        key: stored.record[key] for key in ("data", "seed", "steps", "minutes", "commit") if key in stored.record
    }
    return Subject(name, folder, stored.config, True, photos, data, _described(stored, photos, TRAINED, kept))


def load_trained(folder: Path) -> StoredModel:
    """A trained model's folder. Raises UsageError for an export, DataError for what is no model."""
    stored = load_model(folder, torch.device("cpu"))
    if not isinstance(stored.detector, Detector):
        raise UsageError(f"--model: {folder} is an export; exports are made here. Give the trained model's folder.")
    return stored


def batch_of(config: Config, products: tuple[ProductInfo, ...], data: Path | None, count: int = PHOTOS) -> Photos:
    """So many photos: good ones of ``data``, each also with a drawn defect; drawn textures without ``data``."""
    if data is None:
        photos = drawn_pictures(count // 2, config)
    else:
        samples = spread(good_photos(data, products), count // 2)
        photos = with_defects(
            samples, products, config, f"good photos of {data.name}, each also with a defect drawn in"
        )
    rows = np.arange(count) % len(photos)
    return dataclasses.replace(
        photos, images=photos.images[rows], product=photos.product[rows], masks=photos.masks[rows]
    )


def export_subject(subject: Subject, engine: str, home: Path, progress: Progress) -> Path | str:
    """The export's folder below ``home``, or why there is none. Made once, whatever came of it."""
    if engine not in subject.exports:
        subject.exports[engine] = _export(subject, engine, home / f"{subject.name}-{engine}", progress)
    return subject.exports[engine]


def _export(subject: Subject, engine: str, folder: Path, progress: Progress) -> Path | str:
    from unias.export import export_model

    to, _, int8 = engine.partition("-")
    try:
        if not subject.trained:
            return untrained_export(subject, engine, folder, progress)
        if int8 and subject.data is None:
            return "not measured: no --data, which 8 bits are calibrated on"
        return export_model(subject.folder, to, folder, int8=bool(int8), data=subject.data, progress=progress).folder
    except MissingError:
        return INSTALL
    except ExportError as error:
        return f"not kept: {str(error).replace(str(folder), engine)}"
    except (UsageError, DataError) as error:
        return f"not measured: {error}"
    except UniasError:
        raise
    except Exception as error:  # an exporter's own fault is this row's, not the bench's
        return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def untrained_export(subject: Subject, engine: str, folder: Path, progress: Progress) -> Path:
    """The export of random weights, for speed. How far its maps are from float32 is for the table to say: no limit is set here,
    since random weights can turn rounding into differences that trained ones do not show.

    In 8 bits every layer is, calibrated on the subject's photos: which layers 8 bits hurt can only be measured on trained
    weights (``unias export --int8`` does). Raises MissingError where a package of ``unias[export]`` is not installed.
    """
    from unias.export.graph import quiet
    from unias.export.layers import quantise, weighted_layers
    from unias.export.onnx import write_onnx
    from unias.export.openvino import to_openvino, write_openvino
    from unias.export.run import NEEDED

    to, _, int8 = engine.partition("-")
    for package in (*NEEDED[to], *(("nncf",) if int8 else ())):
        import_runtime(package, f"bench: {engine}")
    stored = load_trained(subject.folder)
    assert isinstance(stored.detector, Detector)
    kind = "float32" if subject.photos.deep or subject.config.bits is not None else "uint8"
    report: dict[str, Any] = {}
    with writing_folder(folder) as temporary:
        if to == "onnx":
            write_onnx(stored.detector, kind, temporary)
        else:
            model = to_openvino(stored.detector, kind)
            if int8:
                report = {"all": list(weighted_layers(model))}
                progress.say(f"{subject.name}: {len(report['all'])} layers to 8 bits")
                rows = [{"pixels": row[None], "product": np.array([-1])} for row in to_pixels(subject.images, kind)]
                with quiet():
                    model = quantise(model, rows, report["all"])
            write_openvino(model, temporary)
        info = ExportInfo(to, kind, stored.detector.unias.levels, report, {"not compared": RANDOM})
        write_settings(temporary, stored)
        write_json(temporary / INFO_FILE, dataclasses.asdict(info))
        write_text(temporary / "card.md", card(stored))
        write_manifest(temporary, (*EXPORT_FILES, *GRAPH_FILES[to]))
    return folder


def work_of(detector: Detector, images: torch.Tensor) -> int:
    """Multiply-adds of one photo in the detector's form, the maps' making included."""
    return multiply_adds(lambda: detector(images[:1]))


def _described(stored: StoredModel, photos: Photos, weights: str, record: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(stored.detector, Detector)
    return {
        "weights": weights,
        "size": stored.config.size,
        "backbone": stored.config.backbone.name,
        "products": len(stored.products),
        "parameters": sum(p.numel() for p in stored.detector.unias.parameters()),
        "photos": photos.source,
        "record": record,
    }
