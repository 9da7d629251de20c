"""The family of fusions: what it comes to in the cases that can be said by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from unias.config import LEVELS
from unias.inference.predictor import Model
from unias.maps.detector import Detector
from unias.maps.fusion import NEARLY_PRODUCT, RULES, Rule, mixed, power_mean, usable


def ratios(seed: int = 0, levels: tuple[int, ...] = LEVELS) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {level: torch.rand((3, 8, 8), generator=generator) * 3 + 0.05 for level in levels}


def fused(values: dict[int, Tensor], rule: Rule) -> Tensor:
    count = len(next(iter(values.values())))
    return power_mean(values, torch.tensor(rule.weights).expand(count, -1), torch.full((count,), rule.power))


def test_power_one_is_the_weighted_mean() -> None:
    values = ratios()
    expected = (2 * values[4] + 3 * values[3] + 3 * values[2] + values[1]) / 9
    assert torch.allclose(fused(values, Rule((2, 3, 3, 1), 1.0)), expected, rtol=1e-5)


def test_a_small_power_is_nearly_the_product() -> None:
    values = ratios()
    geometric = torch.stack(list(values.values())).log().mean(dim=0).exp()
    found = fused(values, Rule((1, 1, 1, 1), NEARLY_PRODUCT))
    assert (found / geometric - 1).abs().max() < 0.06
    ranks = [one.flatten(1).argsort(dim=1).argsort(dim=1).float() for one in (geometric, found)]
    assert (ranks[0] - ranks[1]).abs().mean() < 1  # of 64: hardly more than neighbours change places


def test_the_same_everywhere_is_that_number() -> None:
    values = {level: torch.full((2, 4, 4), 1.7) for level in LEVELS}
    for rule in RULES:
        assert torch.allclose(fused(values, rule), torch.tensor(1.7), rtol=1e-4)


def test_each_photo_has_its_own_rule() -> None:
    values = ratios()
    weights = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    found = power_mean(values, weights, torch.tensor([1.0, 1.0, 0.7]))
    for row, level in enumerate((4, 3, 1)):
        assert torch.allclose(found[row], values[level][row], rtol=1e-5)


def test_levels_left_out_of_the_model() -> None:
    values = ratios(levels=(3, 1))
    expected = (3 * values[3] + values[1]) / 4
    assert torch.allclose(fused(values, Rule((2, 3, 3, 1), 1.0)), expected, rtol=1e-5)


@pytest.mark.parametrize("levels", [LEVELS, (4, 3), (1,)])
def test_usable_rules_differ_and_weigh_something(levels: tuple[int, ...]) -> None:
    rules = usable(levels)
    values = ratios(levels=levels)
    maps = [fused(values, rule) for rule in rules]
    assert all(torch.isfinite(one).all() for one in maps)
    if len(levels) > 1:
        assert not any(torch.allclose(a, b) for place, a in enumerate(maps) for b in maps[place + 1 :])
    assert len(usable(LEVELS)) == len(RULES)
    assert len(usable(LEVELS, wide=True)) == 2 * len(RULES)
    assert len(usable((1,))) == 1


def test_each_product_is_blurred_or_not(model: Model) -> None:
    """The last blur of ``fuse`` is that of ``maps_by``, product by product; photos of others stay as they were."""
    detector = copy.deepcopy(model.detector)
    assert isinstance(detector, Detector)
    generator = torch.Generator().manual_seed(0)
    levels = {level: torch.rand((2, 64, 64), generator=generator) for level in LEVELS}
    product = torch.tensor([0, 1])
    sharp = Rule((1.0, 1.0, 1.0, 1.0), 0.7)
    for place, wide in ((0, 0.0), (1, 1.0)):
        detector.statistics.set_rule(place, sharp._replace(wide=wide))
        assert detector.statistics.rule(place).wide == wide
    ratios = detector.ratios(levels, product)
    found = detector.fuse(levels, product)
    plain, blurred, between = detector.maps_by(ratios, (sharp, sharp._replace(wide=1.0), sharp._replace(wide=0.25)))
    assert torch.allclose(found[0], plain[0])
    assert torch.allclose(found[1], blurred[1])
    assert blurred[1].std() < 0.5 * plain[1].std()
    assert blurred[1].mean() == pytest.approx(float(plain[1].mean()), rel=0.02)
    assert torch.allclose(between, 0.75 * plain + 0.25 * blurred, rtol=1e-5)


def test_rules_mixed() -> None:
    one, other = Rule((2, 3, 3, 1), 0.05), Rule((0, 0, 1, 1), 0.7, 1.0)
    alone = mixed([one, other], [1, 0], LEVELS)
    assert alone.weights == pytest.approx((2 / 9, 3 / 9, 3 / 9, 1 / 9))
    assert (alone.power, alone.wide) == pytest.approx((0.05, 0))
    half = mixed([one, other], [0.5, 0.5], LEVELS)
    assert half.weights == pytest.approx((1 / 9, 1.5 / 9, 1.5 / 9 + 0.25, 0.5 / 9 + 0.25))
    assert (half.power, half.wide) == pytest.approx(((0.05 * 0.7) ** 0.5, 0.5))
    assert mixed([one, other], [0.5, 0.5], (3, 1)).weights == pytest.approx((0, 3 / 8, 0, 1 / 8 + 0.5))
    values = ratios()
    same = mixed([one] * 3, [0.2, 0.3, 0.5], LEVELS)
    assert torch.allclose(fused(values, same), fused(values, one), rtol=1e-4)
