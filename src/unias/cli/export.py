"""``unias export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from unias.cli import options


def export(
    model: Path = typer.Argument(..., help="Model folder made by unias train; for --bundle alone an exported one too."),
    to: str | None = typer.Option(None, "--to", help="onnx (ONNX Runtime), openvino, or torch (torch.export)."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Folder of the exported model; must be new. Default: MODEL-onnx and so on."
    ),
    int8: bool = typer.Option(
        False, "--int8", help="Compute in 8 bits where it does not hurt (openvino); needs --data. Takes minutes."
    ),
    data: Path | None = typer.Option(
        None, help="Folder of photos that the model was trained on: the export is compared, and calibrated, on them."
    ),
    pixels: str = typer.Option(
        "auto", help="What the graph takes: uint8, or float32 for photos of more than 8 bits. auto looks at --data."
    ),
    bundle: Path | None = typer.Option(
        None, help="Also one .zip for a PC without internet: model, backbone, licences, hashes, how to install."
    ),
    wheels: Path | None = typer.Option(None, help="Folder of wheels that go into the bundle (pip download)."),
    with_photos: bool = typer.Option(
        False,
        "--with-photos",
        help="Into the bundle also the few training photos that the model keeps for unias extend.",
    ),
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """One graph from pixels to map and score, for another runtime; unias predict takes it as it takes the model.

    Compared with the model when it is made, and not kept where maps differ. Needs the extra: pip install "unias[export]".
    """
    from unias.errors import UsageError
    from unias.runtime import set_threads

    if to is None and bundle is None:
        raise UsageError("export: give --to onnx, openvino or torch, or --bundle FILE.zip, or both.")
    if to is None and (int8 or output is not None):
        raise UsageError("export: --int8 and -o go with --to. Give --to openvino, for example.")
    if wheels is not None and bundle is None:
        raise UsageError("export: --wheels goes with --bundle FILE.zip.")
    if with_photos and (bundle is None or to is not None):
        raise UsageError(
            "export: --with-photos goes with --bundle FILE.zip of a trained model, without --to: exports keep no photos."
        )
    set_threads(threads)
    outcome: dict[str, Any] = {}
    lines: list[str] = []
    if to is not None:
        from unias.export.bundle import check_bundle
        from unias.export.run import export_model

        if bundle is not None:
            check_bundle(bundle, wheels, to)
        made = export_model(model, to, output, int8=int8, data=data, pixels=pixels, progress=options.progress(quiet))
        model = made.folder
        outcome, lines = made.as_dict(), made.lines()
    if bundle is not None:
        from unias.export.bundle import write_bundle

        packed = write_bundle(model, bundle, wheels, photos=with_photos)
        outcome |= {"bundle": packed.file, "files": packed.files, "bytes": packed.bytes, "sha256": packed.sha256}
        lines.append(f"Bundle: {bundle} ({packed.files} files, {packed.bytes / 2**20:.1f} MiB, sha256 {packed.sha256})")
        if with_photos and packed.photos is None:
            lines.append("The model keeps no training photos: none is in the bundle.")
        if packed.photos is False:
            lines.append(
                "The training photos that the model keeps for unias extend were left out (--with-photos packs them)."
            )
    options.answer(as_json, outcome, "\n".join(lines))
