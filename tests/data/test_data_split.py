"""Who is held out: as many as the rule says, the same on every machine."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unias.data.layouts import Sample
from unias.data.split import hold_out, hold_out_products, named
from unias.errors import UsageError


@pytest.mark.parametrize(
    ("count", "held"),
    [(0, 0), (1, 0), (2, 1), (3, 1), (10, 5), (39, 19), (40, 20), (90, 20), (102, 20), (103, 21), (209, 42), (400, 80)],
)
def test_how_many(count: int, held: int) -> None:
    """20% (to the nearest), but at least 20 or half of them, whichever is less."""
    train, out = hold_out([f"{n}.png" for n in range(count)], seed=0)
    assert (len(train), len(out)) == (count - held, held)


def test_fraction_and_least() -> None:
    keys = [str(n) for n in range(10)]
    assert len(hold_out(keys, 0, fraction=0.0, at_least=0)[1]) == 0
    assert len(hold_out(keys, 0, fraction=0.25, at_least=0)[1]) == 3
    assert len(hold_out(keys, 0, fraction=0.99)[1]) == 9  # one is always left to train on


def test_golden() -> None:
    """The same everywhere, for ever: a model on disk stores this list and --resume makes it again."""
    assert hold_out([f"nut/train/good/{n:03}.png" for n in range(8)], seed=0)[1] == GOLDEN
    assert hold_out(["Größe/ö.png", "b b.png", "c"], seed=3)[1] == ["b b.png"]


GOLDEN = [f"nut/train/good/{number}.png" for number in ("000", "002", "005", "007")]


@given(st.sets(st.text(min_size=1), max_size=60), st.integers(0, 2**40))
def test_a_partition_that_does_not_depend_on_the_order(names: set[str], seed: int) -> None:
    keys = sorted(names)
    train, held = hold_out(keys, seed)
    assert sorted(train + held) == keys
    random.Random(seed).shuffle(keys)
    assert hold_out(keys, seed) == (train, held)
    assert not keys or train


def test_seeds_differ_and_are_fair() -> None:
    keys = [f"{n}.png" for n in range(100)]
    counts = dict.fromkeys(keys, 0)
    for seed in range(200):
        for key in hold_out(keys, seed)[1]:
            counts[key] += 1
    assert len({tuple(hold_out(keys, seed)[1]) for seed in range(20)}) == 20
    assert min(counts.values()) >= 15
    assert max(counts.values()) <= 70  # 40 expected, a standard deviation of 5.7


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, float("nan")])
def test_bad_fractions(fraction: float) -> None:
    with pytest.raises(UsageError, match="held-out fraction"):
        hold_out(["a"], 0, fraction)


def test_a_key_given_twice() -> None:
    with pytest.raises(UsageError, match="b: named twice"):
        hold_out(["a", "b", "b"], 0)


def test_products_each_by_the_rule_and_from_good_training_photos_alone() -> None:
    def make(product: str, split: str, defect: str, number: int) -> Sample:
        key = f"{product}/{split}/{defect}/{number}.png"
        return Sample(Path("/x") / key, product, split, defect, None, key)

    samples = [make("nut", "train", "good", n) for n in range(30)] + [
        make("bolt", "train", "good", n) for n in range(4)
    ]
    other = [make("nut", "test", "good", n) for n in range(9)] + [make("nut", "test", "bent", n) for n in range(9)]
    split = hold_out_products(other + samples, seed=1)
    assert list(split) == ["bolt", "nut"]
    assert {p: (len(a), len(b)) for p, (a, b) in split.items()} == {"nut": (15, 15), "bolt": (2, 2)}
    assert {s.key for pair in split.values() for part in pair for s in part} == {s.key for s in samples}
    assert [s.key for s in split["nut"][1]] == hold_out([s.key for s in samples if s.product == "nut"], 1)[1]


def test_a_photo_of_another_product_is_not_this_ones() -> None:
    """Flat folders: two products may have photos of one name; groups have names that no folder bears."""
    samples = [Sample(Path(f"/{folder}/1.png"), folder, "train", "good", None, "1.png") for folder in ("nut", "bolt")]
    assert named(samples, "nut", {"nut", "bolt"})["1.png"].product == "nut"
    assert named(samples, "bolt", {"nut", "bolt"})["1.png"].product == "bolt"
    assert named(samples[1:], "nut", {"nut", "bolt"}) == {}
    assert named(samples[:1], "group_1", {"group_1", "group_2"})["1.png"].product == "nut"
