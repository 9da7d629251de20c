"""The choice of a fusion: its measure against scikit-learn, its masks, and that it finds the level that sees the defects."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import unias
from unias.calibration.fusion import VARIANTS, _drawn, choose_rule, draw_on_part, halved, precision
from unias.data.decode import read_photo, to_display, to_input
from unias.data.defects import KINDS
from unias.data.layouts import scan
from unias.maps.detector import Detector
from unias.maps.fusion import NEARLY_PRODUCT

pytestmark = pytest.mark.usefixtures("one_thread")


def test_precision_of_each_photo_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((5, 12, 12)).astype(np.float32)
    truth = rng.random((5, 12, 12)) < 0.2
    found = precision(torch.from_numpy(maps), torch.from_numpy(truth))
    expected = [average_precision_score(t.ravel(), m.ravel()) for t, m in zip(truth, maps, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_halved_masks_are_never_empty() -> None:
    masks = torch.zeros((3, 8, 8), dtype=torch.bool)
    masks[0, 3, 3] = True  # a quarter of one cell
    masks[1, 2:6, 2:6] = True
    masks[2, 1:3, 0:8] = True  # half of each cell in two rows
    found = halved(masks)
    assert found.sum(dim=(1, 2)).tolist() == [1, 4, 8]
    assert found[0, 1, 1]
    assert found[1, 1:3, 1:3].all()


def test_defects_lie_on_the_part_and_are_no_larger_than_it() -> None:
    """A bar of 24 pixels in a photo of 256: no defect may be farther from it than its own square reaches, or larger than that."""
    photo = np.full((256, 256, 3), 200, dtype=np.uint8)
    photo[20:236, 100:124] = 40
    for seed, kind in enumerate(KINDS):
        drawn, mask = draw_on_part(photo, kind, np.random.default_rng(seed))
        rows, columns = np.nonzero(mask)
        assert len(rows) > 0
        assert np.array_equal((drawn != photo).any(axis=2), mask)
        assert columns.min() > 100 - 40
        assert columns.max() < 124 + 40
        assert max(np.ptp(rows), np.ptp(columns)) < 40


def test_drawn_on_every_photo_in_every_opacity(tiny_data: Path, tiny_config: Any) -> None:
    samples = scan(tiny_data).train()[:3]
    batches = list(_drawn(samples, tiny_config, seed=0))
    images, masks = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert images.shape == (3 * VARIANTS, 3, 128, 128)
    assert images.dtype == np.float32
    assert masks.any(axis=(1, 2)).all()
    assert np.array_equal(masks[0::2], masks[1::2])  # the same defect, paler
    clean = np.stack([to_input(read_photo(to_display(read_photo(sample.path), 256)), 128) for sample in samples])
    strong, weak = (np.abs(images[place::2] - clean).mean(axis=(1, 2, 3)) for place in (0, 1))
    assert (weak < 0.7 * strong).all()
    again = np.concatenate([one for one, _ in _drawn(samples, tiny_config, seed=0)])
    assert np.array_equal(images, again)


def test_the_level_that_sees_the_defects_is_chosen(
    model: Any, tiny_data: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Level maps that are noise but for one, which shows where photos differ from their own blur: rules with it win."""
    detector = copy.deepcopy(model.detector)
    assert isinstance(detector, Detector)
    detector.statistics.level_mean.fill_(1)
    detector.statistics.local_share.fill_(0)
    samples = [s for s in scan(tiny_data).train() if s.product == model.products[0].name]
    truths: list[torch.Tensor] = []

    def drawn(*rest: Any) -> Any:
        for images, masks in _drawn(*rest):
            truths.append(torch.from_numpy(masks))
            yield images, masks

    def levels(reconstruction: Any) -> dict[int, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        noise = {k: torch.rand((len(truths[-1]), 64, 64), generator=generator) + 0.5 for k in (4, 3, 2, 1)}
        return {**noise, 1: noise[1] + 0.7 * halved(truths[-1])}

    monkeypatch.setattr("unias.calibration.fusion._drawn", drawn)
    monkeypatch.setattr(detector, "levels_of", levels)
    rule = choose_rule(detector, samples, 0, tiny_config, photos=4, seed=0)
    assert rule.weights[3] > 1 / 3  # of 1/9 by the settings; no rule of the list has more than 1/2
    assert sum(rule.weights) == pytest.approx(1)


def test_training_keeps_what_it_chose(model: Any, model_folder: Path) -> None:
    """Each product's rule is a mixture of the list's, stored, and read back."""
    statistics = unias.load(model_folder, device="cpu").detector.statistics
    for name in ("weights", "power", "wide"):
        assert torch.equal(getattr(statistics, name), getattr(model.detector.statistics, name))
    rules = [statistics.rule(place) for place in range(len(model.products))]
    assert len(set(rules)) == len(rules)  # each its own
    for rule, info in zip(rules, model.products, strict=True):
        assert sum(rule.weights) == pytest.approx(1)
        assert NEARLY_PRODUCT <= rule.power <= 0.7
        assert 0 < rule.wide < 1
        assert info.blurred == round(rule.wide, 4)
    assert model.config.maps.drawn == 2
