"""The released architecture against the authors' numbers, stage by stage (shared parity/unias, README's tolerances)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from shared_reference import head_tensor, load_reference, noise, relative_error

from unias.errors import DataError
from unias.maps.levels import LevelMaps, cosine_distances, product_fusion, to_input_size
from unias.model.build import build_unias
from unias.model.convert import convert_head, our_name
from unias.model.losses import level_losses
from unias.model.positions import neighbour_mask, sine_positions
from unias.model.unias import UniAS
from unias.presets import ARCHITECTURES

pytestmark = pytest.mark.parity

CHANNELS = {1: 24, 2: 32, 3: 56, 4: 160}
SIZES = {1: 112, 2: 56, 3: 28, 4: 14}


def released_model() -> UniAS:
    config = dataclasses.replace(
        ARCHITECTURES["released"], width=64, ffn=128, fpn_widths=(64, 64, 64, 64), patch_widths=(64, 96, 128)
    )
    return build_unias(config, CHANNELS, 14).eval()


@pytest.fixture(scope="module")
def stages() -> dict[str, np.ndarray]:
    """Every listed stage as this package computes it, under the reference's names."""
    reference, _ = load_reference("unias")
    model = released_model()
    convert_head({key: head_tensor(key, entry["shape"]) for key, entry in reference["tensors"].items()}, model)
    features = {
        k: torch.from_numpy(noise(f"feature.res{k}", (2, CHANNELS[k], SIZES[k], SIZES[k])).astype(np.float32))
        for k in (4, 3, 2, 1)
    }
    seen: dict[str, np.ndarray] = {}

    def keep(name: str, tokens_first: bool = False):
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            value = output.permute(1, 0, 2) if tokens_first else output
            seen[name] = value.detach().numpy().copy()

        return hook

    model.query_source.register_forward_hook(keep("feature_projector"))
    for i in range(4):
        key = str(4 - i)
        model.tokens.project[key].register_forward_hook(keep(f"input_proj.{i}"))
        model.decoder.layers[key].hybrid.register_forward_hook(keep(f"transformer_block.{i}", tokens_first=True))
        model.decoder.layers[key].cnn.register_forward_hook(keep(f"layer_adaptors.{i}"))

    def keep_query(_module: object, _inputs: object, output: torch.Tensor) -> None:
        seen["query_processor"] = output.flatten(2).permute(2, 0, 1).detach().numpy()

    model.query.register_forward_hook(keep_query)
    with torch.no_grad():
        result = model(features)
        inputs = {k: model.filter(f)[0] for k, f in features.items()}
        seen["pixel_decoder.transformer"] = model.pixel_decoder.encode(inputs[4]).numpy()
        for k, y in model.pixel_decoder(inputs).items():
            seen[f"fpn.{4 - k}"] = y.numpy()
        losses = level_losses(result)
        levels = LevelMaps((3, 5, 7, 9), 112)(cosine_distances(result))
        seen["pred"] = to_input_size(product_fusion(levels), 224)[:, None].numpy()
    for k in (4, 3, 2, 1):
        seen[f"gaussian.res{k}"] = result.targets[k].numpy()
        seen[f"recon.{4 - k}"] = result.outputs[k].numpy()
        seen[f"smoothed_map.{4 - k}"] = levels[k].numpy()
        seen[f"mse.{4 - k}"] = losses.mse[k].numpy()
        seen[f"mean_cosine.{4 - k}"] = losses.cosine[k].numpy()
    seen["sine_position"] = sine_positions(64, 14).T.reshape(1, 64, 14, 14).numpy()
    seen["neighbour_mask"] = neighbour_mask(14).numpy()
    return seen


def test_every_stage_agrees(stages: dict[str, np.ndarray], record_property: pytest.FixtureRequest) -> None:
    _, arrays = load_reference("unias")
    errors: dict[str, float] = {}
    for name, expected in arrays.items():
        stage = name.split("|")[0]
        if stage.startswith("metrics."):
            continue
        if stage == "neighbour_mask":
            assert np.array_equal(stages[stage], expected)
            continue
        if stage.startswith("mean_cosine"):
            assert abs(float(stages[stage]) - float(expected)) < 1e-6, stage
            continue
        errors[stage] = relative_error(stages[stage], name, expected)
    assert len(errors) > 30
    for stage, error in errors.items():
        print(f"{stage:28s} {error:.1e}")
    for stage, error in errors.items():
        tight = stage == "pixel_decoder.transformer" or stage.startswith("fpn.")
        assert error < (4e-6 if tight else 1e-5), (stage, error)


def test_conversion_is_strict() -> None:
    reference, _ = load_reference("unias")
    tensors = {key: head_tensor(key, entry["shape"]) for key, entry in reference["tensors"].items()}
    assert all(our_name(key) for key in tensors)
    assert len({our_name(key) for key in tensors}) == len(tensors)
    some = dict(tensors)
    some.pop("predictor.decoder_norm.weight")
    with pytest.raises(DataError, match=r"heads\.norm\.weight is missing"):
        convert_head(some, released_model())
    some = dict(tensors) | {"predictor.extra.weight": torch.zeros(1)}
    with pytest.raises(DataError, match=r"predictor\.extra\.weight has no place"):
        convert_head(some, released_model())
