"""Composed forms against the plain ones that define them: heads, patch embedding, whole models (issue 4, spec 5 and 8).

"Relative" = largest absolute difference over largest absolute value: 1e-10 in float64, 1e-5 in float32.
"""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unias.model import fused
from unias.model.dropout import Dropout
from unias.model.fused import (
    Composable,
    apply_head,
    compose_head,
    composed_head_is_cheaper,
    composed_patch_is_cheaper,
    spread_matrix,
    use_form,
)
from unias.model.heads import ConvHead, SubpixelHead
from unias.model.tokens import TokenEmbedding

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
PADDINGS = ("once", "each")
RELEASED = {"sar": "released", "head_padding": "each"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def relative(ours: Tensor, expected: Tensor) -> float:
    assert ours.shape == expected.shape
    ours, expected = ours.detach().double(), expected.detach().double()
    return float((ours - expected).abs().max() / expected.abs().max())


def filled(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Every parameter random (biases too), of a scale that keeps values near 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5)
    return module.to(dtype).eval()


def head(level: int, padding: str, dtype: torch.dtype = torch.float64, width: int = 6, channels: int = 3) -> ConvHead:
    module = filled(ConvHead(width, channels, level, padding), dtype)
    assert isinstance(module, ConvHead)
    return module


def patches(width: int = 6, dtype: torch.dtype = torch.float64) -> tuple[TokenEmbedding, dict[int, Tensor]]:
    """Token embedding of a width and pyramid maps for 8 x 8 tokens."""
    module = filled(TokenEmbedding((4, 3, 2, 1), {4: 7, 3: 6, 2: 5, 1: 4}, width, {3: 6, 2: 8, 1: 9}), dtype)
    assert isinstance(module, TokenEmbedding)
    return module, {k: torch.randn(2, 3 + k, 8 << (4 - k), 8 << (4 - k), dtype=dtype) for k in (4, 3, 2, 1)}


# --- heads ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    level=st.sampled_from((4, 3, 2, 1)),
    padding=st.sampled_from(PADDINGS),
    grid=st.integers(4, 11),
    batch=st.integers(1, 3),
    width=st.integers(1, 7),
    channels=st.integers(1, 5),
    dtype=st.sampled_from((torch.float64, torch.float32)),
)
def test_head_composed_and_fused_equal_plain(
    seed: int, level: int, padding: str, grid: int, batch: int, width: int, channels: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    module = head(level, padding, dtype, width, channels)
    x = torch.randn(batch, width, grid, grid, dtype=dtype)
    with torch.no_grad():
        expected = module.plain(x)
        assert relative(module.composed(x) if level < 4 else module(x), expected) < TOLERANCE[dtype]
        module.fuse(grid)
        assert (module.fused is None) is (level == 4)
        assert relative(module(x), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("level", [3, 2, 1])
@pytest.mark.parametrize(("grid", "batch"), [(8, 8), (14, 1), (16, 1), (18, 1), (24, 1)])
def test_head_at_the_grids_of_photos(padding: str, level: int, grid: int, batch: int) -> None:
    for dtype in (torch.float64, torch.float32):
        module = head(level, padding, dtype)
        x = torch.randn(batch, 6, grid, grid, dtype=dtype)
        expected = module(x).detach()
        module.fuse(grid)
        with torch.no_grad():
            assert relative(module(x), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("padding", PADDINGS)
def test_head_at_full_width_in_float32(padding: str) -> None:
    """Sums of 2304 products three times over: the precision asked for is that of the paper's width."""
    module = head(3, padding, torch.float32, width=256, channels=8)
    x = torch.randn(1, 256, 8, 8)
    with torch.no_grad():
        assert relative(module.composed(x), module.plain(x)) < 1e-5


def test_tokens_as_the_model_hands_them_over() -> None:
    """A channels-last view, as LayerNorm's output transposed is."""
    module = head(2, "each")
    x = torch.randn(2, 64, 6, dtype=torch.float64).transpose(1, 2).reshape(2, 6, 8, 8)
    assert not x.is_contiguous()
    assert relative(module.composed(x), module.plain(x)) < 1e-10
    assert relative(module.composed(x.contiguous()), module.plain(x)) < 1e-10


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("level", [3, 1])
def test_head_gradients_equal_those_of_plain(padding: str, level: int) -> None:
    module = head(level, padding)
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 8 * module.scale, 8 * module.scale, dtype=torch.float64)
    wanted = [x, *module.parameters()]
    plain = torch.autograd.grad((module.plain(x) * weight).sum(), wanted)
    composed = torch.autograd.grad((module.composed(x) * weight).sum(), wanted)
    assert len(plain) == 7
    for ours, expected in zip(composed, plain, strict=True):
        assert relative(ours, expected) < 1e-10


@pytest.mark.parametrize("padding", PADDINGS)
def test_head_under_autocast(padding: str) -> None:
    """Kernels are composed in float32, the rest runs in bfloat16 and stays as close as the plain form does."""
    module = head(2, padding, torch.float32, width=64, channels=8)
    x = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        exact = module.plain(x)
        with torch.autocast("cpu", torch.bfloat16):
            kernel, bias = compose_head(module.convolutions, padding)
            composed, plain = module.composed(x), module.plain(x)
            module.fuse(8)
            once = module(x)
    assert kernel.dtype == bias.dtype == torch.float32
    assert composed.dtype == plain.dtype == once.dtype == torch.bfloat16
    assert relative(plain, exact) < 2e-2
    assert relative(composed, exact) < 2e-2
    assert relative(once, exact) < 2e-2
    assert torch.equal(kernel, compose_head(module.convolutions, padding)[0])


# --- the 25 position classes of padding "each" ------------------------------------------------------------------------


def class_kernels(kernel: Tensor) -> Tensor:
    """(13, 13, C, D) -> (5, 5, C, D, 7, 7): what a place of row class r and column class c multiplies its surroundings by."""
    taps = torch.zeros(5, 7, 13, dtype=kernel.dtype)
    for position in range(5):
        taps[position, :, :7] = torch.eye(7)
    for position, offset, lost in ((0, 3, 7), (0, 4, 8), (1, 2, 9), (4, 3, 10), (4, 2, 11), (3, 4, 12)):
        taps[position, offset, lost] = -1
    return torch.einsum("stoi,rut,cvs->rcoiuv", kernel, taps, taps)


def test_every_position_class_has_its_kernel_and_bias() -> None:
    """Read off the plain convolutions on a 9 x 9 map (rows 0, 1, 4, 7, 8 are the five classes) by differentiating them."""
    module = head(2, "each")
    kernel, bias = compose_head(module.convolutions, "each")
    kernels = class_kernels(kernel)
    black = torch.zeros(1, 6, 9, 9, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(module.layers, black)[0, :, :, :, 0]  # (C, 9, 9, D, 9, 9)
    level = module.layers(black)[0]
    assert isinstance(slopes, Tensor)
    classes = (0, 1, 4, 7, 8)
    for r, c in itertools.product(range(5), repeat=2):
        row, column = classes[r], classes[c]
        expected = F.pad(slopes[:, row, column], (3, 3, 3, 3))[..., row : row + 7, column : column + 7]
        ours = kernels[r, c].clone()
        inside = F.pad(torch.ones(9, 9), (3, 3, 3, 3))[row : row + 7, column : column + 7].bool()
        assert float((ours - expected).detach()[..., inside].abs().max()) < 1e-12, (r, c)
    spread = spread_matrix(8, 4, "each", black)
    out = apply_head(torch.zeros(1, 6, 8, 8, dtype=torch.float64), torch.zeros_like(kernel), bias, spread)[0]
    places = torch.tensor((0, 1, 15, 30, 31))
    nine = torch.tensor(classes)
    assert torch.allclose(out[:, places[:, None], places], level[:, nine[:, None], nine], atol=1e-12)


def test_the_25_kernels_all_differ() -> None:
    kernels = class_kernels(compose_head(head(2, "each").convolutions, "each")[0]).flatten(0, 1)
    for one, other in itertools.combinations(range(25), 2):
        assert float((kernels[one] - kernels[other]).detach().abs().max()) > 1e-3, (one, other)


def test_without_position_classes_the_frame_is_wrong() -> None:
    """The inner kernel everywhere: exact but for a frame of two pixels, and wrong there by as much as the map is large."""
    module = head(1, "each")
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    kernel, bias = compose_head(module.convolutions, "each")
    spread = spread_matrix(8, 8, "once", x)
    inner = apply_head(x, kernel[:7, :7], bias[:7, :7], spread)
    exact = module.plain(x)
    apart = ((inner - exact).abs().amax(dim=(0, 1)) / exact.abs().max()).detach()
    assert float(apart[2:-2, 2:-2].max()) < 1e-10
    for line in (apart[0], apart[1], apart[-1], apart[-2], apart[:, 0], apart[:, 1], apart[:, -1], apart[:, -2]):
        assert float(line.max()) > 1e-2
    assert relative(apply_head(x, kernel, bias, spread_matrix(8, 8, "each", x)), exact) < 1e-10


@pytest.mark.parametrize("lost", range(7, 13))
def test_each_of_the_frames_taps_is_needed(lost: int) -> None:
    module = head(3, "each")
    x = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    kernel, bias = compose_head(module.convolutions, "each")
    spread = spread_matrix(8, 2, "each", x)
    assert relative(apply_head(x, kernel, bias, spread), module.plain(x)) < 1e-10
    kernel[:, lost] = 0
    assert relative(apply_head(x, kernel, bias, spread), module.plain(x)) > 1e-3


# --- patch embedding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_patches_composed_and_fused_equal_plain(dtype: torch.dtype) -> None:
    module, pyramid = patches(dtype=dtype)
    with torch.no_grad():
        expected = module(pyramid)
        module.form = "composed"
        composed = module(pyramid)
        module.form = "auto"
        module.fuse(8)
        assert sorted(module.fused) == ["1", "2", "3"]  # level 4 is one convolution as it stands
        once = module(pyramid)
    for k in (4, 3, 2, 1):
        assert relative(composed[k], expected[k]) < TOLERANCE[dtype]
        assert relative(once[k], expected[k]) < TOLERANCE[dtype]
    assert torch.equal(composed[4], expected[4])
    assert any(not torch.equal(composed[k], expected[k]) for k in (3, 2, 1))


def test_patch_gradients_equal_those_of_plain() -> None:
    module, pyramid = patches()
    wanted = [p for name, p in module.named_parameters() if name != "level_embedding"]

    def gradients(form: str) -> tuple[Tensor, ...]:
        module.form = form
        return torch.autograd.grad(sum((y**2).sum() for y in module(pyramid).values()), wanted)

    for ours, expected in zip(gradients("composed"), gradients("plain"), strict=True):
        assert relative(ours, expected) < 1e-10


def test_direct_patches_stay_one_convolution() -> None:
    """The small model's: nothing to compose."""
    module = filled(TokenEmbedding((4, 1), {4: 5, 1: 3}, 6, None))
    module.fuse(8)
    assert len(module.fused) == 0


# --- which form when --------------------------------------------------------------------------------------------------


def test_costs_by_hand() -> None:
    """The paper's sizes: at 224 pixels a batch of 8 composes everywhere; one photo does not at level 3 (1.0 against 1.3 G
    multiply-adds), and level 4 never."""
    for padding in PADDINGS:
        assert [composed_head_is_cheaper(8, 256, c, 14, s, padding) for c, s in ((24, 8), (32, 4), (56, 2))] == [
            True
        ] * 3
        assert composed_head_is_cheaper(1, 256, 24, 14, 8, padding)
        assert not composed_head_is_cheaper(1, 256, 56, 14, 2, padding)
        assert not composed_head_is_cheaper(64, 256, 160, 14, 1, padding)
    with torch.device("meta"):
        pairs = [(nn.Conv2d(256, b, p, stride=p), nn.Conv2d(b, 256, 1)) for b, p in ((512, 8), (384, 4), (256, 2))]
    assert [composed_patch_is_cheaper(8, 196, *pair) for pair in pairs] == [True] * 3
    assert [composed_patch_is_cheaper(2, 196, *pair) for pair in pairs] == [False] * 3


def test_the_module_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto: plain in eval mode, composed in training where cheaper, fused once fuse() was called; plain: always plain."""
    module = head(1, "once", torch.float32)
    x = torch.randn(2, 6, 8, 8)
    expected = module.plain(x)
    taken: list[str] = []
    for name in ("plain", "composed"):
        method = getattr(module, name)
        monkeypatch.setattr(module, name, lambda y, n=name, m=method: (taken.append(n), m(y))[1])
    module(x)
    module.train()(x)
    module.form = "plain"
    module(x)
    module.form = "auto"
    module.eval().fuse(8)
    assert relative(module(x), expected) < 1e-5
    assert taken == ["plain", "composed", "plain"]
    use_form(nn.ModuleList([module]), "plain")
    module(x)
    use_form(nn.ModuleList([module]), "auto")
    module.train()
    assert module.fused is None
    module(x)
    assert taken[3:] == ["plain", "composed"]


# --- whole models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{}, RELEASED], ids=["paper", "released"])
@pytest.mark.parametrize("grid", [8, 14])
def test_fused_model_equals_plain(tiny_model, choices: dict[str, str], grid: int) -> None:
    model, features = tiny_model(grid=grid, **choices)
    for dtype in (torch.float32, torch.float64):
        given_features = {k: f.to(dtype) for k, f in features.items()}
        with torch.no_grad():
            model.to(dtype).eval()
            expected = model(given_features)
            assert model.fuse() is model
            ours = model(given_features)
            assert list(ours.outputs) == list(expected.outputs)
            for k, output in ours.outputs.items():
                assert relative(output, expected.outputs[k]) < TOLERANCE[dtype], (k, dtype)
                assert torch.equal(ours.targets[k], expected.targets[k])
            use_form(model, "plain")
            plain = model(given_features)
            use_form(model, "auto")
        assert all(torch.equal(plain.outputs[k], expected.outputs[k]) for k in (4, 3, 2, 1))
        model.train()


@pytest.mark.parametrize(
    "choices",
    [{"levels": (3, 1)}, {"patch_widths": ()}, {"sar": "none", "levels": (4,)}, {"norm": "pre", "head": "subpixel"}],
    ids=["two levels", "direct patches", "one level", "subpixel"],
)
def test_fuse_serves_every_architecture(tiny_model, choices: dict[str, object]) -> None:
    model, features = tiny_model(**choices)
    with torch.no_grad():
        expected = model.eval()(features).outputs
        ours = model.fuse()(features).outputs
    for k, output in ours.items():
        assert relative(output, expected[k]) < 1e-5
    if choices.get("head") == "subpixel":
        assert all(isinstance(module, SubpixelHead) for module in model.heads.heads.values())


@pytest.mark.parametrize("choices", [{}, RELEASED], ids=["paper", "released"])
def test_training_step_equals_plain(tiny_model, choices: dict[str, str]) -> None:
    """Loss and every gradient of the step, composed against plain, noise and dropout alike (the same draws: torch's)."""

    def step(form: str) -> tuple[float, dict[str, Tensor]]:
        model, features = tiny_model(batch=3, **choices)
        use_form(model.double().train(), form)
        for module in model.modules():
            if isinstance(module, Dropout):
                module.form = "plain"
        torch.manual_seed(7)
        result = model({k: f.double() for k, f in features.items()})
        loss = sum(F.mse_loss(output, result.targets[k]) for k, output in result.outputs.items())  # in float64
        loss = loss + sum(output.abs().mean() for output in result.outputs.values())
        loss.backward()
        return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    (loss, gradients), (expected_loss, expected) = step("composed"), step("plain")
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert set(gradients) == set(expected)
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in gradients.items():
        assert float((gradient - expected[name]).abs().max()) < 1e-10 * largest, name


def test_fuse_changes_nothing_that_is_saved(tiny_model) -> None:
    model, features = tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [name for name, _ in model.named_parameters()]
    model.train().fuse()
    assert not model.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [name for name, _ in model.named_parameters()] == parameters
    assert [name for name, _ in model.named_buffers() if ".fused." in name]

    stream = io.BytesIO()
    torch.save(after, stream)
    stream.seek(0)
    other, _ = tiny_model(seed=5)
    other.load_state_dict(torch.load(stream, weights_only=True), strict=True)
    with torch.no_grad():
        expected, ours, copied = (m(features).outputs for m in (other.eval(), model, copy.deepcopy(model)))
    for k in (4, 3, 2, 1):
        assert relative(ours[k], expected[k]) < 1e-5
        assert torch.equal(copied[k], ours[k])


def test_training_and_loading_undo_it(tiny_model) -> None:
    """No stale kernel is ever used."""
    model, features = tiny_model()
    other, _ = tiny_model(seed=5)
    with torch.no_grad():
        expected = other.eval()(features).outputs
        model.fuse().load_state_dict(other.state_dict())
        loaded = model(features).outputs
        assert all(torch.equal(loaded[k], expected[k]) for k in expected)
        model.fuse()
        assert [name for name, _ in model.named_buffers() if ".fused." in name]
        model.train()
    assert not [name for name, _ in model.named_buffers() if ".fused." in name]
    assert all(part.fused is None or len(part.fused) == 0 for part in model.modules() if isinstance(part, Composable))


@pytest.mark.parametrize("choices", [{}, RELEASED], ids=["paper", "released"])
def test_fused_model_under_autocast(tiny_model, choices: dict[str, str]) -> None:
    model, features = tiny_model(**choices)
    with torch.no_grad():
        exact = model.eval()(features).outputs
        with torch.autocast("cpu", torch.bfloat16):
            plain = model(features).outputs
            ours = model.fuse()(features).outputs
    for k in (4, 3, 2, 1):
        assert relative(ours[k], exact[k]) < max(2e-2, 1.5 * relative(plain[k], exact[k]))


class Outputs(nn.Module):
    """What a tracer can read: one tensor in, one out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        return out


@pytest.mark.parametrize("padding", PADDINGS)
def test_fused_head_can_be_exported_with_any_batch(padding: str) -> None:
    module = head(2, padding, torch.float32)
    module.fuse(8)
    x, more = torch.randn(2, 6, 8, 8), torch.randn(5, 6, 8, 8)
    program = torch.export.export(Outputs(module), (x,), dynamic_shapes=({0: torch.export.Dim("count", min=1)},))
    with torch.no_grad():
        assert torch.allclose(program.module()(more), module(more), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("padding", PADDINGS)
def test_fused_parts_can_be_exported(padding: str) -> None:
    """No path depends on the data: the graph, made at one batch size, serves another."""
    module, (tokens, pyramid) = head(2, padding), patches()
    module.fuse(8)
    tokens.fuse(8)
    x = torch.randn(3, 6, 8, 8, dtype=torch.float64)
    batch = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        graph = torch.export.export(module, (torch.cat([x, x]),), dynamic_shapes=batch).module()
        assert torch.allclose(graph(x), module(x))
        patch = torch.export.export(tokens.fused["2"], (pyramid[2],)).module()
        assert torch.allclose(patch(pyramid[2]), tokens(pyramid)[2])


def test_tables_list_every_path_once() -> None:
    """27 paths of three steps; the frame's are those that leave over one edge and come back."""
    assert sum(len(pairs) for pairs in fused.STATES) == 9
    reached = [(e, c) for pairs in fused.TAPS for e, c in pairs]
    assert sorted(reached) == list(itertools.product(range(5), range(3)))
    lost: dict[int, set[tuple[int, int, int]]] = {}
    for number, (start, end) in enumerate(((0, 0), (0, 1), (1, 0))):
        lost[7 + number] = {
            (a, b, c)
            for a, b, c in itertools.product((-1, 0, 1), repeat=3)
            if start + a + b + c == end and min(start + a, start + a + b) < 0
        }
    for tap, paths in lost.items():
        listed = {(a - 1, b - 1, c - 1) for e, c in fused.FRAME_TAPS[tap] for a, b in fused.FRAME_STATES[e]}
        assert listed == paths
        mirrored = {(a - 1, b - 1, c - 1) for e, c in fused.FRAME_TAPS[tap + 3] for a, b in fused.FRAME_STATES[e]}
        assert mirrored == {(-a, -b, -c) for a, b, c in paths}
