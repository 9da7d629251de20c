"""Which turns a product allows: found on photos whose symmetry is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unias.backbones.timm_backbone import build_backbone
from unias.config import Config
from unias.data.layouts import scan
from unias.progress import Progress
from unias.training import symmetry
from unias.training.features import Features
from unias.training.symmetry import allowed_turns, largest_group

CPU = torch.device("cpu")
Paint = Callable[[np.random.Generator], np.ndarray]


def lying_still(rng: np.random.Generator) -> np.ndarray:
    """One part at one place, lit from a corner: no turn of it is another good photo."""
    rows, columns = np.mgrid[0:96, 0:96]
    picture = 40 + rows + 0.5 * columns
    picture[10:30, 8:70] = 240
    picture[40:90, 60:80] = 10
    return picture + rng.normal(0, 3, picture.shape)


def everywhere(rng: np.random.Generator) -> np.ndarray:
    """Bars at chance places, along both sides: every turn could be another good photo."""
    picture = rng.normal(120, 3, (96, 96))
    for _ in range(12):
        top, left = rng.integers(0, 80, 2)
        height, width = (30, 6) if rng.random() < 0.5 else (6, 30)
        picture[top : top + height, left : left + width] = rng.choice([20, 230])
    return picture


def striped(rng: np.random.Generator) -> np.ndarray:
    """Upright stripes at chance places: flips and half rotations, no quarter."""
    line = np.repeat(rng.choice([30.0, 120.0, 220.0], 24), 4)
    return np.tile(line, (96, 1)) + rng.normal(0, 3, (96, 96))


def save(root: Path, product: str, paint: Paint, count: int) -> None:
    folder = root / product / "train" / "good"
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = paint(np.random.default_rng([len(product), index]))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:02}.png")


def test_what_products_allow(tmp_path: Path, tiny_config: Config) -> None:
    for product, paint in {"still": lying_still, "everywhere": everywhere, "striped": striped}.items():
        save(tmp_path, product, paint, 24)
    save(tmp_path, "too few", everywhere, 7)
    samples = scan(tmp_path).train()
    backbone = build_backbone(tiny_config.backbone)
    allowed = allowed_turns(samples, backbone, tiny_config, CPU, Progress("silent"))
    assert allowed["still"] == (0,)
    assert allowed["everywhere"] == tuple(range(8))
    assert allowed["striped"] == (0, 2, 4, 6)
    assert allowed["too few"] == (0,)
    assert allowed == allowed_turns(samples, backbone, tiny_config, CPU, Progress("silent"))


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([1, 1, 1, 1, 1, 1, 1, 1], (0, 1, 2, 3, 4, 5, 6, 7)),
        ([1, 2, 2, 2, 2, 2, 2, 2], (0,)),
        ([1, 2, 1.04, 2, 2, 2, 2, 2], (0, 2)),
        ([1, 1.04, 2, 2, 2, 2, 2, 2], (0,)),  # a quarter rotation twice is a half one, which is too far
        ([1, 2, 2, 2, 1.04, 1.02, 2, 2], (0, 5)),  # either flip, not both: both make a quarter rotation
        ([1, 2, 1.04, 2, 1.04, 2, 1.04, 2], (0, 2, 4, 6)),
    ],
)
def test_largest_group(distances: list[float], expected: tuple[int, ...]) -> None:
    assert largest_group(distances) == expected


def test_turned_features_are_those_of_turned_photos(tmp_path: Path, tiny_config: Config) -> None:
    """Through the cache and without it; and the entry is another one than that of the photos as they are."""
    save(tmp_path, "nut", everywhere, 2)
    samples = scan(tmp_path).train()
    backbone = build_backbone(tiny_config.backbone)

    def of(photos: list, turns: list[int] | None) -> Features:
        return Features(photos, backbone, tiny_config, CPU, Progress("silent"), turns)

    rows = Features([samples[0]] * 2 + [samples[1]], backbone, tiny_config, CPU, Progress("silent"), [5, 0, 3])
    (direct,) = list(rows.batches(""))
    images = [symmetry.load_input(sample.path, tiny_config.size)[0] for sample in rows.samples]
    expected = backbone(
        torch.from_numpy(np.stack([symmetry.turned(i, t) for i, t in zip(images, [5, 0, 3], strict=True)]))
    )
    filled, plain = rows.fill(""), of(rows.samples, None).fill("")
    for level, values in expected.items():
        assert torch.equal(direct[level], values)
        np.testing.assert_array_equal(filled[level], values.numpy().astype(np.float16))
        assert not np.array_equal(filled[level][0], plain[level][0])
        np.testing.assert_array_equal(filled[level][1], plain[level][1])
