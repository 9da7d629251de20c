"""``unias export``: write the graph, compare it with the trained model, keep it only where they agree."""

from __future__ import annotations

import dataclasses
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unias.errors import DataError, ExportError, UniasError, UsageError
from unias.export.graph import levels_of
from unias.export.onnx import write_onnx
from unias.export.openvino import to_openvino, write_openvino
from unias.export.photos import Photos, drawn_pictures, good_photos, spread, with_defects
from unias.export.program import write_torch
from unias.export.verify import FLOAT_LIMIT, Difference, compare, require_equal
from unias.files import write_json, write_text, writing_folder
from unias.inference.engines import (
    ENGINES,
    GRAPH_FILES,
    INFO_FILE,
    PIXELS,
    ExportedDetector,
    ExportInfo,
    import_runtime,
    open_session,
)
from unias.inference.store import EXPORT_FILES, StoredModel, card, load_model, write_manifest, write_settings
from unias.maps.detector import Detector
from unias.progress import Progress
from unias.runtime import versions
from unias.systems.detector import SystemDetector

CHECKED = 12  # good photos that an export is compared on, and as many with a drawn defect
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares."""

    folder: Path
    info: ExportInfo
    difference: Difference
    megabytes: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.folder,
            "engine": self.info.engine,
            "pixels": self.info.pixels,
            "int8": self.info.int8,
            "difference": self.difference.as_dict(),
            "megabytes": round(self.megabytes, 2),
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = [self.difference.line()]
        if self.info.int8:
            lines.append(
                f"{len(self.info.int8['int8'])} layers in 8 bits, {len(self.info.int8['float'])} stay in float "
                "(card.md says which)."
            )
        return [
            *lines,
            f"Export: {self.folder} ({self.info.engine}, {self.info.pixels} pixels, {self.megabytes:.1f} MiB)",
        ]


def export_model(
    model: Path | str,
    to: str,
    output: Path | str | None = None,
    *,
    int8: bool = False,
    data: Path | str | None = None,
    pixels: str = "auto",
    progress: Progress | None = None,
) -> Exported:
    """Write a trained model as one graph into a new folder that ``unias.load`` takes as it takes the model's own.

    Args:
        to: onnx, openvino or torch.
        output: by default the model's folder with "-onnx" and so on added to its name.
        int8: OpenVINO alone: compute in 8 bits, but for the layers that it hurts.
        data: photos to compare on; for int8 the folder that the model was trained on. Without it drawn textures serve.
        pixels: what the graph takes: uint8, float32 where photos have more than 8 bits, or auto.

    Raises:
        UsageError, DataError: what cannot be exported, or so.
        MissingError: a package of ``unias[export]`` is not installed.
        ExportError: the export differs from the model by more than is allowed; nothing was kept.
    """
    progress = progress or Progress("silent")
    _check_wish(to, int8, data, pixels)
    source = Path(os.path.abspath(model))
    home = Path(os.path.abspath(output or f"{source}-{to}{'-int8' if int8 else ''}"))
    if home.exists():
        raise DataError(f"{home}: exists already. Choose another output with -o, or remove it.")
    for package in (*NEEDED[to], *(("nncf",) if int8 else ())):
        import_runtime(package, f"--to {to}{' --int8' if int8 else ''}")
    stored = load_model(source, torch.device("cpu"))
    trained = stored.detector
    if not isinstance(trained, (Detector, SystemDetector)):
        raise UsageError(f"{source}: is an export already. Export the trained model that it was made from.")
    if int8 and isinstance(trained, SystemDetector):
        raise UsageError(f"--int8: is for UniAS's own models, and {source} is of {trained.system.name}. Leave it out.")
    photos = _photos(stored, data, pixels, progress)
    kind = _pixels(pixels, stored, photos)
    levels = levels_of(trained)
    with writing_folder(home) as temporary:
        progress.say(f"writing the graph for {to}")
        if int8:
            from unias.export.int8 import Quantizer

            made = Quantizer(stored, kind, Path(str(data)), progress).run()
            write_openvino(made.model, temporary)
            stored = dataclasses.replace(stored, products=made.products)
            info, difference = ExportInfo(to, kind, levels, made.report, {}), made.difference
        else:
            _write(trained, to, kind, temporary)
            info = ExportInfo(to, kind, levels, own_score=isinstance(trained, SystemDetector))
            progress.say(f"comparing it with the trained model on {len(photos)} photos ({photos.source})")
            difference = compare(trained, ExportedDetector(open_session(temporary, info), info), photos)
            require_equal(difference, str(home))
        gc.collect()  # the graph's file is let go of, or Windows would not rename its folder
        check = {**difference.as_dict(), "limit": None if int8 else FLOAT_LIMIT, "versions": _versions(to, int8)}
        info = dataclasses.replace(info, check=check)
        _write_rest(temporary, stored, info, difference)
        size = sum(file.stat().st_size for file in temporary.iterdir())
    return Exported(home, info, difference, size / 2**20)


def _check_wish(to: str, int8: bool, data: Path | str | None, pixels: str) -> None:
    if to not in ENGINES:
        raise UsageError(f"--to: {to!r} is not one of {', '.join(ENGINES)}.")
    if pixels not in ("auto", *PIXELS):
        raise UsageError(f"--pixels: {pixels!r} is not one of auto, {', '.join(PIXELS)}.")
    if int8 and to != "openvino":
        raise UsageError(f"--int8: is for --to openvino, not {to}.")
    if int8 and data is None:
        raise UsageError(
            "--int8: 8 bits are calibrated on good photos. Give --data, the folder that the model was trained on."
        )


def _photos(stored: StoredModel, data: Path | str | None, pixels: str, progress: Progress) -> Photos:
    if data is None:
        deep = ""
        if pixels == "auto" and stored.config.bits is None:
            deep = ", and the graph takes 8-bit pixels: it refuses photos of more bits (--pixels float32 takes them)"
        progress.say(
            f"warning: compared on drawn textures{deep}. Give --data PHOTOS to compare on photos of the products."
        )
        return drawn_pictures(CHECKED, stored.config)
    samples = spread(good_photos(data, stored.products), CHECKED)
    return with_defects(
        samples, stored.products, stored.config, f"good photos of {Path(data).name}, each also with a defect drawn in"
    )


def _pixels(wish: str, stored: StoredModel, photos: Photos) -> str:
    deep = photos.deep or stored.config.bits is not None
    if wish == "uint8" and photos.deep:
        raise UsageError("--pixels uint8: the photos in --data have more than 8 bits. Use --pixels float32, or auto.")
    return wish if wish != "auto" else "float32" if deep else "uint8"


def _write(detector: Detector | SystemDetector, to: str, pixels: str, home: Path) -> None:
    """Raises ExportError where a system holds something that a graph cannot."""
    try:
        _write_graph(detector, to, pixels, home)
    except UniasError:
        raise
    except Exception as error:  # whatever exporters raise
        if not isinstance(detector, SystemDetector):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"{detector.system.name} cannot be written as one graph for {to} ({lines[0][:200]}). Use the trained model itself: "
            "predict, calibrate, serve and watch take it as it is; a system of your own may need a graph_form (docs/systems.md)."
        ) from error


def _write_graph(detector: Detector | SystemDetector, to: str, pixels: str, home: Path) -> None:
    if to == "onnx":
        write_onnx(detector, pixels, home)
    elif to == "openvino":
        write_openvino(to_openvino(detector, pixels), home)
    else:
        write_torch(detector, pixels, home)


def _write_rest(home: Path, stored: StoredModel, info: ExportInfo, difference: Difference) -> None:
    write_settings(home, stored)
    write_json(home / INFO_FILE, dataclasses.asdict(info))
    lines = [
        card(stored).replace("model.safetensors", "the graph"),
        "## Export",
        "",
        f"- {', '.join(GRAPH_FILES[info.engine])}: one graph from {info.pixels} pixels to map and score, for {info.engine}",
        f"- {difference.line()}",
        "- made with: " + ", ".join(f"{name} {version}" for name, version in info.check["versions"].items()),
        "",
    ]
    if info.int8:
        from unias.export.int8 import describe

        lines += describe(info.int8)
    write_text(home / "card.md", "\n".join(lines))
    write_manifest(home, (*EXPORT_FILES, *GRAPH_FILES[info.engine]))


def _versions(to: str, int8: bool) -> dict[str, str]:
    from importlib.metadata import version

    known = versions()
    packages = (*NEEDED[to], *(("nncf",) if int8 else ()))
    return {"unias": known["unias"], "torch": known["torch"], **{name: version(name) for name in packages}}
