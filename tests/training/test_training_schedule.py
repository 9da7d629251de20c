"""What decides a training step: rate, order, augmentation, averaged weights, saved state, cached features."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unias.config import LEVELS, TrainConfig
from unias.data import cache
from unias.data.cache import bytes_needed, content_key, make_room, open_entry, write_entry
from unias.data.layouts import Sample
from unias.data.transforms import RECIPES, TURNS, Augmentation, after, closed, draw, turn_of, turned
from unias.errors import DataError
from unias.runtime import step_seed
from unias.training.batches import CachedBatches, TurnedFeatures, batch_indices, epoch_order, turned_rows
from unias.training.budget import Budget
from unias.training.checkpoint import STATE_FILE, TrainState, load_state, save_state
from unias.training.loop import Averaged
from unias.training.task import learning_rate


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- learning rate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "epochs"), [("step_released", [401, 400, 199]), ("step", [400, 400, 200])])
def test_epochs_at_each_rate(schedule: str, epochs: list[int]) -> None:
    """Released: stepped after each epoch with that epoch's number, so the first rate lasts one longer."""
    config = TrainConfig(schedule=schedule)
    per_epoch = 3
    rates = [learning_rate(step, None, per_epoch, config) for step in range(1000 * per_epoch)]
    assert all(len({f"{r:.3e}" for r in rates[e * per_epoch : (e + 1) * per_epoch]}) == 1 for e in range(1000))
    counted = Counter(f"{rate:.3e}" for rate in rates)
    assert counted == {f"{rate:.3e}": n * per_epoch for rate, n in zip((1e-4, 1e-5, 1e-6), epochs, strict=True)}
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_warm_up_does_not_know_the_total() -> None:
    config = TrainConfig(schedule="cosine", learning_rate=1e-3, warmup_steps=10)
    for step in range(10):
        rates = {learning_rate(step, total, 7, config) for total in (None, 5, 11, 10_000)}
        assert rates == {1e-3 * (step + 1) / 10}


def test_cosine_falls_from_the_full_rate_to_nearly_nothing() -> None:
    config = TrainConfig(schedule="cosine", learning_rate=1e-3, warmup_steps=10)
    rates = [learning_rate(step, 110, 7, config) for step in range(110)]
    assert max(rates) == rates[9] == rates[10] == 1e-3
    assert rates[60] == pytest.approx(5e-4)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-6
    assert learning_rate(500, 110, 7, config) == 0  # past the end it does not come up again


# --- order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (9, 3), (2, 8), (1, 1), (65, 64)])
def test_each_epoch_has_every_photo_once(count: int, batch_size: int) -> None:
    per_epoch = -(-count // batch_size)
    for epoch in range(3):
        batches = [batch_indices(count, batch_size, 0, epoch * per_epoch + place) for place in range(per_epoch)]
        assert sorted(np.concatenate(batches).tolist()) == list(range(count))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (per_epoch - 1)
        assert len(batches[-1]) == count - batch_size * (per_epoch - 1)  # the last one is kept, not dropped


def test_order_is_the_same_again_and_new_each_epoch() -> None:
    assert epoch_order(50, 1, 2).tolist() == epoch_order(50, 1, 2).tolist()
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_order_golden() -> None:
    """The same on every machine and numpy: a model stores its steps and seed, and --steps repeats the run."""
    assert epoch_order(8, 0, 0).tolist() == GOLDEN_ORDER


GOLDEN_ORDER = [1, 3, 7, 6, 0, 4, 2, 5]


def test_noise_seed_differs_by_seed_and_step() -> None:
    seeds = {step_seed(seed, step) for seed in range(5) for step in range(200)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert 0 <= step_seed(-1, 0) < 2**63


def test_cached_batches_begin_anywhere() -> None:
    """A resumed run sees what the whole run would have seen."""
    arrays = {4: np.arange(10 * 2, dtype=np.float16).reshape(10, 2, 1, 1)}
    batches = CachedBatches(arrays, [f"{n}.png" for n in range(10)], [0] * 4 + [1] * 6, 4, 3, torch.device("cpu"))
    assert batches.steps_per_epoch == 3
    whole = list(batches.steps(0, 7))
    late = list(batches.steps(4, 7))
    assert [batch.names for batch in whole[4:]] == [batch.names for batch in late]
    assert all(torch.equal(a.features[4], b.features[4]) for a, b in zip(whole[4:], late, strict=True))
    for batch in whole:
        numbers = [int(name.removesuffix(".png")) for name in batch.names]
        assert batch.features[4].dtype == torch.float32
        assert batch.features[4][:, 0, 0, 0].tolist() == [2.0 * number for number in numbers]
        assert batch.product.tolist() == [int(number > 3) for number in numbers]


# --- augmentation -------------------------------------------------------------------------------------------


def test_lists_are_the_papers() -> None:
    mvtec, visa = RECIPES["mvtec"], RECIPES["visa"]
    flipped = {"bottle", "carpet", "grid", "hazelnut", "metal_nut", "pill", "screw", "tile", "wood", "zipper"}
    assert mvtec["hflip"] == mvtec["vflip"] == flipped
    assert mvtec["rotate"] == {"bottle", "carpet", "hazelnut", "screw", "tile", "wood"}
    assert visa["hflip"] == {"candle", "macaroni2", "capsules", "chewinggum", "fryum", "macaroni1", "pipe_fryum"}
    assert visa["vflip"] == {"macaroni2", "capsules", "chewinggum", "fryum", "pipe_fryum"}
    assert visa["rotate"] == {"macaroni2", "capsules", "fryum"}
    assert not any(RECIPES["none"].values())


def test_hazelnut_without_the_released_slip() -> None:
    assert is_augmented("hazelnut", "mvtec")
    assert not any("hazel_nut" in names for recipe in RECIPES.values() for names in recipe.values())


def test_who_is_augmented() -> None:
    for product in ("cable", "capsule", "leather", "toothbrush", "transistor", "pcb1", "my product"):
        assert not is_augmented(product, "mvtec")
    assert is_augmented("candle", "visa")
    assert not is_augmented("bottle", "visa")
    assert not is_augmented("bottle", "none")


def is_augmented(product: str, recipe: str) -> bool:
    return Augmentation(recipe).turns(product) != (0,)


def augment(image: np.ndarray, product: str, recipe: str, rng: np.random.Generator) -> np.ndarray:
    return turned(image, Augmentation(recipe).draw(product, rng))


def picture() -> np.ndarray:
    return np.random.default_rng(0).random((3, 6, 6)).astype(np.float32)


def views(product: str, recipe: str, draws: int = 3000) -> Counter[bytes]:
    rng = np.random.default_rng(1)
    return Counter(augment(picture(), product, recipe, rng).tobytes() for _ in range(draws))


def test_products_on_no_list_stay_as_they_are() -> None:
    assert set(views("cable", "mvtec", 50)) == {picture().tobytes()}
    assert set(views("hazelnut", "none", 50)) == {picture().tobytes()}


def test_flips_have_probability_three_tenths_each() -> None:
    seen = views("grid", "mvtec")  # flips, no rotation
    image = picture()
    shares = {
        "neither": (image, 0.49),
        "horizontal": (image[:, :, ::-1], 0.21),
        "vertical": (image[:, ::-1], 0.21),
        "both": (image[:, ::-1, ::-1], 0.09),
    }
    for name, (view, share) in shares.items():
        assert seen[np.ascontiguousarray(view).tobytes()] / 3000 == pytest.approx(share, abs=0.03), name
    assert len(seen) == 4
    assert set(views("candle", "visa")) == {image.tobytes(), np.ascontiguousarray(image[:, :, ::-1]).tobytes()}


def test_rotations_are_equally_likely_and_every_view_is_reached() -> None:
    seen = views("screw", "mvtec")
    image = picture()
    turned = [np.ascontiguousarray(np.rot90(image, n, axes=(1, 2))) for n in range(4)]
    mirrored = [np.ascontiguousarray(view[:, :, ::-1]) for view in turned]
    assert set(seen) == {view.tobytes() for view in turned + mirrored}
    even = 0.58 / 4  # neither or both flips, then one of four turns
    assert all(seen[view.tobytes()] / 3000 == pytest.approx(even, abs=0.03) for view in turned)


def test_augmented_pictures_are_contiguous_and_the_source_is_untouched() -> None:
    image = picture()
    copy = image.copy()
    for seed in range(10):
        out = augment(image, "screw", "mvtec", np.random.default_rng(seed))
        assert out.flags["C_CONTIGUOUS"]
        assert out.shape == image.shape
        torch.from_numpy(out)
    assert np.array_equal(image, copy)


@pytest.mark.parametrize(
    ("product", "recipe", "expected"),
    [("grid", "mvtec", 4), ("screw", "mvtec", 8), ("cable", "mvtec", 1), ("candle", "visa", 2), ("screw", "none", 1)],
)
def test_turns_are_those_that_are_drawn(product: str, recipe: str, expected: int) -> None:
    augmentation = Augmentation(recipe)
    rng = np.random.default_rng(0)
    drawn = {augmentation.draw(product, rng) for _ in range(500)}
    assert set(augmentation.turns(product)) == drawn
    assert len(drawn) == expected
    assert augmentation.turns(product)[0] == 0


def test_turns_found_out_are_drawn_equally() -> None:
    augmentation = Augmentation("auto", {"nut": (0, 2, 6)})
    rng = np.random.default_rng(0)
    seen = Counter(augmentation.draw("nut", rng) for _ in range(3000))
    assert set(seen) == {0, 2, 6}
    assert all(count / 3000 == pytest.approx(1 / 3, abs=0.03) for count in seen.values())
    assert {augmentation.draw("bolt", rng) for _ in range(20)} == {0}


def test_turn_is_flips_then_rotations() -> None:
    image = picture()
    for hflip, vflip, rotations in itertools.product((False, True), (False, True), range(4)):
        expected = image[:, :, ::-1] if hflip else image
        expected = expected[:, ::-1] if vflip else expected
        expected = np.rot90(expected, rotations, axes=(1, 2))
        assert np.array_equal(turned(image, turn_of(hflip, vflip, rotations)), expected)


def test_turns_are_a_group() -> None:
    image = picture()
    for first, second in itertools.product(range(TURNS), repeat=2):
        assert np.array_equal(turned(turned(image, first), second), turned(image, after(first, second)))
    assert closed([]) == {0}
    assert closed([1]) == {0, 1, 2, 3}
    assert closed([4]) == {0, 4}
    assert len(closed([2, 4])) == 4
    assert closed([1, 4]) == set(range(TURNS))


def test_cached_turns_are_those_of_uncached_photos() -> None:
    """The same photos in the same turns as ``StepDataset`` would decode, from one entry as they are and one of turns."""
    samples = [Sample(Path(f"/{n}.png"), ("nut", "bolt")[n % 2], "train", "good", None, f"{n}.png") for n in range(6)]
    augmentation = Augmentation("auto", {"nut": (0, 3, 5)})
    rows = turned_rows(samples, augmentation)
    assert rows == [(0, 3), (0, 5), (2, 3), (2, 5), (4, 3), (4, 5)]
    plain = {4: np.arange(6, dtype=np.float16).reshape(6, 1, 1, 1) * 10}
    more = {4: np.array([10 * i + turn for i, turn in rows], dtype=np.float16).reshape(-1, 1, 1, 1)}
    names, products = [s.key for s in samples], [0, 1] * 3
    more_features = TurnedFeatures(more, samples, augmentation)
    batches = CachedBatches(plain, names, products, 4, 7, torch.device("cpu"), more_features)
    seen = set()
    for step, batch in enumerate(batches.steps(0, 40)):
        for value, key in zip(batch.features[4].flatten().tolist(), batch.names, strict=True):
            index = int(key.removesuffix(".png"))
            turn = augmentation.draw(samples[index].product, draw(7, step // 2, key))
            assert value == 10 * index + turn
            seen.add((index, turn))
    assert seen == {(index, 0) for index in range(6)} | set(rows)
    assert plain[4].flatten().tolist() == [0, 10, 20, 30, 40, 50]
    part = turned_rows(samples, augmentation, 4)
    assert part == [(0, 3), (0, 5), (4, 3), (4, 5)]
    fewer = {4: np.array([10 * i + turn for i, turn in part], dtype=np.float16).reshape(-1, 1, 1, 1)}
    some = TurnedFeatures(fewer, samples, augmentation, every=4)
    seen = set()
    for batch in CachedBatches(plain, names, products, 4, 7, torch.device("cpu"), some).steps(0, 40):
        seen |= set(batch.features[4].flatten().tolist())
    assert seen == {0, 3, 5, 10, 20, 30, 40, 43, 45, 50}  # photo 2 is never turned


def test_draws_depend_on_seed_epoch_and_photo_alone() -> None:
    first = draw(0, 3, "nut/1.png").random(4).tolist()
    draw(0, 3, "nut/2.png").random(100)
    assert draw(0, 3, "nut/1.png").random(4).tolist() == first
    others = [draw(1, 3, "nut/1.png"), draw(0, 4, "nut/1.png"), draw(0, 3, "nut/2.png"), draw(0, 3, "nut/ü.png")]
    assert all(rng.random(4).tolist() != first for rng in others)


# --- averaged weights ---------------------------------------------------------------------------------------


def test_averaged_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    averaged = Averaged(model, 0.9)
    expected = 0.0
    for step in range(200):
        with torch.no_grad():
            model.weight.fill_(float(step + 1))
        decay = min(0.9, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * (step + 1)
        averaged.update(model, step)
        assert float(averaged.values["weight"]) == pytest.approx(expected, rel=1e-5), step
    assert float(averaged.values["weight"]) == pytest.approx(200 - 9, rel=1e-3)  # a ramp, followed 9 steps behind
    assert float(model.weight.detach()) == 200.0  # the model itself is not touched


def test_averaging_is_off_at_decay_zero_and_skips_whole_numbers() -> None:
    model = torch.nn.BatchNorm1d(2)
    off = Averaged(model, 0.0)
    off.update(model, 0)
    assert off.values == {}
    on = Averaged(model, 0.5)
    model.num_batches_tracked.fill_(7)
    model.running_mean.fill_(1.0)
    on.update(model, 1000)
    assert on.values["num_batches_tracked"].dtype == torch.int64
    assert on.values["running_mean"].tolist() == [0.5, 0.5]


# --- the budget ---------------------------------------------------------------------------------------------


def test_steps_that_fit() -> None:
    budget = Budget(minutes=1.0, start=0.0, reserve=10.0)
    budget.elapsed = lambda: 20.0  # type: ignore[method-assign]
    assert budget.steps_that_fit(5, 0.5) == 5 + 60
    assert budget.steps_that_fit(5, 0.0) > 1_000_000
    budget.reserve = 100.0
    assert budget.steps_that_fit(5, 0.5) == 5  # never fewer than were already made
    assert budget.steps_that_fit(0, 0.5) == 1


# --- saved state --------------------------------------------------------------------------------------------


def state(fingerprint: str = "abc") -> TrainState:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return TrainState(
        7,
        100,
        fingerprint,
        model.state_dict(),
        [optimizer.state_dict()],
        {"weight": torch.ones(2, 3)},
        12.5,
        [3.0, 2.5],
    )


def test_state_round_trip(tmp_path: Path) -> None:
    before = state()
    save_state(tmp_path / "train_state", before)
    after = load_state(tmp_path / "train_state", "abc")
    assert after is not None
    plain = ("step", "total_steps", "fingerprint", "seconds", "losses")
    assert [getattr(after, name) for name in plain] == [getattr(before, name) for name in plain]
    assert all(torch.equal(after.model[key], value) for key, value in before.model.items())
    assert torch.equal(after.averaged["weight"], before.averaged["weight"])
    moments, saved = after.optimizers[0]["state"][0], before.optimizers[0]["state"][0]
    assert torch.equal(moments["exp_avg"], saved["exp_avg"])
    assert torch.equal(moments["exp_avg_sq"], saved["exp_avg_sq"])
    assert names(tmp_path / "train_state") == [STATE_FILE]


def test_state_of_another_run_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, state("abc"))
    with pytest.raises(DataError, match=r"state\.pt: belongs to a run with other data or settings"):
        load_state(tmp_path, "abd")


def test_no_state_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path, "abc") is None
    assert load_state(tmp_path / "none", "abc") is None


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped", "other"])
def test_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, state())
    file = tmp_path / STATE_FILE
    content = file.read_bytes()
    if damage == "other":
        torch.save({"step": 1}, file)
    else:
        place = content.index(b"fingerprint")
        flipped = content[:place] + b"\xff" * 8 + content[place + 8 :]
        file.write_bytes(
            {"empty": b"", "text": b"hello", "truncated": content[: len(content) // 2], "flipped": flipped}[damage]
        )
    with pytest.raises(DataError, match="cannot be read as a training state"):
        load_state(tmp_path, "abc")


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran",)


def test_code_in_a_state_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"step": Command()}, tmp_path / STATE_FILE)
    with pytest.raises(DataError):
        load_state(tmp_path, "abc")
    assert "this ran" not in capsys.readouterr().out


def test_new_state_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, state())

    def full(*_arguments: object, **_settings: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(DataError, match="the disk is full"):
            save_state(tmp_path, dataclasses.replace(state(), step=8))
    kept = load_state(tmp_path, "abc")
    assert kept is not None
    assert kept.step == 7


# --- the feature cache --------------------------------------------------------------------------------------

SHAPES: dict[int, tuple[int, ...]] = {4: (2, 1, 1), 3: (1, 2, 2), 2: (1, 1, 1), 1: (1, 1, 1)}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


AA, BB, CC, DD = (letter * 32 for letter in "abcd")


def batches(count: int, value: float = 0.0, batch: int = 2):
    for start in range(0, count, batch):
        size = min(batch, count - start)
        rows = np.arange(start, start + size, dtype=np.float32) + value
        yield {k: np.broadcast_to(rows.reshape(-1, 1, 1, 1), (size, *SHAPES[k])).copy() for k in SHAPES}


def fill(key: str, count: int = 5, bound: int = 1 << 20, value: float = 0.0):
    return write_entry(key, count, SHAPES, batches(count, value), bound)


def test_entry_round_trip(root: Path) -> None:
    assert cache.cache_root() == root
    assert open_entry(AA, 5, LEVELS) is None
    written = fill(AA)
    opened = open_entry(AA, 5, LEVELS)
    assert opened is not None
    assert set(opened) == set(written) == {1, 2, 3, 4}
    for level, array in opened.items():
        assert isinstance(array, np.memmap)
        assert array.dtype == np.float16
        assert array.shape == (5, *SHAPES[level])
        assert array[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert names(root) == [AA]


def test_key_follows_content_settings_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    key = content_key([one, two], {"size": 224})
    assert content_key([one, two], {"size": 224}) == key
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(b"one")
    assert content_key([moved, two], {"size": 224}) == key  # content, not names
    others = {
        content_key([two, one], {"size": 224}),
        content_key([one], {"size": 224}),
        content_key([one, two], {"size": 256}),
        content_key([one, two], {"size": 224, "bits": 12}),
    }
    one.write_bytes(b"onf")
    others.add(content_key([one, two], {"size": 224}))
    assert key not in others
    assert len(others) == 5


def test_entry_of_another_count_is_not_opened(root: Path) -> None:
    fill(AA, 5)
    assert open_entry(AA, 4, LEVELS) is None
    assert open_entry(AA, 6, LEVELS) is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "not numpy", "one level missing"])
def test_half_an_entry_is_not_opened(root: Path, damage: str) -> None:
    fill(AA, 5)
    file = root / AA / "level4.npy"
    if damage == "one level missing":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes({"truncated": content[:-4], "empty": b"", "not numpy": b"x" * len(content)}[damage])
    assert open_entry(AA, 5, LEVELS) is None
    again = fill(AA, 5, value=1.0)  # and it is made anew
    assert again[4][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_writing_that_fails_leaves_no_entry(root: Path) -> None:
    def broken():
        yield next(batches(5))
        raise DataError("photo.png: cannot be read")

    with pytest.raises(DataError, match=r"photo\.png"):
        write_entry(AA, 5, SHAPES, broken(), 1 << 20)
    assert open_entry(AA, 5, LEVELS) is None
    assert not root.exists() or names(root) == []


def used(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def test_bound_is_kept_and_the_oldest_go_first(root: Path) -> None:
    one = bytes_needed(5, SHAPES)
    assert one == 2 * 5 * (2 + 4 + 1 + 1)
    fill(AA)
    size = used(root)  # with numpy's headers
    bound = 2 * size + one
    for age, key in ((300, AA), (200, BB), (100, CC)):
        fill(key, bound=bound)
        os.utime(root / key, (1e9 - age, 1e9 - age))
    assert names(root) == [AA, BB, CC]
    assert used(root) <= bound + size
    opened = open_entry(AA, 5, LEVELS)  # used again: now the newest
    assert opened is not None
    del opened
    fill(DD, bound=2 * size + one)
    assert names(root) == [AA, CC, DD]
    make_room(0)
    assert names(root) == []


def test_others_folders_are_never_removed(root: Path) -> None:
    """The user may have named a folder that holds other things."""
    fill(AA)
    for name, file in (("photos", "1.png"), ("models", "level1.npy"), (BB, "thesis.txt")):
        (root / name).mkdir()
        (root / name / file).write_bytes(b"x" * 1000)
    (root / CC).symlink_to(root / "photos", target_is_directory=True)
    make_room(0, wanted=1 << 60)
    assert names(root) == [BB, CC, "models", "photos"]
    assert sum(1 for file in root.rglob("*") if file.is_file() and not file.is_symlink()) >= 3


def test_what_killed_runs_left_goes_after_a_day(root: Path) -> None:
    old, new = root / f".{AA}.x1y2.part", root / f".{BB}.x1y2.part"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "level1.npy").write_bytes(b"x" * 100)
    for path in (old, old / "level1.npy"):
        os.utime(path, (1e9, 1e9))
    make_room(1 << 20)
    assert names(root) == [new.name]  # which another run may be writing now


def test_a_full_disk_makes_old_entries_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {key: bytes_needed(5, SHAPES) for key in (AA, BB)}
    for age, key in ((300, AA), (200, BB)):
        fill(key)
        os.utime(root / key, (1e9 - age, 1e9 - age))
    size = used(root) // 2

    def disk(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=size * (2 - len(names(root))))  # two entries fill it

    monkeypatch.setattr(shutil, "disk_usage", disk)
    assert cache.room() == int(0.95 * 2 * size)
    assert cache.room(spared=[AA, BB]) == 0
    make_room(1 << 20, wanted=4 * size)  # more than all of it: nothing is lost for nothing
    assert names(root) == [AA, BB]
    make_room(1 << 20, wanted=taken[AA])
    assert names(root) == [BB]


def test_an_entry_that_another_run_writes_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cache._write

    def beaten(key: str, *rest: Any) -> None:
        real(key, *rest)
        raise DataError("folder: exists already")

    monkeypatch.setattr(cache, "_write", beaten)
    assert fill(AA)[4][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_room_in_a_cache_that_is_not_there(root: Path) -> None:
    make_room(0)
    assert not root.exists()
