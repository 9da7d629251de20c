"""Refit a trained model's statistics and cuts with today's map settings: python docs/refit.py MODEL DATA OUTPUT

The weights stay; level statistics and class means are fitted on the training photos of the stored split, cuts on its held-out
photos. The same as training again with ``--steps`` of the record, without the training.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from unias.backbones.timm_backbone import build_backbone
from unias.data.layouts import scan
from unias.inference.store import StoredModel, build_detector, save_model
from unias.presets import preset
from unias.progress import Progress
from unias.run import TrainingRun
from unias.runtime import commit


def main(model: str, data: str, output: str) -> None:
    content = json.loads((Path(model) / "products.json").read_text(encoding="utf-8"))
    config = preset("small")
    dataset = scan(data)
    samples = {sample.key: sample for sample in dataset.train()}
    split = {
        p["name"]: ([samples[k] for k in p["train"]], [samples[k] for k in p["held_out"]]) for p in content["products"]
    }
    backbone = build_backbone(config.backbone)
    detector = build_detector(config, tuple(split), backbone)
    missing, unexpected = detector.load_state_dict(load_file(Path(model) / "model.safetensors"), strict=False)
    assert not unexpected
    assert all(name.startswith("statistics.") for name in missing)
    run = TrainingRun(dataset, split, config, backbone, torch.device("cpu"), Progress(), time.monotonic())
    products = run.calibrate(detector.eval())
    record = content["record"] | {"statistics_commit": commit()}
    train = dataclasses.replace(config.train, steps=record["steps"], precision="bf16-mixed")
    save_model(Path(output), StoredModel(detector, dataclasses.replace(config, train=train), products, record))


if __name__ == "__main__":
    main(*sys.argv[1:4])
