"""HVQ-Trans (Lu et al., NeurIPS 2023): features from a hierarchy of codebooks, five for each product.

    features -> one grid -> tokens e_0 -> encoder e_1 .. e_4 -> codes z_4 (top), z_3 .. z_0 -> decoder -> the product's head

Difference from the released code, a setting: the codes' counts start at 1 (``start="ones"``). With "authors", at 0, every
code that the first photo of a product does not use grows a hundred thousandfold, and comes back over about 1,000 photos of
it (until then the released code's map is NaN; the softmax here does not overflow).

Legend: N photos, C channels, g x g the grid, T = g * g tokens, D encoder width, K codes, P products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unias.systems.nets.tokens import DecoderLayer, EncoderLayer, LearnedPosition, aligned, euclidean, to_map, to_tokens

LEVELS = 5  # codebooks a product: of e_0, e_1, e_2, e_3 (width 2 D each) and the top (D)
TOP = 4
COMMITMENT = 0.25
DECAY, EPSILON = 0.99, 1e-5
TRANSPORT = 80.0  # weight of the transport cost in the map


class Codebook(nn.Module):
    """K codes of one width, moved by running means and not by gradients.

    Buffers: codes (K, width), counts (K,), sums (K, width).
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, width: int, size: int, start: str) -> None:
        super().__init__()
        codes = torch.randn(size, width)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.zeros(size) if start == "authors" else torch.ones(size))
        self.register_buffer("sums", codes.clone())

    def nearest(self, tokens: Tensor) -> Tensor:
        """(T, width) -> (T,) int64: by squared Euclidean distance."""
        apart = tokens.square().sum(1, keepdim=True) - 2 * tokens @ self.codes.T + self.codes.square().sum(1)
        return apart.argmin(dim=1)

    @torch.no_grad()
    def move(self, tokens: Tensor, index: Tensor) -> None:
        """Counts and sums towards what one photo's tokens chose, then the codes to their means."""
        chosen = F.one_hot(index, len(self.codes)).to(tokens.dtype)
        self.counts.lerp_(chosen.sum(dim=0), 1 - DECAY)
        self.sums.lerp_(chosen.T @ tokens, 1 - DECAY)
        total = self.counts.sum()
        counts = (self.counts + EPSILON) / (total + len(self.codes) * EPSILON) * total
        self.codes.copy_(self.sums / counts[:, None])

    def transport(self, tokens: Tensor) -> Tensor:
        """(T, width) -> (T,): cosine distance to the codes, weighted by the softmax of dot products over K."""
        away = 1 - F.normalize(tokens, dim=1) @ F.normalize(self.codes, dim=1).T
        return (away * (tokens @ self.codes.T / len(self.codes)).softmax(dim=1)).sum(dim=1)


class Quantised(NamedTuple):
    """One level. tokens (N, T, width), through which gradients pass unchanged; code (N, T), which;  commitment (N,)."""

    tokens: Tensor
    code: Tensor
    commitment: Tensor


class HVQOutput(NamedTuple):
    """clean, reconstruction (N, C, g, g); commitment (N,), the five levels' sum; transport (N, g, g), zeros in training."""

    clean: Tensor
    reconstruction: Tensor
    commitment: Tensor
    transport: Tensor

    def map(self, weight: float = TRANSPORT) -> Tensor:
        """(N, g, g), higher is more anomalous."""
        return euclidean(self.reconstruction, self.clean) + weight * self.transport

    def loss(self) -> Tensor:
        """Mean squared error + 0.25 * commitment."""
        return F.mse_loss(self.reconstruction, self.clean) + COMMITMENT * self.commitment.mean()


class HVQTrans(nn.Module):
    """The network. Published: width 256, 8 heads, ffn 1024, 4 + 4 layers, 512 codes.

    Args:
        channels: C, the sum over the backbone's levels.
        products: P; each photo's product says which codebooks and which head it takes.
        grid: g, side of the token grid.
        start: "ones", or "authors" (see the head of the file).
    """

    in_graph = False
    head_weights: Tensor
    head_biases: Tensor

    def __init__(
        self,
        channels: int,
        products: int,
        grid: int = 14,
        *,
        width: int = 256,
        heads: int = 8,
        ffn: int = 1024,
        codes: int = 512,
        dropout: float = 0.1,
        start: str = "ones",
    ) -> None:
        super().__init__()
        self.grid = grid
        self.input_proj = nn.Conv2d(channels, width, 1)
        self.position = LearnedPosition(width, grid)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, ffn, dropout) for _ in range(TOP))
        self.codebooks = nn.ModuleList(
            nn.ModuleList(Codebook(width if level == TOP else 2 * width, codes, start) for _ in range(products))
            for level in range(LEVELS)
        )
        self.decoder = nn.ModuleList(DecoderLayer(2 * width, heads, ffn, dropout) for _ in range(TOP))
        self.norm = nn.LayerNorm(2 * width)
        self.heads = nn.ModuleList(nn.Linear(2 * width, channels) for _ in range(products))

    def forward(self, features: Mapping[int, Tensor], product: Tensor) -> HVQOutput:
        """features {level: (N, C_k, H_k, W_k)}, product (N,) int64. In training mode the codes of each photo's product move."""
        if self.in_graph:
            return self._without_loops(features, product)
        clean = aligned(features, self.grid)
        chosen = product.tolist()
        states = self.encode(clean)
        levels, finest = self.quantise(states, chosen)
        out = self.decode([levels[i].tokens for i in range(LEVELS)])
        reconstruction = torch.stack([self.heads[p](tokens) for p, tokens in zip(chosen, out, strict=True)])
        commitment = torch.stack([level.commitment for level in levels]).sum(dim=0)
        return HVQOutput(clean, to_map(reconstruction, self.grid), commitment, self._transport(finest, chosen))

    def graph_form(self) -> None:
        """Keep all products' codes and heads in one tensor each, so that photos need no loop; for a copy that is exported."""
        every: Any = self.codebooks
        for level, books in enumerate(every):
            codes = [book.codes for book in books]
            self.register_buffer(f"codes_{level}", torch.stack(codes), persistent=False)
        heads: list[nn.Linear] = list(self.heads)  # type: ignore[arg-type]
        self.register_buffer("head_weights", torch.stack([head.weight.detach() for head in heads]), persistent=False)
        self.register_buffer("head_biases", torch.stack([head.bias.detach() for head in heads]), persistent=False)
        self.in_graph = True

    def _without_loops(self, features: Mapping[int, Tensor], product: Tensor) -> HVQOutput:
        """``forward`` in use, of all photos at once; commitment, which training alone needs, is 0."""
        clean = aligned(features, self.grid)
        states = self.encode(clean)
        top = self._nearest_codes(TOP, states[TOP], product)
        pairs = [torch.cat([states[level], top], dim=2) for level in range(TOP)]
        out = self.decode([*(self._nearest_codes(level, pairs[level], product) for level in range(TOP)), top])
        reconstruction = out @ self.head_weights[product].mT + self.head_biases[product][:, None]
        codes = self._codes(0, product)
        away = 1 - F.normalize(pairs[0], dim=2) @ F.normalize(codes, dim=2).mT
        cost = (away * (pairs[0] @ codes.mT / codes.shape[1]).softmax(dim=2)).sum(dim=2)
        transport = cost.reshape(-1, self.grid, self.grid)
        return HVQOutput(clean, to_map(reconstruction, self.grid), clean.new_zeros(clean.shape[0]), transport)

    def _codes(self, level: int, product: Tensor) -> Tensor:
        """Each photo's codebook: (N, K, width)."""
        codes: Tensor = getattr(self, f"codes_{level}")[product]
        return codes

    def _nearest_codes(self, level: int, tokens: Tensor, product: Tensor) -> Tensor:
        """(N, T, width) -> the same, quantised as ``_level`` does."""
        codes = self._codes(level, product)
        lengths = codes.square().sum(dim=2)[:, None]
        apart = tokens.square().sum(dim=2, keepdim=True) - 2 * tokens @ codes.mT + lengths
        index = apart.argmin(dim=2, keepdim=True).expand(-1, -1, tokens.shape[2])
        return tokens + (codes.gather(1, index) - tokens)

    def encode(self, clean: Tensor) -> list[Tensor]:
        """e_0 .. e_4, (N, T, D) each."""
        states = [to_tokens(self.input_proj(clean))]
        position = self.position()
        for layer in self.encoder:
            states.append(layer(states[-1], position))
        return states

    def quantise(self, states: list[Tensor], chosen: list[int]) -> tuple[list[Quantised], Tensor]:
        """Levels 0 .. 4, and [e_0, z_4], what the finest codes are compared with."""
        top = self._level(TOP, states[TOP], chosen)
        pairs = [torch.cat([states[i], top.tokens], dim=2) for i in range(TOP)]
        # the order of the released code; books of different levels do not touch each other
        levels = {i: self._level(i, pairs[i], chosen) for i in reversed(range(TOP))}
        return [*(levels[i] for i in range(TOP)), top], pairs[0]

    def decode(self, codes: list[Tensor]) -> Tensor:
        """z_0 .. z_3 -> (N, T, 2 D): the state starts as z_3, and the layers read z_3, z_2, z_1, z_0."""
        position = self.position()
        both = torch.cat([position, position], dim=1)
        state = codes[TOP - 1]
        for layer, memory in zip(self.decoder, reversed(codes[:TOP]), strict=True):
            state = layer(state, state, memory, both)
        out: Tensor = self.norm(state)
        return out

    def _level(self, level: int, tokens: Tensor, chosen: list[int]) -> Quantised:
        """Photo by photo: the next one of a product is quantised by the codes that this one has moved."""
        quantised, indices, commitments = [], [], []
        for product, own in zip(chosen, tokens, strict=True):
            book = self.codebooks[level][product]  # type: ignore[index]
            index = book.nearest(own.detach())
            code = book.codes[index]  # a copy: moving the codes afterwards leaves it as it is
            if self.training:
                book.move(own.detach(), index)
            commitments.append((code - own).square().mean())
            quantised.append(own + (code - own).detach())
            indices.append(index)
        return Quantised(torch.stack(quantised), torch.stack(indices), torch.stack(commitments))

    def _transport(self, finest: Tensor, chosen: list[int]) -> Tensor:
        if self.training:
            return finest.new_zeros(len(finest), self.grid, self.grid)
        costs = [self.codebooks[0][p].transport(own) for p, own in zip(chosen, finest, strict=True)]  # type: ignore[index]
        return torch.stack(costs).reshape(-1, self.grid, self.grid)
