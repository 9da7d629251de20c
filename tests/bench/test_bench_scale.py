"""``bench scale`` on tiny models: photos in turn, hundreds of products, accuracy as products are added."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unias.bench import growth as bench_growth
from unias.bench.growth import gathered, groups, pick_watched, product_folders
from unias.bench.products import folder_bytes, many_products, widen
from unias.bench.scale import linked_tests, make_plan, median_error, mixed, run_scale
from unias.bench.subjects import load_trained
from unias.config import Config
from unias.data.layouts import scan
from unias.errors import DataError, UsageError
from unias.inference import rehearsal
from unias.inference.predictor import Model
from unias.inference.store import save_model
from unias.maps.detector import Detector
from unias.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread", "in_this_process")
FIRST, SECOND = "Dichtung groß", "plaque gravée"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale")


def test_everything_once(
    model_folder: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path, tree: Any, in_this_process: Any
) -> None:
    before = tree(model_folder), tree(tiny_data)
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, cache=False))
    document = run_scale(
        tmp_path / "out",
        tiny_data,
        model=model_folder,
        growth=(1, 2, 5),
        watch=[FIRST],
        steps=2,
        threads=1,
        evaluation=True,
        quick=True,
        config=config,
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scale.json", "scale.md"]
    assert json.loads((tmp_path / "out/scale.json").read_text(encoding="utf-8"))["data"] == tiny_data.name
    images = document["images"]
    assert [row["count"] for row in images["rows"]] == [8, 16]
    assert [len(row["runs"]) for row in images["rows"]] == [2, 1]  # before and after the largest
    assert images["comparison"]["many"] == 16
    assert [row["count"] for row in images["evaluation"]["rows"]] == [8, 16]
    products = document["products"]
    assert (products["few"]["products"], products["many"]["products"]) == (2, 6)
    assert products["few"]["kinds"] == {"whole photos": 2}
    assert products["many"]["kinds"] == {"whole photos": 2, "slices of photos": 4}
    assert 0 < products["disk_mb_a_product"] < 0.2
    assert products["time_ratio"] > 0
    growth = document["growth"]
    assert [row["products"] for row in growth["rows"]] == [[FIRST], [FIRST, SECOND]]
    assert all(set(row["pap"]) == {FIRST} and row["steps"] == 2 for row in growth["rows"])
    assert growth["faults"] == {"5": "not measured: 2 products are here"}
    page = (tmp_path / "out/scale.md").read_text(encoding="utf-8")
    assert "--quick" in page
    assert "not measured: 2 products are here" in page
    assert f"pAP {FIRST}" in page
    assert all(bar["met"] is None for bar in document["bars"])
    assert {request["task"] for request in in_this_process} == {"predict", "evaluate"}
    assert (tree(model_folder), tree(tiny_data)) == before


def test_growth_goes_on_where_it_was_stopped(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, cache=False))
    kept, trained = tmp_path / "growth.json", []
    real = bench_growth.train

    def counted(data: Path, *rest: Any, **wishes: Any) -> Any:
        trained.append(sorted(path.name for path in data.iterdir()))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(data, *rest, **wishes)

    def measure(steps: int) -> dict[str, Any]:
        budget = bench_growth.Budget(None, steps, 0, 1)
        home = tmp_path / f"home{len(trained)}"
        return bench_growth.measure_growth(
            [scan(tiny_data)], [FIRST], (1, 2), config, budget, None, home, Progress("silent"), kept
        )

    monkeypatch.setattr(bench_growth, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(2)
    assert [row["products"] for row in json.loads(kept.read_text(encoding="utf-8"))] == [[FIRST]]
    rows = measure(2)["rows"]
    assert [row["products"] for row in rows] == [[FIRST], [FIRST, SECOND]]
    assert trained == [[FIRST], [FIRST, SECOND], [FIRST, SECOND]]  # the first is not trained again
    measure(1)  # another budget: nothing of it is done
    assert len(trained) == 5
    kept.write_text("{", encoding="utf-8")
    assert bench_growth.rows_done(kept) == {}


def test_growth_is_left_out_without_a_budget(configs: dict[str, Config], tiny_data: Path, tmp_path: Path) -> None:
    document = run_scale(tmp_path / "out", tiny_data, threads=1, quick=True, config=configs["small"])
    assert document["growth"]["fault"].startswith("not measured: give --minutes")
    assert document["model"]["weights"] == "random weights"
    assert "evaluation" not in document["images"]
    assert "give --evaluation" in (tmp_path / "out/scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"images": ()}, "--images and --growth"),
        ({"growth": (0,)}, "--images and --growth"),
        ({"products": (5, 5)}, "--few and --many"),
        ({"minutes": 1.0, "steps": 1}, "one of --minutes and --steps"),
        ({"watch": ["screw"]}, "--watch: 'screw' has no training photos"),
    ],
)
def test_faults(wishes: dict[str, Any], said: str, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        run_scale(tmp_path / "out", tiny_data, **wishes)
    assert not any(tmp_path.iterdir())


def test_no_photos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        run_scale(tmp_path / "out", tmp_path / "none")


# --- many products ------------------------------------------------------------------------------------------


def test_products_are_told_apart_and_repeat(tiny_data: Path) -> None:
    size = 64
    listed = many_products([scan(tiny_data)], size, 40)
    assert len({product.name for product in listed}) == 40
    assert [product.name for product in listed[:2]] == [FIRST, SECOND]
    assert [sum(p.kind == kind for p in listed) for kind in ("whole photos", "slices of photos", "drawn textures")] == [
        2,
        18,
        20,
    ]
    for product in (listed[0], listed[5], listed[-1]):
        first, again, other = product.photo(0), product.photo(0), product.photo(1)
        assert first.shape[2] == 3
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
    assert many_products([scan(tiny_data)], size, 3) != []


def test_widened_model_is_a_model(model_folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Its statistics are fitted, its weights are the same, it is saved and used as ever."""
    stored = load_trained(model_folder)
    listed = many_products([scan(tiny_data)], stored.config.size, 24)
    wide = widen(stored, listed, 3, Progress("silent"))
    assert len(wide.stored.products) == 24
    assert wide.recognised > 3 / 24  # slices of one drawn surface look alike
    assert len({product.cut.value for product in wide.stored.products}) == 24
    assert all(product.cut.provisional for product in wide.stored.products)
    assert isinstance(wide.stored.detector, Detector)
    assert isinstance(stored.detector, Detector)
    assert len(stored.detector.statistics.products) == 2  # the model itself is as it was
    means = wide.stored.detector.statistics.level_mean
    assert not torch.allclose(means, torch.ones_like(means))
    save_model(tmp_path / "wide", wide.stored)
    model = Model.load(tmp_path / "wide", "cpu")
    assert model.predict(listed[20].photo(5)).product in {product.name for product in listed}
    kept = (model_folder / rehearsal.FILE).stat().st_size  # photos for `unias extend`, which a widened model has not
    more = folder_bytes(tmp_path / "wide") - (folder_bytes(model_folder) - kept)
    assert 0 < more < 22 * 200_000


def test_linked_tests_are_a_data_set(tiny_data: Path, tmp_path: Path) -> None:
    dataset = scan(tiny_data)
    count = 2 * len(dataset.test()) + 3
    links = scan(linked_tests(dataset, count, tmp_path / "links"))
    assert len(links.test()) == count
    assert links.products == dataset.products
    assert all(sample.mask is not None for sample in links.test() if not sample.is_good)


# --- accuracy as products are added -------------------------------------------------------------------------


def test_groups() -> None:
    assert groups(("a", "b"), ("c", "d"), (1, 2, 4)) == [("a",), ("b",), ("a", "b"), ("a", "b", "c", "d")]
    assert groups(("a", "b"), ("c", "d"), (5, 10)) == []
    assert groups(("a",), ("c",), (2, 1, 2)) == [("a",), ("a", "c")]


def test_watched(tiny_data: Path, make_data: Any, tmp_path: Path) -> None:
    assert pick_watched(scan(tiny_data), ()) == (FIRST, SECOND)
    assert pick_watched(scan(tiny_data), [SECOND]) == (SECOND,)
    assert pick_watched(scan(make_data(tmp_path / "bare", masks=False)), ()) == ()


def test_gathered_copies_where_links_are_refused(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = product_folders(scan(tiny_data))
    assert set(folders) == {FIRST, SECOND}
    assert [sample.key for sample in scan(gathered(folders, tmp_path / "links")).samples] == [
        s.key for s in scan(tiny_data).samples
    ]

    def refuse(*_: object, **__: object) -> None:
        raise OSError("not allowed")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    copied = gathered({FIRST: folders[FIRST]}, tmp_path / "copies")
    assert not (copied / FIRST).is_symlink()
    assert scan(copied).products == (FIRST,)


def test_plans() -> None:
    plan = make_plan((500, 100, 500), (5, 300), (1,), 2, 9, False, False)
    assert plan.images == (100, 500)
    assert make_plan((1,), (5, 300), (1,), 2, 9, False, True).products == (2, 6)


def test_few_photos_are_a_mix_as_many_are() -> None:
    """Photos lie product by product: the first hundred in their own order would be of one product."""
    photos = [Path(f"{name}/{number:03}.png") for name in ("a", "b") for number in range(100)]
    shuffled = mixed(photos)
    assert sorted(shuffled) == sorted(photos)
    assert shuffled == mixed(photos)
    assert 30 < sum(path.parent.name == "a" for path in shuffled[:100]) < 70


def test_error_of_a_median_is_that_of_drawn_ones() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(100.0, 8.0, (4000, 9))
    told = np.mean([median_error(row.tolist()) for row in drawn])
    assert told == pytest.approx(np.median(drawn, axis=1).std(), rel=0.05)
    assert median_error([7.0]) == 7.0  # one figure tells nothing
