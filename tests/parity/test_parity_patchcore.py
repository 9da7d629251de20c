"""PatchCore against the authors' code (shared parity/rd4ad_draem_patchcore): embedding, coreset, neighbours, map, scores."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from shared_reference import head_tensor, load_reference, noise, relative_error
from torch import Tensor

from unias.systems.nets.patchcore import PatchCore, anomaly_map, authors_patches, coreset, image_score
from unias.systems.nets.smoothing import blurred

pytestmark = pytest.mark.parity
SYSTEM = "rd4ad_draem_patchcore"
TOLERANCE = 1e-5


def embedded(which: str) -> Tensor:
    shapes = {"train": ((4, 512, 8, 8), (4, 1024, 4, 4)), "test": ((2, 512, 8, 8), (2, 1024, 4, 4))}[which]
    fine, coarse = (
        torch.from_numpy(noise(f"patchcore.{which}.layer{i}", shape).astype(np.float32))
        for i, shape in zip((2, 3), shapes, strict=True)
    )
    return authors_patches(fine, coarse)


def test_every_stage() -> None:
    reference, arrays = load_reference(SYSTEM)
    scalars = reference["scalars"]
    train = embedded("train").flatten(0, 2)
    projection = head_tensor("patchcore.projection", [128, 1024])
    chosen = coreset(train, 25, projection, scalars["patchcore.coreset_start_points"])
    assert chosen == arrays["patchcore.coreset_indices"].tolist()
    memory = PatchCore()
    memory.bank = train[chosen]
    test = embedded("test")
    distances, index = memory.nearest(test.flatten(0, 2))
    assert np.array_equal(index.unflatten(0, (2, 8, 8)).numpy(), arrays["patchcore.nearest"])
    squared = distances.unflatten(0, (2, 8, 8))
    assert torch.equal(memory(test), squared)
    found = {
        "patchcore.embedding.train": train,
        "patchcore.squared_distance": squared,
        "patchcore.map": anomaly_map(squared, 64),
    }
    for name, value in found.items():
        given = next(key for key in arrays if key.split("|")[0] == name)
        error = relative_error(value.numpy(), given, arrays[given])
        print(f"{given} {error:.1e}")
        assert error <= TOLERANCE, name
    assert image_score(squared).tolist() == pytest.approx(scalars["patchcore.image_score"], rel=TOLERANCE)


@pytest.mark.parametrize("shape", [(64, 64), (9, 40), (3, 5)])
def test_blur_is_scipys(shape: tuple[int, int]) -> None:
    """On maps smaller than the kernel as well."""
    given = np.random.default_rng(0).normal(size=shape)
    ours = blurred(torch.from_numpy(given)[None], 4.0)[0].numpy()
    assert np.abs(ours - gaussian_filter(given, 4.0)).max() < 1e-12


def test_as_many_patches_as_fit_into_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by ten seconds when it is looked at: 50 picks are timed, and what is left is filled at their pace."""
    vectors = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    whole = coreset(vectors, 200, None, [0])
    ticks = iter(range(0, 10_000, 10))
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr("unias.systems.nets.patchcore.time", clock)
    # began 0, timed from 10, looked at 20: 50 picks in 10 seconds, 16 seconds of 36 left
    assert coreset(vectors, 200, None, [0], seconds=36.0) == whole[: 50 + 80]
    assert coreset(vectors, 200, None, [0], seconds=0.0) == whole[:50]


def test_filled_bank_has_a_patch_of_every_kind() -> None:
    """25 kinds of patches, 40 of most and 2 of the last: 30 codes reach all of them, and the same again for the same seed."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.randn(25, 160, generator=generator)
    vectors = torch.cat(
        [k + 0.01 * torch.randn(2 if i == 24 else 40, 160, generator=generator) for i, k in enumerate(kinds)]
    )
    memory = PatchCore(ratio=0.1, most=30)
    memory.fill(vectors, seed=3)
    assert memory.bank.shape == (30, 160)
    again = PatchCore(ratio=0.1, most=30)
    again.fill(vectors, seed=3)
    assert torch.equal(memory.bank, again.bank)
    distances, index = memory.nearest(memory.bank)
    assert index.tolist() == list(range(30))
    assert float(distances.max()) == 0.0
    assert float(memory.nearest(vectors)[0].max()) < 0.2 < float(torch.pdist(kinds).min()) ** 2
