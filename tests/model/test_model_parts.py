"""Query, gated CNN, heads, hybrid block: each against its formula written out (spec sections 6 to 8)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.model.blocks import AttentionStep, FeedForwardStep, GatedCNN
from unias.model.decoder import HybridBlock
from unias.model.fpn import PixelDecoder
from unias.model.heads import ConvHead, Heads, SubpixelHead
from unias.model.positions import neighbour_mask, sine_positions
from unias.model.sar import ChannelWeight, PlainQuery, ReleasedQuery, SampleAwareQuery, SpatialWeight

WIDTH, GRID = 16, 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def filled(module: nn.Module) -> nn.Module:
    """Every parameter random, the ones left empty included; eval mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module.eval()


# --- the query ----------------------------------------------------------------------------------------------


def mlp(weights: ChannelWeight, x: Tensor) -> Tensor:
    first, second, third = weights.layers
    return third(torch.relu(second(torch.relu(first(x)))))


def test_channel_weight_joint_or_not() -> None:
    """Eq. 1 as printed: sigmoid(MLP(avg + max)); released: sigmoid(MLP(avg) + MLP(max)); one MLP d, d/2, d/2, d."""
    h = torch.randn(3, WIDTH, GRID, GRID)
    average, largest = h.flatten(2).mean(dim=2), h.flatten(2).max(dim=2).values
    joint = filled(ChannelWeight(WIDTH, joint=True))
    apart = ChannelWeight(WIDTH, joint=False).eval()
    apart.load_state_dict(joint.state_dict())
    assert [tuple(layer.weight.shape) for layer in joint.layers] == [(8, 16), (8, 8), (16, 8)]
    assert torch.allclose(joint(h), torch.sigmoid(mlp(joint, average + largest)), atol=1e-6)
    assert torch.allclose(apart(h), torch.sigmoid(mlp(joint, average) + mlp(joint, largest)), atol=1e-6)
    assert (joint(h) - apart(h)).abs().max() > 1e-3


def test_spatial_weight_reads_mean_then_maximum() -> None:
    module = filled(SpatialWeight())
    h = torch.randn(2, WIDTH, GRID, GRID)
    pooled = torch.stack([h.mean(dim=1), h.max(dim=1).values], dim=1)
    expected = torch.sigmoid(F.conv2d(pooled, module.conv.weight, module.conv.bias, padding=3))
    assert module.conv.kernel_size == (7, 7)
    assert torch.allclose(module(h), expected, atol=1e-6)


def test_paper_query_by_hand() -> None:
    """q0 = q_ori * W_c * W_s, at every image, channel and place."""
    query = filled(SampleAwareQuery(WIDTH, GRID))
    h = torch.randn(2, WIDTH, GRID, GRID)
    w_c, w_s, out = query.channel_weight(h), query.spatial_weight(h), query(h)
    assert query.channel_weight.joint
    for n, c, row, column in ((0, 0, 0, 0), (1, 5, 2, 7), (0, 15, 7, 3), (1, 9, 4, 4)):
        expected = query.query[0, c, row, column] * w_c[n, c] * w_s[n, 0, row, column]
        assert out[n, c, row, column].item() == pytest.approx(expected.item(), abs=1e-6)


def test_released_query_is_interleaved() -> None:
    """Channel 2c + g of the MGG-CNN's input = channel c of block g, q_g * W_c + q_g * W_s."""
    query = filled(ReleasedQuery(WIDTH, GRID))
    h = torch.randn(2, WIDTH, GRID, GRID)
    given: list[Tensor] = []
    query.adaptor.register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0]))
    out = query(h)
    w_c, w_s = query.channel_weight(h), query.spatial_weight(h)
    assert not query.channel_weight.joint
    assert given[0].shape == (2, 2 * WIDTH, GRID, GRID)
    assert out.shape == (2, WIDTH, GRID, GRID)
    for n in range(2):
        for c in range(WIDTH):
            for g in range(2):
                expected = query.query[g, c] * w_c[n, c] + query.query[g, c] * w_s[n, 0]
                assert torch.allclose(given[0][n, 2 * c + g], expected, atol=1e-6), (n, c, g)


def test_query_answers_to_the_photo_unless_it_is_plain() -> None:
    h = torch.randn(2, WIDTH, GRID, GRID)
    for kind, answers in ((SampleAwareQuery, True), (ReleasedQuery, True), (PlainQuery, False)):
        query = filled(kind(WIDTH, GRID))
        out = query(h)
        assert out.shape == (2, WIDTH, GRID, GRID)
        assert torch.equal(out[0], out[1]) is not answers, kind.__name__


# --- the gated CNN ------------------------------------------------------------------------------------------


def convolved(branch: nn.Module, x: Tensor) -> Tensor:
    for conv in branch:
        assert isinstance(conv, nn.Conv2d)
        x = F.conv2d(x, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)
    return x


def erf_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def test_mgg_by_hand() -> None:
    """Four branches 1x1; 3x3; 3x3-3x3; 3x3-3x3-3x3, exact GELU at each end, summed; nothing between, no residual."""
    cnn = filled(GatedCNN(6, WIDTH, "mgg"))
    x = torch.randn(2, 6, GRID, GRID)
    assert [[conv.kernel_size[0] for conv in branch] for branch in cnn.branches] == [[1], [3], [3, 3], [3, 3, 3]]
    ends = [convolved(branch, x) for branch in cnn.branches]
    assert torch.allclose(cnn(x), sum(erf_gelu(end) for end in ends), atol=1e-4, rtol=1e-5)
    tanh = sum(F.gelu(end, approximate="tanh") for end in ends)
    assert (cnn(x) - tanh).abs().max() > 2e-4  # the test tells the two GELUs apart


def test_mg_differs_by_the_gate_alone() -> None:
    gated, plain = filled(GatedCNN(WIDTH, WIDTH, "mgg")), GatedCNN(WIDTH, WIDTH, "mg").eval()
    plain.load_state_dict(gated.state_dict())
    x = torch.randn(1, WIDTH, GRID, GRID)
    ends = [convolved(branch, x) for branch in gated.branches]
    assert torch.allclose(plain(x), sum(ends), atol=1e-4)
    assert torch.allclose(gated(x), sum(erf_gelu(end) for end in ends), atol=1e-4)
    # without the gate it is one affine map: an average of inputs gives the average of outputs
    y = torch.randn_like(x)
    assert torch.allclose(plain((x + y) / 2), (plain(x) + plain(y)) / 2, atol=1e-4)
    assert (gated((x + y) / 2) - (gated(x) + gated(y)) / 2).abs().max() > 1e-2


def test_conv3_is_three_convolutions_then_gelu() -> None:
    cnn = filled(GatedCNN(WIDTH, WIDTH, "conv3"))
    x = torch.randn(1, WIDTH, GRID, GRID)
    assert [[conv.kernel_size[0] for conv in branch] for branch in cnn.branches] == [[3, 3, 3]]
    assert torch.allclose(cnn(x), erf_gelu(convolved(cnn.branches[0], x)), atol=1e-4)


# --- the heads ----------------------------------------------------------------------------------------------


def composed(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Kernel (out, in, 7, 7) and bias of three stacked 3x3 convolutions, by summing over all paths."""
    kernel, bias = layers[0].weight, layers[0].bias
    for conv in (layers[1], layers[2]):
        size = kernel.shape[-1] + 2
        wider = torch.zeros(len(conv.weight), kernel.shape[1], size, size, dtype=kernel.dtype)
        for row in range(3):
            for column in range(3):
                part = torch.einsum("om,mihw->oihw", conv.weight[:, :, row, column], kernel)
                wider[:, :, row : row + kernel.shape[-2], column : column + kernel.shape[-1]] += part
        bias = conv.bias + conv.weight.sum(dim=(2, 3)) @ bias
        kernel = wider
    return kernel, bias


@pytest.mark.parametrize("level", [4, 3])
def test_padding_once_is_one_seven_by_seven_convolution(level: int) -> None:
    head = filled(ConvHead(WIDTH, 5, level, "once")).double()
    x = torch.randn(2, WIDTH, GRID, GRID, dtype=torch.float64)
    kernel, bias = composed(head.layers)
    lifted = x if level == 4 else F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    expected = F.conv2d(F.pad(lifted, (3, 3, 3, 3)), kernel, bias)
    assert kernel.shape[-2:] == (7, 7)
    assert (head(x) - expected).abs().max() < 1e-10


def test_padding_each_differs_in_the_border_frame_alone() -> None:
    once, each = filled(ConvHead(WIDTH, 5, 3, "once")).double(), ConvHead(WIDTH, 5, 3, "each").double().eval()
    each.load_state_dict(once.state_dict())
    x = torch.randn(1, WIDTH, GRID, GRID, dtype=torch.float64)
    apart = (once(x) - each(x)).abs().amax(dim=(0, 1))
    inside = apart[2:-2, 2:-2]  # a result that is 2 places in never meets the second or third convolution's zeros
    assert once(x).shape == each(x).shape == (1, 5, 16, 16)
    assert inside.max() < 1e-12
    assert apart[0].max() > 1e-3
    assert apart[1].max() > 1e-3


@pytest.mark.parametrize(("level", "scale"), [(4, 1), (3, 2), (2, 4), (1, 8)])
def test_heads_upsample_with_aligned_corners(level: int, scale: int) -> None:
    """The three convolutions made the identity, the upsampling is what is left."""
    head = ConvHead(4, 4, level, "each")
    with torch.no_grad():
        for conv in head.layers:
            nn.init.dirac_(conv.weight)
            conv.bias.zero_()
    x = torch.randn(1, 4, GRID, GRID)
    out = head(x)
    side = GRID * scale
    assert out.shape == (1, 4, side, side)
    aligned = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=True)
    assert torch.allclose(out, aligned, atol=1e-5)
    corners = torch.tensor([0, -1])
    assert torch.allclose(out[..., corners[:, None], corners], x[..., corners[:, None], corners], atol=1e-6)
    if scale > 1:
        other = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        assert (out - other).abs().max() > 1e-2


def test_subpixel_head_puts_each_block_of_channels_in_its_place() -> None:
    head = filled(SubpixelHead(WIDTH, 3, 3))
    x = torch.randn(1, WIDTH, GRID, GRID)
    flat, out = head.conv(x), head(x)
    assert out.shape == (1, 3, 16, 16)
    assert torch.equal(out[0, 1, 5, 8], flat[0, 1 * 4 + 1 * 2 + 0, 2, 4])


def test_one_layer_norm_for_all_levels() -> None:
    heads = Heads(WIDTH, {k: ConvHead(WIDTH, 4, k, "once") for k in (4, 3, 2, 1)})
    assert len([module for module in heads.modules() if isinstance(module, nn.LayerNorm)]) == 1
    calls: list[Tensor] = []
    heads.norm.register_forward_hook(lambda _module, inputs, _output: calls.append(inputs[0]))
    heads({k: torch.randn(2, GRID * GRID, WIDTH) for k in (4, 3, 2, 1)})
    assert len(calls) == 4
    assert [key for key in heads.state_dict() if "norm" in key] == ["norm.weight", "norm.bias"]


def test_tokens_become_a_map_row_by_row() -> None:
    heads = Heads(WIDTH, {4: nn.Identity()})
    tokens = torch.randn(1, GRID * GRID, WIDTH)
    out = heads({4: tokens})[4]
    normed = F.layer_norm(tokens, (WIDTH,))
    assert torch.allclose(out[0, :, 3, 5], normed[0, 3 * GRID + 5], atol=1e-5)


# --- attention and the hybrid block -------------------------------------------------------------------------


def attention_by_hand(step: AttentionStep, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """(T, D) each: heads of consecutive channels, scale 1 / sqrt(width of a head), in_proj rows stacked q, k, v."""
    inner = step.attention
    width, heads = inner.embed_dim, inner.num_heads
    rows = torch.split(inner.in_proj_weight, width)
    shifts = torch.split(inner.in_proj_bias, width)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, keys, values), rows, shifts, strict=True))
    outputs = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        scores = q[:, part] @ k[:, part].T / (width // heads) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        outputs.append(scores.softmax(dim=1) @ v[:, part])
    return torch.cat(outputs, dim=1) @ inner.out_proj.weight.T + inner.out_proj.bias


@pytest.mark.parametrize("norm_first", [False, True])
def test_cross_attention_by_hand(norm_first: bool) -> None:
    """Positions on query and keys only, True = forbidden; post: norm(x + a(x)); pre: x + a(norm(x))."""
    step = filled(AttentionStep(WIDTH, 4, 0.1, norm_first))
    count = GRID * GRID
    x, memory = torch.randn(count, WIDTH), torch.randn(count, WIDTH)
    query_position, position, mask = torch.randn(count, WIDTH), torch.randn(count, WIDTH), neighbour_mask(GRID)
    read = step.norm(x) if norm_first else x
    attended = attention_by_hand(step, read + query_position, memory + position, memory, mask)
    expected = x + attended if norm_first else step.norm(x + attended)
    out = step(x[None], memory[None], query_position, position, mask)[0]
    assert torch.allclose(out, expected, atol=1e-4)
    without = step(x[None], memory[None], None, position, mask)[0]
    assert (out - without).abs().max() > 1e-3


def test_a_query_never_sees_its_neighbourhood() -> None:
    step = filled(AttentionStep(WIDTH, 4))
    count = GRID * GRID
    x, memory, mask = torch.randn(1, count, WIDTH), torch.randn(1, count, WIDTH), neighbour_mask(GRID)
    before = step(x, memory, mask=mask)
    changed = memory.clone()
    changed[0, 3 * GRID + 3] += 5.0
    moved = (step(x, changed, mask=mask) - before).abs().amax(dim=2)[0] > 1e-5
    assert torch.equal(moved, ~mask[:, 3 * GRID + 3])


@pytest.mark.parametrize("norm_first", [False, True])
def test_feed_forward_by_hand(norm_first: bool) -> None:
    step = filled(FeedForwardStep(WIDTH, 24, 0.1, norm_first))
    x = torch.randn(2, 5, WIDTH)
    read = step.norm(x) if norm_first else x
    inner = torch.relu(read @ step.linear1.weight.T + step.linear1.bias) @ step.linear2.weight.T + step.linear2.bias
    expected = x + inner if norm_first else F.layer_norm(x + inner, (WIDTH,), step.norm.weight, step.norm.bias, 1e-5)
    assert torch.allclose(step(x), expected, atol=1e-5)


def hybrid(norm_first: bool = False, channel_branch: bool = True) -> tuple[HybridBlock, tuple[Tensor, ...]]:
    count = GRID * GRID
    block = filled(HybridBlock(WIDTH, count, 4, 24, 0.1, norm_first, channel_branch))
    given = (
        torch.randn(2, count, WIDTH),
        torch.randn(2, count, WIDTH),
        torch.randn(count, WIDTH),
        sine_positions(WIDTH, GRID),
        neighbour_mask(GRID),
    )
    return block, given


def test_both_branches_read_the_same_query() -> None:
    """Not one after the other: whatever the spatial branch does, the channel branch's share stays the same."""
    block, given = hybrid()
    seen: dict[str, Tensor] = {}
    block.spatial.register_forward_pre_hook(lambda _module, inputs: seen.__setitem__("spatial", inputs[0]))
    block.channel.register_forward_pre_hook(lambda _module, inputs: seen.__setitem__("channel", inputs[0]))
    share = block(*given) - block.spatial(*given)
    assert torch.equal(seen["spatial"], given[0])
    assert torch.equal(seen["channel"], given[0].transpose(1, 2))
    filled(block.spatial)  # other weights
    assert torch.allclose(block(*given) - block.spatial(*given), share, atol=1e-5)
    own = block.spatial(*given)
    filled(block.channel)
    assert torch.equal(block.spatial(*given), own)
    assert (block(*given) - own - share).abs().max() > 1e-2


def test_channel_branch_is_transposed_without_mask_and_query_position() -> None:
    block, (query, tokens, query_position, position, mask) = hybrid()
    given = (query, tokens, query_position, position, mask)
    count = GRID * GRID
    step = block.channel.cross
    turned = query[0].T
    cross = step.norm(turned + attention_by_hand(step, turned, tokens[0].T + position.T, tokens[0].T, None))
    step = block.channel.self
    cross = step.norm(cross + attention_by_hand(step, cross, cross, cross, None))
    expected = block.channel.feed_forward(cross[None])[0].T
    assert step.attention.num_heads == 4
    assert step.attention.embed_dim == count
    assert torch.allclose((block(*given) - block.spatial(*given))[0], expected, atol=1e-4)


def test_spatial_self_attention_has_query_position_and_mask() -> None:
    block, (query, tokens, query_position, position, mask) = hybrid(channel_branch=False)
    x = block.spatial.cross(query, tokens, query_position, position, mask)[0]
    step = block.spatial.self
    expected = step.norm(x + attention_by_hand(step, x + query_position, x + query_position, x, mask))
    out = block(query, tokens, query_position, position, mask)
    assert torch.allclose(out[0], block.spatial.feed_forward(expected[None])[0], atol=1e-4)


def test_pre_norm_counts_the_query_once() -> None:
    """With steps that add nothing the block hands its query on, not twice that."""
    block, given = hybrid(norm_first=True)
    with torch.no_grad():
        for branch in (block.spatial, block.channel):
            for linear in (
                branch.cross.attention.out_proj,
                branch.self.attention.out_proj,
                branch.feed_forward.linear2,
            ):
                linear.weight.zero_()
                linear.bias.zero_()
    assert torch.allclose(block(*given), given[0], atol=1e-6)


# --- the pixel decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(32, 32, 32, 32), (32, 32, 16, 8)], ids=["one width", "narrowing"])
def test_pyramid_by_hand(widths: tuple[int, ...]) -> None:
    """y_4 = ReLU(conv3x3(encoder)); y_k = ReLU(GN(conv3x3(GN(conv1x1(input_k)) + up(y_k+1)))), corners not aligned."""
    channels = {4: 10, 3: 8, 2: 6, 1: 4}
    width = dict(zip((4, 3, 2, 1), widths, strict=True))
    pyramid = filled(PixelDecoder(channels, width, GRID, 1, 4, 24, 0.1, norm_first=False))
    inputs = {k: torch.randn(2, channels[k], GRID << (4 - k), GRID << (4 - k)) for k in (4, 3, 2, 1)}
    outputs = pyramid(inputs)

    x = F.conv2d(inputs[4], pyramid.input_projection.weight, pyramid.input_projection.bias)
    tokens, position = x.flatten(2).transpose(1, 2), sine_positions(width[4], GRID)
    layer = pyramid.encoder[0]
    step = layer.attention
    attended = [attention_by_hand(step, t + position, t + position, t, None) for t in tokens]
    tokens = layer.feed_forward(step.norm(tokens + torch.stack(attended)))
    x = tokens.transpose(1, 2).reshape(x.shape)
    assert pyramid.top_output.bias is None
    expected = {4: torch.relu(F.conv2d(x, pyramid.top_output.weight, padding=1))}
    for k in (3, 2, 1):
        lateral, output = pyramid.lateral[str(k)], pyramid.output[str(k)]
        assert lateral.conv.bias is None
        assert output.conv.bias is None
        assert output.norm.eps == 1e-5
        side = F.group_norm(
            F.conv2d(inputs[k], lateral.conv.weight), lateral.norm.num_groups, *lateral.norm.parameters()
        )
        up = F.interpolate(expected[k + 1], scale_factor=2, mode="bilinear", align_corners=False)
        total = F.conv2d(side + pyramid.narrow[str(k)](up), output.conv.weight, padding=1)
        expected[k] = torch.relu(F.group_norm(total, output.norm.num_groups, *output.norm.parameters()))
    for k in (4, 3, 2, 1):
        assert outputs[k].shape == (2, width[k], GRID << (4 - k), GRID << (4 - k))
        assert torch.allclose(outputs[k], expected[k], atol=2e-4), k
    assert pyramid.lateral["3"].norm.num_groups == 32
