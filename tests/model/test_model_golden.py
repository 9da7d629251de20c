"""A small golden of our own: the paper's architecture, tiny, weights and inputs filled by the parity rule from names.

It notices a change of numbers anywhere in the model. Where the change is meant, write the numbers anew and say why:

    python tests/model/test_model_golden.py
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unias.config import ModelConfig
from unias.maps.levels import LevelMaps, cosine_distances, product_fusion, to_input_size
from unias.model.build import build_unias
from unias.model.losses import level_losses

GOLDEN = Path(__file__).resolve().parents[1] / "assets" / "golden_small.json"
CHANNELS = {1: 3, 2: 4, 3: 6, 4: 8}
GRID, NUMBERS, TOLERANCE = 8, 20, 1e-5
CONFIG = ModelConfig(width=32, ffn=24, fpn_widths=(32, 32, 32, 32), patch_widths=(32, 48, 64), encoder_layers=2)


def noise(key: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """1-D weights 1 + 0.1 n, other 1-D 0.1 n, else n / sqrt(prod(shape[1:]))."""
    n = noise(key, shape)
    if len(shape) == 1:
        n = 1 + 0.1 * n if key.endswith("weight") else 0.1 * n
    else:
        n = n / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(n.astype(np.float32))


def some(value: Tensor) -> list[float]:
    """At most NUMBERS values, evenly spread over the flattened tensor."""
    flat = value.detach().double().reshape(-1)
    places = torch.linspace(0, len(flat) - 1, min(NUMBERS, len(flat)), dtype=torch.float64).round().long()
    return [float(f"{number:.9g}") for number in flat[places].tolist()]


def stages() -> dict[str, list[float]]:
    """Every stage's numbers as the package computes them now."""
    model = build_unias(CONFIG, CHANNELS, GRID).eval()
    model.load_state_dict(
        {key: weight(key, tuple(value.shape)) for key, value in model.state_dict().items()}, strict=True
    )
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    for index, layer in enumerate(model.pixel_decoder.encoder):
        layer.register_forward_hook(keep(f"encoder.{index}"))
    model.query.channel_weight.register_forward_hook(keep("channel_weight"))
    model.query.spatial_weight.register_forward_hook(keep("spatial_weight"))
    model.query.register_forward_hook(keep("query"))
    for key, layer in model.decoder.layers.items():
        layer.hybrid.spatial.register_forward_hook(keep(f"spatial.{key}"))
        layer.hybrid.channel.register_forward_hook(keep(f"channel.{key}"))
        layer.hybrid.register_forward_hook(keep(f"hybrid.{key}"))
        layer.register_forward_hook(keep(f"layer.{key}"))
    features = {
        k: torch.from_numpy(
            noise(f"feature.res{k}", (2, CHANNELS[k], GRID << (4 - k), GRID << (4 - k))).astype(np.float32)
        )
        for k in (4, 3, 2, 1)
    }
    with torch.no_grad():
        result = model(features)
        inputs = {k: model.filter(feature)[0] for k, feature in features.items()}
        pyramid = model.pixel_decoder(inputs)
        tokens = model.tokens(pyramid)
        losses = level_losses(result)
        maps = LevelMaps((3, 5, 7, 9), GRID * 8)(cosine_distances(result))
        for k in (4, 3, 2, 1):
            seen |= {f"input.{k}": inputs[k], f"fpn.{k}": pyramid[k], f"tokens.{k}": tokens[k]}
            seen |= {f"target.{k}": result.targets[k], f"reconstruction.{k}": result.outputs[k], f"map.{k}": maps[k]}
            seen |= {f"mse.{k}": losses.mse[k], f"cosine.{k}": losses.cosine[k]}
        seen["anomaly_map"] = to_input_size(product_fusion(maps), GRID * 16)
        seen["loss"] = losses.total()
    return {name: some(seen[name]) for name in sorted(seen)}


def write() -> None:
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"  {json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in stages().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{GOLDEN}: {len(lines)} stages")


@pytest.fixture(scope="module")
def computed() -> dict[str, list[float]]:
    return stages()


def test_stages_are_the_golden_ones(computed: dict[str, list[float]]) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(computed) == set(golden)
    wrong = {}
    for name, numbers in golden.items():
        expected, ours = np.array(numbers), np.array(computed[name])
        assert expected.shape == ours.shape, name
        least = 0.1 if name.startswith("cosine.") else 1e-3  # a mean that cancels: 1e-6 absolute
        error = np.abs(ours - expected).max() / max(np.abs(expected).max(), least)
        if not error < TOLERANCE:
            wrong[name] = float(error)
    assert wrong == {}


def test_golden_says_something() -> None:
    """Enough stages, none of them constant."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(golden) >= 50
    for name, numbers in golden.items():
        assert all(math.isfinite(number) for number in numbers), name
        assert len(numbers) == 1 or np.ptp(numbers) > 1e-6, name


if __name__ == "__main__":
    write()
