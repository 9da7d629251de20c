"""``unias calibrate``: cuts move by rank, at once, and the price is told; what does not move stays bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_answers import strict
from PIL import Image

import unias
from unias.calibration.verdict import image_score
from unias.errors import DataError
from unias.files import sha256
from unias.inference.predictor import Model
from unias.inference.recalibrate import scored
from unias.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "copy")
    return tmp_path / "copy"


def products_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "products.json").read_text(encoding="utf-8"))["products"]
    return found


def test_another_rate_is_another_rank(cli: Any, copy: Path) -> None:
    before = products_of(copy)
    tensors = sha256(copy / "model.safetensors")
    answer = cli("calibrate", copy, "--false-alarms", 0.5, "--json", "-q")
    assert answer.code == 0, answer.err
    told = strict(answer.out)
    for old, new, price in zip(before, products_of(copy), told["products"], strict=True):
        falling = sorted(old["held_out_scores"], reverse=True)
        rank = (len(falling) + 1) // 2
        assert new["cut"]["value"] == falling[rank - 1]
        assert new["cut"]["promise"]["rank"] == rank
        assert new["cut"]["promise"]["rate"] == rank / (len(falling) + 1)
        assert price["good_failed"] == [sum(s > old["cut"]["value"] for s in falling), rank - 1]
        assert (new["held_out"], new["held_out_scores"]) == (old["held_out"], old["held_out_scores"])
    assert sha256(copy / "model.safetensors") == tensors
    model = unias.load(copy, device="cpu")  # every hash fits
    assert "at most" in (copy / "card.md").read_text(encoding="utf-8")
    assert model.products[0].cut.value == products_of(copy)[0]["cut"]["value"]


def test_only_one_product_and_only_shown(cli: Any, copy: Path, tmp_path: Path) -> None:
    name = products_of(copy)[0]["name"]
    kept = {path.name: sha256(path) for path in copy.iterdir()}
    answer = cli("calibrate", copy, "--false-alarms", 0.5, "--product", name, "--dry-run", "-q")
    assert answer.code == 0
    assert answer.out.count("cut ") == 1
    assert "nothing was written" in answer.out
    assert {path.name: sha256(path) for path in copy.iterdir()} == kept
    answer = cli("calibrate", copy, "--false-alarms", 0.5, "--product", name, "-o", tmp_path / "other", "-q")
    assert answer.code == 0
    assert {path.name: sha256(path) for path in copy.iterdir()} == kept
    assert products_of(tmp_path / "other")[1] == products_of(copy)[1]
    assert products_of(tmp_path / "other")[0] != products_of(copy)[0]
    assert cli("calibrate", copy, "--false-alarms", 0.5, "-o", tmp_path / "other", "-q").code == 3


def test_good_photos_join_and_are_counted_once(cli: Any, copy: Path, tiny_data: Path) -> None:
    name = products_of(copy)[0]["name"]
    folder = tiny_data / name / "test" / "good"
    model = unias.load(copy, device="cpu")
    extra = [model.predict(photo, product=name).raw_score for photo in sorted(folder.glob("*.png"))]
    for _ in range(2):
        answer = cli("calibrate", copy, "--good", folder, "--product", name, "-q")
        assert answer.code == 0, answer.err
    old, new = next(p for p in model.products if p.name == name), products_of(copy)[0]
    assert sorted(new["held_out_scores"]) == pytest.approx(sorted([*old.held_out_scores, *extra]), rel=1e-5)
    assert new["cut"]["value"] == max(new["held_out_scores"])  # three more photos are not yet enough for a lower rank
    assert new["cut"]["promise"]["held_out"] == len(old.held_out) + 3


def test_photos_that_the_model_knows_do_not_count_as_new(cli: Any, copy: Path, tiny_data: Path) -> None:
    """Held-out ones given once more are no further ones; those that it learned from are pointed out."""
    before = products_of(copy)[0]
    folder = tiny_data / before["name"] / "train" / "good"
    answer = cli("calibrate", copy, "--good", folder, "--product", before["name"])
    assert answer.code == 0, answer.err
    after = products_of(copy)[0]
    added = [key for key in after["held_out"] if key not in before["held_out"]]
    assert len(added) == len(before["train"])
    assert "has the name of a photo that the model learned" in answer.err


def test_missed_defects_pull_the_cut_below_them(cli: Any, copy: Path, tiny_data: Path, tmp_path: Path) -> None:
    """A photo scored between two held-out ones fails afterwards, and the price is the held-out photos above the new cut."""
    model = unias.load(copy, device="cpu")
    name = model.products[0].name
    ranked = sorted((model.predict(tiny_data / key, product=name).raw_score, key) for key in model.products[0].held_out)
    (tmp_path / "missed").mkdir()
    shutil.copy(tiny_data / ranked[1][1], tmp_path / "missed" / "photo.png")  # stands for a defect that passed
    wish = ["--missed", tmp_path / "missed", "--product", name, "-q"]
    answer = cli("calibrate", copy, *wish, "--dry-run")
    assert "--most-false-alarms" in answer.out  # it would cost most of the good photos
    wish += ["--most-false-alarms", 1]
    answer = cli("calibrate", copy, *wish, "--json")
    assert answer.code == 0, answer.err
    (price,) = strict(answer.out)["products"]
    assert price["caught"] == [0, 1]
    assert price["good_failed"] == [0, len(ranked) - 1]
    again = unias.load(copy, device="cpu")
    assert not again.predict(tmp_path / "missed" / "photo.png", product=name).ok
    assert products_of(copy)[0]["cut"]["value"] == pytest.approx(ranked[0][0])
    shutil.copy(tiny_data / ranked[0][1], tmp_path / "missed" / "photo.png")  # as usual as the most usual good photo
    answer = cli("calibrate", copy, *wish)
    assert answer.code == 0
    assert "look like good photos" in answer.out
    cli("calibrate", copy, "--false-alarms", 0.06, "--most-false-alarms", 1, "-q")  # what was missed is remembered
    assert products_of(copy)[0]["cut"]["value"] == pytest.approx(ranked[0][0])


def test_zone_and_area_rank_again(cli: Any, copy: Path, tiny_data: Path, tmp_path: Path) -> None:
    model = unias.load(copy, device="cpu")
    name, size = model.products[0].name, model.config.size
    zone = np.zeros((50, 50), dtype=np.uint8)
    zone[:, :25] = 255
    Image.fromarray(zone).save(tmp_path / "zone.png")
    wish = ["--ignore", f"{name}={tmp_path / 'zone.png'}", "--min-area", 30, "-q"]
    answer = cli("calibrate", copy, *wish)
    assert answer.code == 2
    assert "--data" in answer.err
    answer = cli("calibrate", copy, *wish, "--data", tiny_data)
    assert answer.code == 0, answer.err
    again = unias.load(copy, device="cpu")
    ignored = again.products[0].ignore
    assert ignored is not None
    assert ignored[:, : size // 2].all()
    assert not ignored[:, size // 2 :].any()
    assert again.products[1].ignore is None
    assert [p.min_area for p in again.products] == [30, 30]
    for info in again.products:
        maps = [again.predict(tiny_data / key, product=info.name).model_map for key in info.held_out]
        scores = [image_score(one, 30, info.ignore) for one in maps]
        assert scores == pytest.approx(list(info.held_out_scores), rel=1e-6)
        assert info.cut.value == max(info.held_out_scores)
    for photo in sorted(tiny_data.glob(f"{name}/test/*/*.png")):
        result = again.predict(photo, product=name)
        assert result.ok == (not result.model_mask.any())
        assert not result.model_mask[:, : size // 2].any()
    assert cli("calibrate", copy, "--ignore", f"{name}=none", "--data", tiny_data, "-q").code == 0
    assert unias.load(copy, device="cpu").products[0].ignore is None
    assert not (copy / "zones.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to do"),
        (["--false-alarms", 1.5], "0.01"),
        (["--product", "nobody", "--false-alarms", 0.1], "nobody"),
        (["--ignore", "nobody"], "PRODUCT=MASK.png"),
        (["--by-session"], "two sessions"),
    ],
)
def test_wrong_words(cli: Any, copy: Path, words: list[Any], told: str) -> None:
    answer = cli("calibrate", copy, *words, "-q")
    assert answer.code == 2
    assert told in answer.err


def test_photos_that_cannot_be_read_leave_the_model_alone(cli: Any, copy: Path, tmp_path: Path) -> None:
    kept = {path.name: sha256(path) for path in copy.iterdir()}
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "broken.png").write_bytes(b"\x89PNG but no more")
    answer = cli("calibrate", copy, "--good", tmp_path / "good", "-q")
    assert answer.code == 3
    assert "broken.png" in answer.err
    assert {path.name: sha256(path) for path in copy.iterdir()} == kept


def test_deep_photos_are_refused_by_an_export_in_8_bits_as_in_predict(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((64, 64), 40_000, dtype=np.uint16)).save(deep)
    monkeypatch.setattr(Model, "exported", property(lambda _: SimpleNamespace(pixels="uint8")))
    with pytest.raises(DataError, match=r"deep\.png: has 16 bits"):
        list(scored(model, model.products, [deep], 0, Progress("silent"), "photos"))


def test_what_scoring_anew_forgets_is_told(cli: Any, copy: Path, tiny_data: Path) -> None:
    """Photos that people gave are not at hand: their scores by another area are not known."""
    missed = next(iter(sorted(tiny_data.glob("*/test/*/*.png"))))
    name = products_of(copy)[0]["name"]
    added = sorted((tiny_data / name / "test" / "good").iterdir())[0]
    answer = cli("calibrate", copy, "--missed", missed, "--good", added, "--product", name, "-q")
    assert answer.code == 0, answer.err
    answer = cli("calibrate", copy, "--min-area", 9, "--product", name, "--data", tiny_data, "-q")
    assert answer.code == 0, answer.err
    assert "1 missed defects are forgotten: give them again with --missed" in answer.out
    assert "1 added good photos are forgotten: give them again with --good" in answer.out
