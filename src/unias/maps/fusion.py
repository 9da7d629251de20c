"""How the levels of one photo become one map: one family of rules, a product at a time.

A rule is a weighted power mean of the level maps, each over what is usual for its product. Power 1 is a sum, a small power is
close to the product (the paper's fusion, of the levels it weighs alike); weights of 0 leave levels out. Which rule suits a
product depends on how large its defects are and how well each level learned its good parts; ``calibration.fusion`` chooses
without labels, and mixes what comes close.

Legend: N photos, P products, h x h the size of level maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unias.config import LEVELS

NEARLY_PRODUCT = 0.05  # a power; the mean then differs from the geometric one by less than the maps' own noise
LEAST = 1e-6


class Rule(NamedTuple):
    """weights of levels 4, 3, 2, 1 (coarse to fine); power > 0; wide: share of the fused map blurred once more in the result,
    0 to 1."""

    weights: tuple[float, float, float, float]
    power: float
    wide: float = 0.0


# What the choice is among: all levels, the coarse ones, the fine ones, the middle; as a product and as a sum of powers.
WEIGHTS = (
    (2.0, 3.0, 3.0, 1.0),
    (1.0, 1.0, 1.0, 1.0),
    (0.0, 3.0, 3.0, 1.0),
    (3.0, 3.0, 1.0, 0.0),
    (0.0, 1.0, 1.0, 1.0),
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 1.0, 1.0, 0.0),
    (1.0, 1.0, 0.0, 0.0),
    (1.0, 1.0, 1.0, 0.0),
)
RULES = tuple(Rule(weights, power) for weights in WEIGHTS for power in (NEARLY_PRODUCT, 0.7))


def power_mean(ratios: Mapping[int, Tensor], weights: Tensor, power: Tensor) -> Tensor:
    """{level: (N, h, h)}, not negative -> (N, h, h), on the scale of the ratios.

    Args:
        ratios: level maps over what is usual. weights: (N, 4), columns for levels 4, 3, 2, 1; levels that are not there count
            nothing. power: (N,), > 0.
    """
    exponent = power[:, None, None]
    total = torch.stack([weights[:, LEVELS.index(level)] for level in ratios]).sum(dim=0)
    mean = torch.zeros_like(next(iter(ratios.values())))
    for level, values in ratios.items():
        share = (weights[:, LEVELS.index(level)] / total)[:, None, None]
        mean = mean + share * values.clamp_min(LEAST) ** exponent
    return mean ** (1 / exponent)


def usable(levels: tuple[int, ...], wide: bool = False) -> list[Rule]:
    """The rules that weigh at least one of the levels, without those that come to the same; with the blurred ones if ``wide``."""
    found: dict[tuple[tuple[float, ...], float, float], Rule] = {}
    for rule in (*RULES, *(rule._replace(wide=1.0) for rule in RULES if wide)):
        own = [rule.weights[LEVELS.index(level)] for level in levels]
        if sum(own) > 0:
            power = (
                rule.power if sum(weight > 0 for weight in own) > 1 else 1.0
            )  # of one level alone any power is the same
            found.setdefault((tuple(weight / sum(own) for weight in own), power, rule.wide), rule)
    return list(found.values())


def mixed(rules: Sequence[Rule], shares: Sequence[float], levels: Sequence[int]) -> Rule:
    """One rule between others: weights (of ``levels``, each rule's with a sum of 1) and blur averaged, powers as logarithms.

    Args:
        shares: of the rules, not negative, their sum 1.
    """
    places = [LEVELS.index(level) for level in levels]
    weights = [0.0] * len(LEVELS)
    for rule, share in zip(rules, shares, strict=True):
        total = sum(rule.weights[place] for place in places)
        for place in places:
            weights[place] += share * rule.weights[place] / total
    power = math.exp(sum(share * math.log(rule.power) for rule, share in zip(rules, shares, strict=True)))
    wide = sum(share * rule.wide for rule, share in zip(rules, shares, strict=True))
    first, second, third, fourth = weights
    return Rule((first, second, third, fourth), power, min(1.0, wide))
