"""Views of a photo and their maps blended: every place once, no seams, nothing that the views do not say."""

from __future__ import annotations

import pytest
import torch

from unias.config import Config, Tiling
from unias.errors import UsageError
from unias.maps.tiling import Blend, blend_weights, photo_means, unfolded

TILINGS = [Tiling(1, 128, 0), Tiling(2, 128, 0), Tiling(2, 128, 16), Tiling(3, 128, 64), Tiling(2, 224, 28)]
ids = [f"{t.grid}x{t.size}-{t.overlap}" for t in TILINGS]


@pytest.mark.parametrize("tiling", TILINGS, ids=ids)
def test_views_cover_the_photo(tiling: Tiling) -> None:
    """Written back where they were cut, they give the photo again."""
    side, size = tiling.side, tiling.size
    photos = torch.arange(2 * 3 * side * side, dtype=torch.float32).view(2, 3, side, side)
    views = unfolded(photos, tiling)
    assert views.shape == (2 * tiling.views, 3, size, size)
    again = torch.full_like(photos, -1)
    for number in range(tiling.views):
        top, left = (tiling.starts[place] for place in divmod(number, tiling.grid))
        again[:, :, top : top + size, left : left + size] = views[number :: tiling.views]
    assert torch.equal(again, photos)
    assert tiling.starts[-1] + size == side


@pytest.mark.parametrize("tiling", TILINGS, ids=ids)
@pytest.mark.parametrize("stride", [1, 2])
def test_weights_sum_to_one_everywhere(tiling: Tiling, stride: int) -> None:
    weights = blend_weights(tiling, stride)
    assert weights.shape == (tiling.views, tiling.size // stride, tiling.size // stride)
    assert float(weights.min()) >= 0
    blended = Blend(tiling, stride)(torch.full((3 * tiling.views, tiling.size // stride, tiling.size // stride), 7.0))
    assert blended.shape == (3, tiling.side // stride, tiling.side // stride)
    torch.testing.assert_close(blended, torch.full_like(blended, 7.0))


@pytest.mark.parametrize("tiling", TILINGS, ids=ids)
def test_what_all_views_agree_on_comes_back(tiling: Tiling) -> None:
    """Cut and blended, a map is itself."""
    maps = torch.rand(2, tiling.side, tiling.side, generator=torch.Generator().manual_seed(0))
    blended = Blend(tiling, 1)(unfolded(maps[:, None], tiling)[:, 0])
    torch.testing.assert_close(blended, maps, rtol=1e-5, atol=1e-6)


def test_no_seams_where_views_disagree() -> None:
    """Views that differ by 1 fade into one another over the overlap; laid side by side they would jump by 1."""
    tiling = Tiling(2, 128, 32)
    views = torch.tensor([0.0, 1.0, 1.0, 0.0])[:, None, None].expand(4, 64, 64)
    (blended,) = Blend(tiling, 2)(views)
    steps = max(float(blended.diff(dim=axis).abs().max()) for axis in (0, 1))
    assert steps < 1.1 * torch.pi / (2 * 16)  # the steepest place of a raised cosine over 16 pixels
    for value, rows, columns in ((0, slice(0, 48), slice(0, 48)), (1, slice(0, 48), slice(64, None))):
        assert torch.equal(blended[rows, columns], torch.full_like(blended[rows, columns], value))


def test_each_photo_has_its_own_views() -> None:
    tiling = Tiling(2, 128, 16)
    maps = torch.zeros(3, 4, 64, 64)
    maps[1] = 5
    blended = Blend(tiling, 2)(maps.flatten(0, 1))
    assert blended.amax(dim=(1, 2)).tolist() == pytest.approx([0, 5, 0])
    pooled = torch.arange(8.0).view(8, 1)
    assert photo_means(pooled, 4).flatten().tolist() == [1.5, 5.5]
    assert photo_means(pooled, 1) is pooled


def test_settings() -> None:
    config = Config(size=224, tile=2)
    assert config.tiling == Tiling(2, 224, 28)
    assert config.input_size == 420
    assert Config(size=224).input_size == 224
    assert Config(size=224, tile=2, tile_overlap=0.0).input_size == 448
    assert all(Config(size=160, tile=3, tile_overlap=share / 100).tiling.overlap % 2 == 0 for share in range(51))
    for wrong in ({"tile": 0}, {"tile": 9}, {"tile_overlap": 0.6}, {"tile_overlap": -0.1}):
        with pytest.raises(UsageError, match="tile"):
            Config(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="patchcore sees photos whole"):
        Config(system="patchcore", tile=2)
