"""The optimisers of a run: AdamW alone (the source's), or Muon for the weight matrices beside AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from unias.config import TrainConfig
from unias.model.attention import Attention
from unias.model.unias import UniAS
from unias.runtime import cpu_has_bfloat16

# The quintic of Jordan et al. (2024): five rounds bring singular values close to 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonalized(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
    """(B, rows, columns) -> the same shape, each with its singular values brought close to 1 (0.7 to 1.2), float32.

    In bfloat16 where the processor multiplies it itself: the rounds forgive rounding.
    """
    a, b, c = NEWTON_SCHULZ
    on_cpu = matrices.device.type == "cpu"
    x = matrices.to(torch.float32 if on_cpu and not cpu_has_bfloat16() else torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.transpose(1, 2) if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Steps of one spectral size: Nesterov momentum, made orthogonal (Jordan et al., "Muon", 2024).

    A convolution's kernel counts as one matrix of (out, in * height * width). A step is scaled by 0.2 * sqrt(larger side)
    (Liu et al., "Muon is scalable", 2025), which puts rate and weight decay on AdamW's scale.

    Args:
        matrices: {parts: parameters}, of two or more dimensions; each holds so many matrices, one above the other.
    """

    def __init__(
        self,
        matrices: Mapping[int, Iterable[Tensor]],
        rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            [{"params": list(parameters), "parts": parts} for parts, parameters in matrices.items()],
            {"lr": rate, "momentum": momentum, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Matrices of one shape are made orthogonal together."""
        for group in self.param_groups:
            for same in _by_shape([p for p in group["params"] if p.grad is not None]):
                updates = torch.stack([self._direction(p, group["momentum"]) for p in same])
                count, rows, columns = updates.shape
                parts = updates.reshape(count * group["parts"], rows // group["parts"], columns)
                scale = 0.2 * max(parts.shape[1:]) ** 0.5
                steps = orthogonalized(parts).reshape(count, rows, columns)
                for parameter, step in zip(same, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(step.reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient looked ahead along its running mean, as a matrix."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum).flatten(1)


def build_optimizers(model: UniAS, config: TrainConfig, device: torch.device) -> list[torch.optim.Optimizer]:
    """One or two of them; each group's ``rate`` is what its "lr" starts from.

    With Muon: the matrices of attention, feed-forward steps, convolutions and heads; AdamW keeps queries, positions, level
    embedding, norms and biases.
    """
    matrices = _matrices(model) if config.optimizer == "muon" else {}
    taken = {id(p) for parameters in matrices.values() for p in parameters}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [p for p in model.parameters() if id(p) not in taken],
            lr=config.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
    ]
    if matrices:
        optimizers.append(Muon(matrices, config.muon_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["rate"] = group["lr"]
    return optimizers


def _matrices(model: UniAS) -> dict[int, list[Tensor]]:
    """{parts: weights}. Query, key and value are three; a head of more than 512 rows is cut into blocks of 256, which costs
    a fifth; the query's spatial weight, one kernel of 2 x 7 x 7, is none."""
    spatial = getattr(model.query, "spatial_weight", nn.Identity())
    left_out = set(spatial.modules())
    found: dict[int, list[Tensor]] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            found.setdefault(3, []).append(module.in_proj_weight)
        elif isinstance(module, (nn.Linear, nn.Conv2d)) and module not in left_out:
            rows = len(module.weight)
            cut = rows > 512 and rows % 256 == 0 and module.weight[0].numel() > 512
            found.setdefault(rows // 256 if cut else 1, []).append(module.weight)
    return found


def _by_shape(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    shapes: dict[tuple[int, int], list[Tensor]] = {}
    for parameter in parameters:
        shapes.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
    return list(shapes.values())
