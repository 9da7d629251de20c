"""The whole model: counts, shapes, every ablation switch, determinism, gradients, losses (spec sections 4 to 9)."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unias.config import ModelConfig
from unias.errors import UsageError
from unias.model.blocks import AttentionStep
from unias.model.build import build_unias
from unias.model.losses import LevelLosses, cosine_similarity, level_losses
from unias.model.unias import Reconstruction
from unias.presets import ARCHITECTURES

B4 = {1: 24, 2: 32, 3: 56, 4: 160}
SMALL_SHRUNK = dataclasses.replace(
    ARCHITECTURES["small"], width=32, ffn=16, encoder_layers=1, fpn_widths=(32, 32, 16, 8)
)
TABLE_4 = [(4,), (3,), (2,), (1,), (4, 3), (4, 1), (4, 3, 2), (4, 3, 2, 1)]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def one_step(model: nn.Module, features: dict[int, torch.Tensor]) -> tuple[float, float]:
    """(loss before, loss after) one AdamW step on the same batch and noise."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        loss = level_losses(model(features)).total()
        values.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return values[0], values[1]


# --- size and shape -----------------------------------------------------------------------------------------


def test_released_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):  # counts without 54 million random numbers
        model = build_unias(ARCHITECTURES["released"], B4, 14)
    assert parameters(model) == 53_847_523


def test_meta_counts_are_real_counts() -> None:
    config = dataclasses.replace(
        ARCHITECTURES["released"], width=32, ffn=16, fpn_widths=(32,) * 4, patch_widths=(32, 48, 64)
    )
    with torch.device("meta"):
        counted = parameters(build_unias(config, B4, 14))
    assert counted == parameters(build_unias(config, B4, 14))


@pytest.mark.parametrize("size", [128, 224, 256, 384])
def test_small_at_every_size(tiny_model, size: int) -> None:
    """Masks, positions, grid and heads follow the input size."""
    grid = size // 16
    model, features = tiny_model(grid=grid, batch=1, base=SMALL_SHRUNK)
    with torch.no_grad():
        result = model.eval()(features)
    assert list(result.outputs) == [4, 3, 2, 1]
    for level, output in result.outputs.items():
        side = size // {1: 2, 2: 4, 3: 8, 4: 16}[level]
        assert output.shape == result.targets[level].shape == features[level].shape
        assert output.shape[-2:] == (side, side)
        assert bool(output.isfinite().all())
    assert model.decoder.mask.shape == (grid * grid, grid * grid)
    assert model.decoder.position.shape == (grid * grid, 32)


@pytest.mark.parametrize("architecture", ["paper", "released"])
@pytest.mark.parametrize("grid", [8, 14])
def test_source_architectures_at_two_sizes(tiny_model, architecture: str, grid: int) -> None:
    source = ARCHITECTURES[architecture]
    model, features = tiny_model(grid=grid, batch=1, sar=source.sar, head_padding=source.head_padding)
    with torch.no_grad():
        result = model.eval()(features)
    assert {k: v.shape for k, v in result.outputs.items()} == {k: v.shape for k, v in features.items()}


def test_window_that_covers_the_grid_is_refused(tiny_model) -> None:
    with pytest.raises(UsageError, match="neighbour window"):
        tiny_model(grid=8, neighbour_window=9)


# --- ablations (Tables 3 and 4) -----------------------------------------------------------------------------

SWITCHES = [
    *({"filter": kind} for kind in ("none", "average", "gaussian", "gaussian_concat")),
    *({"sar": kind} for kind in ("paper", "released", "none")),
    *({"cnn": kind} for kind in ("mgg", "mg", "conv3", "none")),
    *({"levels": levels} for levels in TABLE_4),
    *({"sar": "none", "levels": levels} for levels in ((3,), (1,))),
    {"channel_branch": False},
    {"norm": "pre"},
    {"norm": "pre", "channel_branch": False, "cnn_residual": True},
    {"head": "subpixel"},
    {"head_padding": "each"},
    {"jitter_norm": "rms", "jitter_scale": 1.0},
    {"patch_widths": ()},
    {"standardize": True},
    {"encoder_layers": 0},
    {"neighbour_window": 3},
]


@pytest.mark.parametrize(
    "settings", SWITCHES, ids=lambda s: "-".join(f"{k}_{v}".replace(" ", "") for k, v in s.items())
)
def test_every_switch_builds_and_learns(tiny_model, settings: dict[str, object]) -> None:
    model, features = tiny_model(dropout=0.0, **settings)
    before, after = one_step(model, features)
    assert math.isfinite(before)
    assert after < before
    levels = settings.get("levels", (4, 3, 2, 1))
    with torch.no_grad():
        assert tuple(model.eval()(features).outputs) == levels


def test_switches_change_the_result(tiny_model) -> None:
    """Each switch reaches the model: another output, or another set of weights."""

    def fingerprint(**settings: object) -> tuple[int, float]:
        model, features = tiny_model(**settings)
        with torch.no_grad():
            return parameters(model), float(model.eval()(features).outputs[4].sum())

    plain = fingerprint()
    assert fingerprint() == plain
    different = [s for s in SWITCHES if s and "levels" not in s and "jitter_norm" not in s and "standardize" not in s]
    defaults = [{"filter": "gaussian_concat"}, {"sar": "paper"}, {"cnn": "mgg"}]
    seen = {tuple(s.items()): fingerprint(**s) for s in different if s not in defaults}
    assert plain not in seen.values()
    assert len(set(seen.values())) == len(seen)


def test_levels_left_out_cost_nothing(tiny_model) -> None:
    """No pyramid below the finest level asked for, no decoder layer and no head of another level."""
    model, _ = tiny_model(levels=(4, 3))
    names = [name for name, _ in model.named_parameters()]
    assert not [
        n for n in names if n.startswith(("pixel_decoder.lateral.2", "pixel_decoder.lateral.1", "heads.heads.1"))
    ]
    assert list(model.decoder.layers) == ["4", "3"]
    assert list(model.heads.heads) == ["4", "3"]


def test_order_of_levels_is_coarse_to_fine_however_it_is_asked() -> None:
    assert ModelConfig(levels=(1, 4, 3, 4)).levels == (4, 3, 1)


# --- behaviour ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [None, SMALL_SHRUNK], ids=["paper", "small"])
def test_batch_equals_single(tiny_model, base: ModelConfig | None) -> None:
    model, features = tiny_model(batch=3, **({"base": base} if base else {}))
    model.eval()
    with torch.no_grad():
        together = model(features)
        for n in range(3):
            alone = model({k: f[n : n + 1] for k, f in features.items()})
            for k, output in alone.outputs.items():
                assert torch.allclose(output[0], together.outputs[k][n], atol=2e-5), k


def test_same_seed_same_weights_same_training(tiny_model) -> None:
    def run(seed: int) -> tuple[list[torch.Tensor], float]:
        model, features = tiny_model(seed=seed)
        losses = one_step(model, features)
        return [value.clone() for value in model.state_dict().values()], losses[1]

    first, second, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert first[1] == second[1]
    assert first[1] != other[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sar": "released", "head_padding": "each"},
        {"sar": "none"},
        {"cnn": "none"},
        {"norm": "pre", "head": "subpixel"},
    ],
    ids=["paper", "released", "plain_query", "no_cnn", "pre_norm"],
)
def test_no_parameter_without_a_gradient(tiny_model, settings: dict[str, object]) -> None:
    model, features = tiny_model(**settings)
    level_losses(model.train()(features)).total().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


def test_shrunk_small_has_no_parameter_without_a_gradient(tiny_model) -> None:
    model, features = tiny_model(base=SMALL_SHRUNK)
    level_losses(model.train()(features)).total().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_state_dict_round_trip_is_strict(tiny_model) -> None:
    model, features = tiny_model(seed=1, standardize=True)
    other, _ = tiny_model(seed=2, standardize=True)
    model.standardize["4"].mean.fill_(0.5)
    other.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        ours, theirs = model.eval()(features).outputs, other.eval()(features).outputs
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    short = dict(model.state_dict())
    short.pop("heads.norm.weight")
    with pytest.raises(RuntimeError, match=r"heads\.norm\.weight"):
        other.load_state_dict(short, strict=True)


def test_constants_are_not_weights(tiny_model) -> None:
    """Positions and mask are remade for the size, not stored; they follow the module all the same."""
    model, _ = tiny_model()
    assert not [key for key in model.state_dict() if key.endswith((".position", ".mask", ".line"))]
    buffers = {name for name, _ in model.named_buffers()}
    assert {"decoder.position", "decoder.mask", "pixel_decoder.position", "filter.blur.line"} <= buffers


def test_forward_keeps_nothing(tiny_model) -> None:
    """No state on self, inputs not changed in place (faults of the released code, spec section 12)."""
    model, features = tiny_model(batch=1)
    copies = {k: f.clone() for k, f in features.items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    model.train()(features)
    assert all(torch.equal(features[k], copies[k]) for k in features)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes


def test_standardize_is_applied_before_the_filter(tiny_model) -> None:
    model, features = tiny_model(standardize=True)
    for k in (4, 3, 2, 1):
        model.standardize[str(k)].mean.fill_(2.0)
        model.standardize[str(k)].deviation.fill_(4.0)
    targets = model.eval()(features).targets
    for k, feature in features.items():
        assert torch.allclose(targets[k], model.filter((feature - 2) / 4)[1], atol=1e-6)


def test_paper_query_is_fed_by_the_patch_embedding_before_the_level_embedding(tiny_model) -> None:
    model, features = tiny_model(sar="paper")
    seen: list[torch.Tensor] = []
    model.query.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    model.eval()(features)
    with torch.no_grad():
        model.tokens.level_embedding.add_(1.0)
    model(features)
    assert torch.equal(seen[0], seen[1])
    pyramid = model.pixel_decoder({k: model.filter(f)[0] for k, f in features.items()})
    assert torch.allclose(seen[0], model.tokens.project["4"](pyramid[4]), atol=1e-6)


def test_each_layers_output_is_the_next_layers_query(tiny_model) -> None:
    model, features = tiny_model()
    queries: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        queries.append(inputs[0])
        outputs.append(output)

    for layer in model.decoder.layers.values():
        layer.register_forward_hook(keep)
    model.eval()(features)
    assert len(queries) == 4
    assert all(torch.equal(query, output) for query, output in zip(queries[1:], outputs[:-1], strict=True))


# --- initial weights ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_initial_weights_are_the_released_ones() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(
        ARCHITECTURES["paper"], width=64, ffn=64, fpn_widths=(64,) * 4, patch_widths=(64, 96, 128)
    )
    model = build_unias(config, B4, 8)
    for normal in (model.query.query, model.decoder.query_position):
        assert float(normal.std()) == pytest.approx(1.0, abs=0.05)
    assert float(model.tokens.level_embedding.std()) == pytest.approx(1.0, abs=0.15)
    for module in model.modules():
        if isinstance(module, AttentionStep):
            bound = math.sqrt(6 / (4 * module.attention.embed_dim))  # fan in d, fan out 3 d
            largest = float(module.attention.in_proj_weight.abs().max())
            assert 0.97 * bound < largest <= bound * (1 + 1e-6)
            assert not bool(module.attention.in_proj_bias.any())
    lateral = model.pixel_decoder.lateral["3"].conv.weight
    bound = math.sqrt(3 / lateral[0].numel())  # Kaiming uniform, a = 1
    assert 0.97 * bound < float(lateral.abs().max()) <= bound * (1 + 1e-6)
    assert not bool(model.pixel_decoder.input_projection.bias.any())
    assert not bool(model.tokens.project["2"].bias.any())
    patch = model.tokens.patch["1"].weight  # Xavier: fan in 64 * 64, fan out 128 * 64
    assert float(patch.abs().max()) == pytest.approx(math.sqrt(6 / (64 * 64 + 128 * 64)), rel=0.01)


# --- losses -------------------------------------------------------------------------------------------------


def pair(seed: int = 0) -> Reconstruction:
    generator = torch.Generator().manual_seed(seed)
    shapes = {4: (2, 5, 3, 3), 1: (2, 3, 8, 8)}
    return Reconstruction(
        {k: torch.randn(s, generator=generator) for k, s in shapes.items()},
        {k: torch.randn(s, generator=generator) for k, s in shapes.items()},
    )


def test_cosine_equals_torchs() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, 5, 5), torch.randn(2, 7, 5, 5)
    a[0, :, 0, 0] = 0
    b[1, :, 1, 1] = 1e-12
    assert torch.allclose(cosine_similarity(a, b), F.cosine_similarity(a, b, dim=1, eps=1e-8), atol=1e-6)
    assert torch.allclose(cosine_similarity(a, a)[1], torch.ones(5, 5), atol=1e-6)
    assert float(cosine_similarity(a, a)[0, 0, 0]) == 0.0


def test_losses_by_hand() -> None:
    target = torch.tensor([3.0, 4.0, 0.0, 1.0]).view(1, 2, 1, 2)  # channels (3, 4) and (0, 1) at two places
    output = torch.tensor([4.0, 3.0, 0.0, 0.0]).view(1, 2, 1, 2)
    # place 0: (3, 0) and (4, 0), cosine 1; place 1: (4, 1) and (3, 0), cosine 4 / sqrt(17)
    losses = level_losses(Reconstruction({4: target}, {4: output}))
    cosine = (1 + 4 / math.sqrt(17)) / 2
    assert float(losses.mse[4]) == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert float(losses.cosine[4]) == pytest.approx(cosine, abs=1e-6)
    assert float(losses.total(1.0)) == pytest.approx(0.75 + 1 - cosine, abs=1e-6)
    assert float(losses.total(1.0, "released")) == pytest.approx(0.75 + cosine, abs=1e-6)


def test_total_is_weighted_and_summed_over_levels() -> None:
    losses = level_losses(pair())
    expected = sum(float(losses.mse[k]) + 1 - float(losses.cosine[k]) for k in (4, 1))
    assert float(losses.total()) == pytest.approx(10 * expected, rel=1e-6)
    assert float(losses.total(1.0)) == pytest.approx(expected, rel=1e-6)
    assert float(losses.total(2.5)) == pytest.approx(2.5 * expected, rel=1e-6)


def test_half_precision_is_summed_in_float32() -> None:
    both = pair()
    halved = Reconstruction(both.targets, {k: v.bfloat16() for k, v in both.outputs.items()})
    losses = level_losses(halved)
    assert losses.mse[4].dtype == losses.cosine[4].dtype == torch.float32


@pytest.mark.parametrize(("sign", "closer"), [("paper", True), ("released", False)])
def test_the_papers_sign_pulls_towards_the_target_and_the_released_one_pushes_away(sign: str, closer: bool) -> None:
    """A step down the cosine term alone lowers 1 - cosine with the paper's sign and raises it with the other."""
    target = pair().targets[4]
    output = pair().outputs[4].clone().requires_grad_(True)
    cosine = cosine_similarity(target, output).mean()
    LevelLosses({4: torch.zeros(())}, {4: cosine}).total(10.0, sign).backward()
    assert output.grad is not None
    moved = (output - 0.05 * output.grad).detach()
    apart_before, apart_after = 1 - float(cosine.detach()), 1 - float(cosine_similarity(target, moved).mean())
    assert (apart_after < apart_before) is closer
    assert abs(apart_after - apart_before) > 1e-3


def test_training_with_the_papers_sign_brings_the_cosine_up(tiny_model) -> None:
    def trained(sign: str) -> float:
        model, features = tiny_model(dropout=0.0, jitter_probability=0.0, filter="gaussian", levels=(4,))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(15):
            losses = level_losses(model.train()(features))
            optimizer.zero_grad()
            losses.total(10.0, sign).backward()
            optimizer.step()
        return float(losses.cosine[4].detach())

    assert trained("paper") > 0.3 > trained("released")
