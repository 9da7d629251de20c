"""``unias convert``: a checkpoint of the authors' code becomes a model folder with the same maps."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import torch

from unias.api import check_output
from unias.backbones.timm_backbone import FrozenBackbone, build_backbone, create_network, freeze
from unias.calibration.cuts import unpromised
from unias.config import BackboneConfig, Config
from unias.data.layouts import require_training, scan
from unias.data.split import hold_out_products
from unias.errors import DataError
from unias.inference.predictor import Model
from unias.inference.products import ProductInfo
from unias.inference.store import StoredModel, build_detector, save_model
from unias.model.convert import convert_backbone, convert_head, read_released, split_released
from unias.presets import PRESETS
from unias.progress import Progress
from unias.run.unias import UniASRun
from unias.runtime import pick_device, stamp

HIGHEST = 16.0  # the product of four distances of at most 2: a cut that nothing passes, for a model without products


def convert_checkpoint(
    checkpoint: Path | str,
    output: Path | str,
    data: Path | str | None = None,
    weights: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Model:
    """Read, check strictly, and write the model folder.

    Args:
        data: good photos: their products get class means and cuts. The authors may have trained on these very photos, so
            the cuts are marked provisional. Without it there is one product, "any", that nothing fails.
        weights: of the backbone, where the checkpoint holds the head alone.

    Raises:
        DataError: not a checkpoint of the released UniAS; names what does not fit.
        MissingError: no weights of the backbone.
    """
    started = time.monotonic()
    progress = progress or Progress("silent")
    home = Path(os.path.abspath(output))
    head, net = split_released(read_released(checkpoint))
    config = _settings(head, str(checkpoint))
    check_output(home, resume=False)
    place = pick_device(device)
    backbone = _backbone(net, config, weights, str(checkpoint)).to(place)
    record = {"data": f"converted from {Path(checkpoint).name}", "seed": config.train.seed, **stamp(place)}
    if data is None:
        detector = build_detector(config, ("any",), backbone).to(place)
        convert_head(head, detector.unias, str(checkpoint))
        products: tuple[ProductInfo, ...] = (ProductInfo("any", unpromised(HIGHEST)),)
    else:
        dataset = scan(data)
        require_training(dataset)
        train = config.train
        split = hold_out_products(dataset.train(), train.seed, train.hold_out, train.hold_out_least)
        detector = build_detector(config, dataset.products, backbone).to(place)
        convert_head(head, detector.unias, str(checkpoint))
        run = UniASRun(dataset, split, config, backbone, place, progress, started)
        products = tuple(dataclasses.replace(p, cut=unpromised(p.cut.value)) for p in run.calibrate(detector.eval()))
    stored = StoredModel(detector.eval(), config, products, record)
    save_model(home, stored)
    return Model(stored)


def _settings(head: dict[str, torch.Tensor], where: str) -> Config:
    """The released settings at the widths that the checkpoint's own shapes tell."""
    try:
        width = head["predictor.decoder_norm.weight"].shape[0]
        ffn = head["predictor.transformer_block.0.SpatialFFNLayer.linear1.weight"].shape[0]
        tokens = head["predictor.spatial_query_embed.weight"].shape[0]
        patches = tuple(head[f"predictor.patch_embed.{i}.proj.weight"].shape[0] for i in (1, 2, 3))
    except KeyError as error:
        raise DataError(f"{where}: not a checkpoint of the released UniAS ({error} is not in it).") from error
    base = PRESETS["released"]
    model = dataclasses.replace(base.model, width=width, ffn=ffn, fpn_widths=(width,) * 4, patch_widths=patches)
    net = BackboneConfig(base.backbone.name, "auto", authors_padding=True)
    return dataclasses.replace(base, size=16 * round(tokens**0.5), model=model, backbone=net)


def _backbone(net: dict[str, torch.Tensor], config: Config, weights: str | None, where: str) -> FrozenBackbone:
    if not net:
        return build_backbone(dataclasses.replace(config.backbone, weights=weights or "auto"))
    network, channels = create_network(config.backbone.name)
    network.load_state_dict(convert_backbone(net, network.state_dict(), where))
    return freeze(network, channels, config.backbone)
