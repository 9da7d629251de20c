"""UniAS: the whole method on one page. Features in, reconstructions out; maps are made of them in ``unias.maps``.

    features -> (standardize) -> filter -> jitter -> pixel decoder -> tokens -> query -> decoder -> heads

The backbone is not part of this module: it is frozen, and its features may come from a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from unias.model.decoder import Decoder
from unias.model.filters import FeatureFilter, Standardize
from unias.model.fpn import PixelDecoder
from unias.model.fused import Composable
from unias.model.heads import Heads
from unias.model.jitter import FeatureJitter
from unias.model.sar import PlainQuery, ReleasedQuery, SampleAwareQuery
from unias.model.tokens import TokenEmbedding


class Reconstruction(NamedTuple):
    """What one forward pass gives, a level: (N, C_k, H_k, W_k) each, keyed coarse to fine."""

    targets: dict[int, Tensor]
    outputs: dict[int, Tensor]


class UniAS(nn.Module):
    """Reconstruct each level's filtered features from what the decoder remembers of good parts.

    Args:
        standardize: {level: Standardize}, or None for features as they come.
        query_source: the released variant's own 3x3 convolution of y_4; None = the level-4 token map (paper).
    """

    def __init__(
        self,
        levels: Sequence[int],
        standardize: Mapping[int, Standardize] | None,
        feature_filter: FeatureFilter,
        jitter: FeatureJitter,
        pixel_decoder: PixelDecoder,
        tokens: TokenEmbedding,
        query: SampleAwareQuery | ReleasedQuery | PlainQuery,
        query_source: nn.Module | None,
        decoder: Decoder,
        heads: Heads,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.standardize = nn.ModuleDict({str(k): module for k, module in (standardize or {}).items()})
        self.filter = feature_filter
        self.jitter = jitter
        self.pixel_decoder = pixel_decoder
        self.tokens = tokens
        self.query = query
        self.query_source = query_source
        self.decoder = decoder
        self.heads = heads

    def forward(self, features: Mapping[int, Tensor]) -> Reconstruction:
        """features: {4: (N, C_4, grid, grid), ... 1: (N, C_1, 8 grid, 8 grid)}, raw from the backbone."""
        inputs: dict[int, Tensor] = {}
        targets: dict[int, Tensor] = {}
        for level, feature in features.items():
            if self.standardize:
                feature = self.standardize[str(level)](feature)
            seen, target = self.filter(feature)
            inputs[level] = self.jitter(seen)
            if level in self.levels:
                targets[level] = target
        pyramid = self.pixel_decoder(inputs)
        maps = self.tokens(pyramid)
        source = self.query_source(pyramid[4]) if self.query_source is not None else maps[4]
        query = self.query(source).flatten(2).transpose(1, 2)
        outputs = self.decoder(query, {k: self.tokens.as_tokens(k, maps[k]) for k in self.levels})
        return Reconstruction(targets, self.heads(outputs))

    def fuse(self) -> UniAS:
        """Make heads and patch embeddings ready for inference: composed once, exact to rounding (issue 4). In place.

        Goes to eval mode. Parameters and state_dict stay as they are, so it is saved as ever; ``train()`` and loading weights
        undo it. Weights changed in any other way are not seen until the next ``fuse()``.
        """
        self.eval()
        grid = int(self.decoder.query_position.shape[0] ** 0.5)
        for module in [part for part in self.modules() if isinstance(part, Composable)]:
            module.fuse(grid)
        return self
