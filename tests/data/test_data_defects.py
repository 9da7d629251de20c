"""Defects drawn into photos: the mask is exactly what changed, whatever the photo, the size and the chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unias.data import defects
from unias.data.defects import KINDS, MAX_AREA, MIN_PIXELS, VISIBLE, draw_defect
from unias.data.textures import TEXTURES, blob, cloud, texture
from unias.errors import UsageError

SIZES = [(32, 32), (33, 97), (200, 40), (128, 128)]
PHOTOS = ["grey", "colour", "noise", "black", "white", "flat"]


def photo_of(name: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if name == "colour":
        return texture((height, width), rng)
    if name == "grey":
        return np.repeat(texture((height, width), rng)[..., :1], 3, axis=2)
    if name == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.full((height, width, 3), {"black": 0, "white": 255, "flat": 110}[name], np.uint8)


def check(photo: np.ndarray, result: np.ndarray, mask: np.ndarray) -> None:
    assert result.dtype == np.uint8
    assert result.shape == photo.shape
    assert mask.dtype == np.bool_
    assert mask.shape == photo.shape[:2]
    change = np.abs(result.astype(int) - photo.astype(int)).max(axis=2)
    np.testing.assert_array_equal(mask, change >= VISIBLE)
    np.testing.assert_array_equal(result[~mask], photo[~mask])
    assert MIN_PIXELS <= mask.sum() <= MAX_AREA * mask.size
    assert change[mask].mean() >= 14


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_exact_and_the_rest_untouched(kind: str, name: str, size: tuple[int, int]) -> None:
    photo = photo_of(name, *size)
    before = photo.copy()
    result, mask, drawn = draw_defect(photo, np.random.default_rng(5), kind)
    assert drawn == kind
    np.testing.assert_array_equal(photo, before)
    check(photo, result, mask)


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from((*KINDS, None)),
    name=st.sampled_from(PHOTOS),
    height=st.integers(32, 110),
    width=st.integers(32, 110),
    donated=st.booleans(),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_any_seed(seed: int, kind: str | None, name: str, height: int, width: int, donated: bool) -> None:
    photo = photo_of(name, height, width, seed)
    donors = [photo_of("colour", 40, 60, seed), photo_of("grey", 50, 33, seed)[..., 0]] if donated else None
    result, mask, drawn = draw_defect(photo, np.random.default_rng(seed), kind, donors)
    assert drawn in KINDS
    check(photo, result, mask)
    if name != "colour" and name != "noise":  # grey in, grey out
        assert (result == result[..., :1]).all()


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_same_generator_same_defect(kind: str | None) -> None:
    photo = photo_of("colour", 96, 96)
    first, second, other = (draw_defect(photo, np.random.default_rng(seed), kind) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[2] == second[2]
    assert (first[1] != other[1]).any()


def test_every_kind_comes_by_chance_and_sizes_differ() -> None:
    photo, rng = photo_of("flat", 96, 96), np.random.default_rng(0)
    drawn = [draw_defect(photo, rng) for _ in range(80)]
    assert {kind for _, _, kind in drawn} == set(KINDS)
    areas = np.array([mask.mean() for _, mask, _ in drawn])
    assert areas.max() > 8 * areas.min()


def test_masks_of_patches_have_no_chance_holes() -> None:
    """A pasted texture equals the photo here and there; the mask must not be peppered with these pixels."""
    photo = photo_of("noise", 128, 128)
    for seed in range(6):
        _, mask, _ = draw_defect(photo, np.random.default_rng(seed), "foreign")
        padded = np.pad(mask, 1)
        around = sum(padded[r : r + 128, c : c + 128] for r, c in ((0, 1), (2, 1), (1, 0), (1, 2)))
        assert ((~mask) & (around == 4)).sum() <= 0.002 * mask.sum() + 1


def test_foreign_patch_is_cut_from_the_donor() -> None:
    photo = photo_of("flat", 96, 96)
    donor = np.zeros((50, 50, 3), np.uint8)
    donor[..., 0] = 250
    photo[0, 0] = (110, 111, 110)  # a colour photo, so that the donor keeps its colour
    result, mask, _ = draw_defect(photo, np.random.default_rng(1), "foreign", [donor])
    middle = result[mask].mean(axis=0)
    assert middle[0] > 160
    assert middle[1] < 80


def test_fallback_where_no_attempt_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "ATTEMPTS", 0)
    for name in PHOTOS:
        for size in SIZES:
            photo = photo_of(name, *size)
            result, mask, kind = draw_defect(photo, np.random.default_rng(2), "crack")
            assert kind == "crack"
            check(photo, result, mask)


@pytest.mark.parametrize(
    "photo",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((31, 64, 3), np.uint8),
        np.zeros((64, 64, 3), np.float32),
    ],
)
def test_wrong_photos_are_refused(photo: np.ndarray) -> None:
    with pytest.raises(UsageError, match="uint8"):
        draw_defect(photo, np.random.default_rng(0))


def test_unknown_kind_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"'dirt'.*scratch, stain"):
        draw_defect(photo_of("flat", 64, 64), np.random.default_rng(0), "dirt")


@pytest.mark.parametrize("kind", list(TEXTURES))
def test_textures(kind: str) -> None:
    for size in SIZES:
        picture = texture(size, np.random.default_rng(1), kind)
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.uint8
        assert picture.astype(float).std() > 8
        np.testing.assert_array_equal(picture, texture(size, np.random.default_rng(1), kind))


def test_blob_covers_the_area_asked_for() -> None:
    for area in (0.01, 0.05, 0.1):
        opacity = blob((120, 200), np.random.default_rng(0), area, soft=0.05)
        assert abs(float((opacity >= 0.5).mean()) - area) < 0.002
        assert opacity.min() >= 0
        assert opacity.max() <= 1


def test_cloud_is_smooth_and_centred() -> None:
    field = cloud((200, 150), np.random.default_rng(0), 12)
    assert field.shape == (200, 150)
    assert abs(float(field.mean())) < 0.15
    assert float(np.abs(np.diff(field, axis=0)).max()) < 0.4
