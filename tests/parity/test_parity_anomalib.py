"""RD4AD and DRAEM as we take them from anomalib against the authors' code (shared parity/rd4ad_draem_patchcore)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared_reference import load_reference, noise, relative_error, tensor_by_rule
from torch import Tensor, nn

from unias.systems.draem import focal_loss, pooled_maximum, ssim_loss
from unias.systems.from_anomalib import draem_nets, published_rd4ad
from unias.systems.nets.rd4ad import LEVELS, anomaly_map, whole_map_loss
from unias.systems.nets.smoothing import blurred

pytest.importorskip("anomalib", reason='needs the extra: pip install "unias[bench]"')
pytestmark = [pytest.mark.parity, pytest.mark.slow]
SYSTEM = "rd4ad_draem_patchcore"
TOLERANCE = 1e-5


def fill(module: nn.Module, tensors: dict[str, object]) -> nn.Module:
    """Weights by the rule; the names are the authors' already."""
    state = module.state_dict()
    assert set(state) == set(tensors)
    module.load_state_dict({name: tensor_by_rule(name, list(value.shape)) for name, value in state.items()})
    return module.eval()


def close(found: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> None:
    for name, value in found.items():
        given = next(key for key in arrays if key.split("|")[0] == name)
        error = relative_error(value.numpy(), given, arrays[given])
        print(f"{given} {error:.1e}")
        assert error <= TOLERANCE, name


@torch.no_grad()
def test_rd4ad() -> None:
    """The bottleneck at the authors' width, every stage, loss and score."""
    reference, arrays = load_reference(SYSTEM)
    scalars, tensors = reference["scalars"], reference["tensors"]
    bottleneck, decoder = published_rd4ad("wide_resnet50_2")
    fill(bottleneck, tensors["rd4ad.bottleneck"])
    fill(decoder, tensors["rd4ad.decoder"])
    shapes = reference["inputs"]
    features = {
        level: torch.from_numpy(noise(f"rd4ad.encoder.{i}", shapes[f"rd4ad.encoder.{i}"]).astype(np.float32))
        for i, level in enumerate(LEVELS)
    }
    code = bottleneck([features[level] for level in LEVELS])
    outputs = dict(zip(LEVELS, decoder(code), strict=True))
    maps = anomaly_map(features, outputs, 128)
    smooth = blurred(maps)
    found = {"rd4ad.code": code, "rd4ad.map.before_blur": maps[0], "rd4ad.map": smooth[0]}
    close(found | {f"rd4ad.decoder.{i}": outputs[level] for i, level in enumerate(LEVELS)}, arrays)
    assert float(whole_map_loss(features, outputs)) == pytest.approx(scalars["rd4ad.loss"], rel=TOLERANCE)
    assert float(smooth[0].max()) == pytest.approx(scalars["rd4ad.image_score"], rel=TOLERANCE)


def picture(name: str) -> Tensor:
    return torch.from_numpy(noise(name, (2, 3, 64, 64)).astype(np.float32)).sigmoid()


@torch.no_grad()
def test_draem() -> None:
    """anomalib's nets with the reconstruction first, our losses and score."""
    reference, arrays = load_reference(SYSTEM)
    scalars, tensors = reference["scalars"], reference["tensors"]
    first, second = draem_nets(128, 64)
    fill(first, tensors["draem.reconstructive"])
    fill(second, tensors["draem.discriminative"])
    image, clean = picture("draem.image"), picture("draem.clean")
    reconstruction = first(image)
    logits = second(torch.cat([reconstruction, image], dim=1))
    likely = logits.softmax(dim=1)
    close({"draem.reconstruction": reconstruction, "draem.logits": logits, "draem.map": likely[:, 1]}, arrays)
    assert pooled_maximum(likely[:, 1]).tolist() == pytest.approx(scalars["draem.image_score"], rel=TOLERANCE)
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 10:30, 22:51] = 1
    assert float(F.mse_loss(reconstruction, clean)) == pytest.approx(scalars["draem.loss.l2"], rel=TOLERANCE)
    assert float(ssim_loss(reconstruction, clean)) == pytest.approx(scalars["draem.loss.ssim"], rel=TOLERANCE)
    assert float(focal_loss(likely, mask)) == pytest.approx(scalars["draem.loss.focal"], rel=TOLERANCE)
    near = clean + 0.1 * torch.from_numpy(noise("draem.ssim_other", (2, 3, 64, 64)).astype(np.float32))
    assert float(ssim_loss(near, clean)) == pytest.approx(scalars["draem.loss.ssim_of_near_copy"], rel=TOLERANCE)
