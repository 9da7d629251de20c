"""UniAD against the authors' code (shared parity/uniad): every stage, the scores, one training step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shared_reference import (
    head_tensor,
    keep_outputs,
    level_features,
    load_reference,
    noise,
    relative_error,
    token_name,
    without_dropout,
)
from torch import nn

from unias.model.jitter import FeatureJitter
from unias.model.positions import neighbour_mask, sine_positions
from unias.systems.nets.tokens import aligned, enlarged, pooled_score, to_map, to_tokens
from unias.systems.nets.uniad import UniAD

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
NAMES = {
    "position.": "pos_embed.",
    "encoder.": "transformer.encoder.layers.",
    "decoder.": "transformer.decoder.layers.",
    "norm.": "transformer.decoder.norm.",
}


def authors_name(ours: str) -> str:
    if ours.startswith("queries."):
        return f"transformer.decoder.layers.{ours.split('.')[1]}.learned_embed.weight"
    return token_name(ours, NAMES)


@pytest.fixture
def net() -> UniAD:
    reference, _ = load_reference("uniad")
    model = UniAD(272, width=64, heads=4, ffn=128)
    state = model.state_dict()
    assert {authors_name(name): list(value.shape) for name, value in state.items()} == {
        key: entry["shape"] for key, entry in reference["tensors"].items()
    }
    model.load_state_dict({name: head_tensor(authors_name(name), list(state[name].shape)) for name in state})
    return model.eval()


def recorded(net: UniAD) -> dict[str, np.ndarray]:
    """What every stage gives, in the authors' layout: tokens first, photos second."""
    modules: dict[str, nn.Module] = {f"encoder.{i}": layer for i, layer in enumerate(net.encoder)}
    for i, layer in enumerate(net.decoder):
        modules[f"decoder.{i}"] = layer
        modules[f"decoder.{i}.query_to_memory_attn"] = layer.first  # type: ignore[assignment]
        modules[f"decoder.{i}.attn_to_previous"] = layer.second  # type: ignore[assignment]
    modules |= {"input_proj": net.input_proj, "decoder.norm": net.norm, "output_proj": net.output_proj}
    kept = keep_outputs(modules)
    with torch.no_grad():
        output = net(level_features())
        small = output.map()
        found = dict(kept)
        found |= {
            "neck.feature_align": output.clean,
            "pos_embed": net.position(),
            "feature_rec": output.reconstruction,
            "map.14": small[:, None],
            "pred": enlarged(small, 224)[:, None],
            "neighbour_mask.blocked": net.mask,
        }
    return {name: value.numpy() for name, value in found.items()}


def test_every_stage(net: UniAD) -> None:
    _, arrays = load_reference("uniad")
    found = recorded(net)
    found |= {  # an oblong grid, and the position that the authors offer beside the learned one
        "neighbour_mask.blocked.5x6_size3x5": neighbour_mask((5, 6), (3, 5)).numpy(),
        "pos_embed.sine": sine_positions(64, 14).numpy(),
    }
    left = {"jitter.tokens", "after_step.map.14"}
    given = {name: array for name, array in arrays.items() if name.split("|")[0] not in left}
    assert {name.split("|")[0] for name in given} == set(found)
    for name, array in given.items():
        error = relative_error(found[name.split("|")[0]], name, array)
        print(f"{name} {error:.1e}")
        assert error <= TOLERANCE, name


def test_scores(net: UniAD) -> None:
    reference, _ = load_reference("uniad")
    with torch.no_grad():
        output = net(level_features())
    assert float(output.loss()) == pytest.approx(reference["scalars"]["eval.mse"], rel=TOLERANCE)
    scores = pooled_score(enlarged(output.map(), 224))
    assert scores.tolist() == pytest.approx(reference["scalars"]["image_score.max_of_avgpool16"], rel=TOLERANCE)


def rule_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule's noise in the place of random noise."""
    drawn = torch.from_numpy(noise("jitter.noise", (196, 2, 272)).astype(np.float32)).transpose(0, 1)
    monkeypatch.setattr("unias.model.jitter.noise_like", lambda x: to_map(drawn, 14))


def test_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    rule_noise(monkeypatch)
    _, arrays = load_reference("uniad")
    seen = to_tokens(FeatureJitter(20.0, 1.0).train()(aligned(level_features(), 14))).transpose(0, 1).numpy()
    name = next(name for name in arrays if name.startswith("jitter.tokens"))
    assert relative_error(seen, name, arrays[name]) <= TOLERANCE


def test_one_training_step(net: UniAD, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, arrays = load_reference("uniad")
    scalars = reference["scalars"]
    rule_noise(monkeypatch)
    without_dropout(net)
    loss = net(level_features()).loss()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(scalars["train.loss"], rel=TOLERANCE)
    norms = {authors_name(n): float(p.grad.norm()) for n, p in net.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(scalars["train.grad_norm_per_tensor"], rel=TOLERANCE)
    total = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    assert float(total) == pytest.approx(scalars["train.grad_norm_total"], rel=TOLERANCE)
    torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=1e-4).step()
    with torch.no_grad():
        output = net.eval()(level_features())
    assert float(output.loss()) == pytest.approx(scalars["after_step.eval.mse"], rel=TOLERANCE)
    name = next(name for name in arrays if name.startswith("after_step.map.14"))
    assert relative_error(output.map()[:, None].numpy(), name, arrays[name]) <= TOLERANCE
