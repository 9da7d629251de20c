"""What the tests of exports share: a small untrained model of two levels, and its exports, made once."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unias.calibration.cuts import rank_cut
from unias.config import BackboneConfig, Config
from unias.data.layouts import scan
from unias.data.split import hold_out_products
from unias.inference.products import ProductInfo
from unias.inference.store import StoredModel, build_detector, save_model

ENGINES = ("onnx", "openvino", "torch")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}


def need(engine: str) -> None:
    """Skip where the extra is not installed; CI has it."""
    for package in PACKAGES[engine]:
        if importlib.util.find_spec(package) is None:  # type: ignore[attr-defined]
            pytest.skip(f'{package} is not installed: pip install "unias[export]"')


@pytest.fixture(scope="session")
def small_config(tiny_config: Config) -> Config:
    """Two levels and a random backbone: exporters take half the time; every kind of module is still in it."""
    model = dataclasses.replace(tiny_config.model, levels=(4, 2), dropout=0.0)
    backbone = BackboneConfig("tf_efficientnet_lite0", "random")
    return dataclasses.replace(tiny_config, model=model, backbone=backbone)


def store(config: Config, data: Path, folder: Path) -> Path:
    """A model with weights by chance, statistics and cuts by its own photos, as a folder."""
    from unias.backbones.timm_backbone import build_backbone
    from unias.progress import Progress
    from unias.run.unias import UniASRun

    torch.manual_seed(0)
    dataset = scan(data)
    split = hold_out_products(dataset.train(), 0)
    run = UniASRun(
        dataset, split, config, build_backbone(config.backbone), torch.device("cpu"), Progress("silent"), 0.0
    )
    detector = build_detector(config, tuple(split), run.backbone).eval()
    products = run.calibrate(detector)
    save_model(folder, StoredModel(detector, config, products, {"data": data.name, "seed": 0}))
    return folder


@pytest.fixture(scope="session")
def small_model(small_config: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(small_config, tiny_data, tmp_path_factory.mktemp("small") / "Modell für alle")


@pytest.fixture(scope="session")
def export_of(small_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """export_of("onnx") -> the exported folder, made when it is first asked for. Nobody changes it."""
    from unias.export import export_model

    made: dict[str, Path] = {}
    home = tmp_path_factory.mktemp("exports")

    def get(engine: str) -> Path:
        need(engine)
        if engine not in made:
            made[engine] = export_model(small_model, engine, home / f"für {engine}", data=tiny_data).folder
        return made[engine]

    return get


@pytest.fixture
def bare_product() -> ProductInfo:
    return ProductInfo("part", rank_cut([1.0], 0.05))
