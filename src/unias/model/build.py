"""From settings to modules, and the weights they start with (spec section 9): the only place that reads ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from unias.config import ModelConfig
from unias.errors import UsageError
from unias.model.blocks import AttentionStep, FeedForwardStep, GatedCNN
from unias.model.decoder import Decoder, DecoderLayer, HybridBlock
from unias.model.filters import FeatureFilter, Standardize
from unias.model.fpn import PixelDecoder
from unias.model.heads import ConvHead, Heads, SubpixelHead
from unias.model.jitter import FeatureJitter
from unias.model.positions import neighbour_mask, sine_positions
from unias.model.sar import ChannelWeight, PlainQuery, ReleasedQuery, SampleAwareQuery, SpatialWeight
from unias.model.tokens import TokenEmbedding
from unias.model.unias import UniAS


def build_unias(config: ModelConfig, channels: Mapping[int, int], grid: int) -> UniAS:
    """Make the trained part for backbone ``channels`` {level: C} and a ``grid`` x ``grid`` of tokens.

    Raises UsageError where the neighbour window would cover the grid. Weights are drawn from torch's global generator.
    """
    if config.neighbour_window >= grid:
        raise UsageError(
            f"size: a grid of {grid} x {grid} tokens leaves nothing outside the {config.neighbour_window} x "
            f"{config.neighbour_window} neighbour window. Use 128 pixels or more."
        )
    feature_filter = FeatureFilter(config.filter)
    widths = dict(zip((4, 3, 2, 1), config.fpn_widths, strict=True))
    finer = tuple(k for k in (3, 2, 1) if k >= min(config.levels))
    norm_first = config.norm == "pre"
    count = grid * grid
    pixel_decoder = PixelDecoder(
        {k: c * feature_filter.widening for k, c in channels.items()},
        widths,
        grid,
        config.encoder_layers,
        config.heads,
        config.ffn,
        config.dropout,
        norm_first,
        finer,
    )
    patch_widths = dict(zip((3, 2, 1), config.patch_widths, strict=True)) if config.patch_widths else None
    token_levels = tuple(sorted({4, *config.levels}, reverse=True))
    tokens = TokenEmbedding(token_levels, widths, config.width, patch_widths)
    queries: dict[str, type[SampleAwareQuery] | type[ReleasedQuery] | type[PlainQuery]] = {
        "paper": SampleAwareQuery,
        "released": ReleasedQuery,
        "none": PlainQuery,
    }
    source = nn.Conv2d(widths[4], config.width, 3, padding=1) if config.sar == "released" else None
    layers = {
        k: DecoderLayer(
            HybridBlock(
                config.width, count, config.heads, config.ffn, config.dropout, norm_first, config.channel_branch
            ),
            None if config.cnn == "none" else GatedCNN(config.width, config.width, config.cnn),
            config.cnn_residual,
        )
        for k in config.levels
    }
    decoder = Decoder(
        layers, config.width, count, sine_positions(config.width, grid), neighbour_mask(grid, config.neighbour_window)
    )
    heads: dict[int, nn.Module] = {
        k: ConvHead(config.width, channels[k], k, config.head_padding)
        if config.head == "conv3"
        else SubpixelHead(config.width, channels[k], k)
        for k in config.levels
    }
    model = UniAS(
        config.levels,
        {k: Standardize(channels[k]) for k in channels} if config.standardize else None,
        feature_filter,
        FeatureJitter(config.jitter_scale, config.jitter_probability, config.jitter_norm),
        pixel_decoder,
        tokens,
        queries[config.sar](config.width, grid),
        source,
        decoder,
        Heads(config.width, heads),
    )
    init_weights(model)
    return model


@torch.no_grad()
def init_weights(model: UniAS) -> None:
    """The released initial weights: Xavier uniform for attention, feed-forward, patch embedding, MGG-CNN and SAR; Kaiming
    uniform (a = 1) with zero bias for the pyramid's convolutions and the token projection; N(0, 1) for query, query position
    and level embedding; torch's default for the rest (the query's source and the heads)."""
    for module in model.modules():
        if isinstance(module, AttentionStep):
            nn.init.xavier_uniform_(module.attention.in_proj_weight)
            nn.init.xavier_uniform_(module.attention.out_proj.weight)
        elif isinstance(module, FeedForwardStep):
            nn.init.xavier_uniform_(module.linear1.weight)
            nn.init.xavier_uniform_(module.linear2.weight)
        elif isinstance(module, (GatedCNN, ChannelWeight, SpatialWeight)):
            for inner in module.modules():
                if isinstance(inner, (nn.Conv2d, nn.Linear)):
                    nn.init.xavier_uniform_(inner.weight)
    for module in model.tokens.patch.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    for module in (*model.pixel_decoder.modules(), *model.tokens.project.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for parameter in (model.query.query, model.decoder.query_position, model.tokens.level_embedding):
        nn.init.normal_(parameter)
