"""Every system through the same commands: trained, stored, read back, resumed, evaluated."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_systems import TINY, needs_anomalib

import unias
from unias.config import load_config
from unias.errors import MissingError, UsageError
from unias.files import sha256
from unias.systems.detector import SystemDetector
from unias.systems.nets.patchcore import TIMED
from unias.systems.registry import BUILT_IN, find, names, register, title

pytestmark = pytest.mark.usefixtures("one_thread")

MARKS = {"draem": [needs_anomalib, pytest.mark.slow], "destseg": [pytest.mark.slow], "hvq": [pytest.mark.slow]}
EVERY = [pytest.param(name, marks=MARKS.get(name, [])) for name in BUILT_IN]
Fit = Callable[..., tuple[Path, unias.Model]]


@pytest.fixture(autouse=True)
def _schedules_from_the_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run of six steps would see neither a rate that falls nor DeSTSeg's second stage."""
    monkeypatch.setattr("unias.systems.task.FIRST", 1)


@pytest.fixture
def fit(tiny_data: Path, tmp_path: Path) -> Fit:
    def run(system: str, folder: str = "model", **wishes: Any) -> tuple[Path, unias.Model]:
        steps = 6 if find(system).by_gradient else None
        wishes = {"steps": steps, "size": 128, "backbone": "tf_efficientnet_lite0", "settings": TINY[system], **wishes}
        return tmp_path / folder, unias.train(tiny_data, tmp_path / folder, system=system, threads=1, **wishes)

    return run


@pytest.fixture(scope="module")
def photo(tiny_data: Path) -> Path:
    return sorted(tiny_data.glob("*/test/scratch/*.png"))[0]


@pytest.mark.parametrize("system", EVERY)
def test_trained_stored_and_read_back(system: str, fit: Fit, photo: Path, tmp_path: Path, tiny_data: Path) -> None:
    folder, model = fit(system)
    again = unias.load(folder, device="cpu")
    one, other = model.predict(photo), again.predict(photo)
    assert one.product == photo.parts[-4]
    assert one.model_map.shape == (128, 128)
    assert float(one.model_map.min()) >= 0
    assert np.ptp(one.model_map) > 0
    assert np.array_equal(one.model_map, other.model_map)
    assert (one.raw_score, one.ok, one.cut) == (other.raw_score, other.ok, other.cut)
    assert one.ok == (not one.model_mask.any()) == (one.raw_score <= one.cut)
    assert not one.model_mask.any() or one.model_map[one.model_mask].max() == one.model_map.max()
    settings = load_config(folder / "config.yaml").settings
    assert settings == {**find(system).presets()["small"].settings, **TINY[system]}
    assert model.record["system"] == system
    assert f"# {title(system)} model" in (folder / "card.md").read_text(encoding="utf-8")
    document = unias.evaluate(again, tiny_data, tmp_path / "report")
    assert set(document["classes"]) == {product.name for product in model.products}
    assert 0 < document["mean"]["pap"] <= 1
    assert document["info"]["seconds_an_image"] > 0
    assert (tmp_path / "report" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("system", EVERY)
def test_same_seed_same_model(system: str, fit: Fit) -> None:
    first, _ = fit(system, "one")
    second, _ = fit(system, "two")
    third, _ = fit(system, "three", seed=1)
    kept = [sha256(folder / "model.safetensors") for folder in (first, second, third)]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.slow
@pytest.mark.parametrize("system", [name for name in EVERY if "patchcore" not in str(name)])
def test_resumed_is_the_whole_run(system: str, fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    from unias.training import loop
    from unias.training.loop import Trainer

    whole, _ = fit(system, "whole")
    step, load = Trainer._step, loop.load_state

    def an_hour_before(*words: Any) -> Any:
        state = load(*words)
        assert state.elapsed > state.seconds > 0  # photos and features are in it too
        return dataclasses.replace(state, elapsed=3600.0, peak_mib=1e6)

    def interrupted(self: Any, number: int, *rest: Any) -> None:
        step(self, number, *rest)
        self.asked_to_stop = number == 3  # as Ctrl-C does

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(unias.errors.Interrupted):
            fit(system, "cut")
    monkeypatch.setattr(loop, "load_state", an_hour_before)
    cut, model = fit(system, "cut", resume=True)
    assert model.record["resumed_at"] == 4
    assert 60 <= model.record["minutes"] < 90  # of all sittings
    assert model.record["peak_mib"] == 1e6
    assert sha256(whole / "model.safetensors") == sha256(cut / "model.safetensors")


def test_cut_and_marks_follow_the_held_out_photos(fit: Fit, tiny_data: Path) -> None:
    """UniAD's score is a pooled maximum, lower than the map's: maps are scaled so that both reach the cut together."""
    _, model = fit("uniad")
    detector = model.detector
    assert isinstance(detector, SystemDetector)
    assert (detector.map_scale < 1).all()
    for product in model.products:
        results = [model.predict(tiny_data / key, product=product.name) for key in product.held_out]
        assert [r.raw_score for r in results] == pytest.approx(product.held_out_scores, rel=1e-5)
        assert max(float(r.model_map.max()) for r in results) == pytest.approx(product.cut.value, rel=1e-5)
        assert product.cut.value == max(product.held_out_scores)


def test_few_minutes_make_the_bank_smaller(fit: Fit) -> None:
    """And the settings repeat it: the bank of that size is the same one."""
    wishes: dict[str, Any] = {"steps": None, "settings": {"most": 100_000, "ratio": 1.0}}
    folder, model = fit("patchcore", "timed", minutes=0.02, **wishes)
    kept = load_file(folder / "model.safetensors")["system.memory.bank"]
    assert len(kept) == TIMED < 3000  # 12 photos of 256 patches; what is timed is kept
    assert model.config.settings["most"] == len(kept)
    again, _ = fit("patchcore", "again", **{**wishes, "settings": model.config.settings})
    assert torch.equal(load_file(again / "model.safetensors")["system.memory.bank"], kept)


@needs_anomalib
@pytest.mark.slow
def test_mirror_of_a_resnet(fit: Fit, photo: Path) -> None:
    wishes: dict[str, Any] = {"backbone": "resnet18", "weights": "random"}
    _, model = fit("rd4ad", settings={"mirror": "resnet18"}, **wishes)
    assert model.predict(photo).model_map.shape == (128, 128)
    with pytest.raises(UsageError, match=r"rebuilds \[256, 512, 1024\] channels, the backbone has \[64, 128, 256\]"):
        fit("rd4ad", "other", settings={"mirror": "wide_resnet50_2"}, **wishes)
    with pytest.raises(UsageError, match="vgg16"):
        fit("rd4ad", "third", settings={"mirror": "vgg16"}, **wishes)


def test_bank_keeps_its_size(fit: Fit) -> None:
    folder, _ = fit("patchcore")
    assert load_file(folder / "model.safetensors")["system.memory.bank"].shape[0] == 50


@pytest.mark.slow
def test_destseg_trains_one_net_at_a_time(fit: Fit) -> None:
    """Until the first stage's share of the steps the segmentation stays as it began, from there on the student."""

    def stored(folder: str, steps: int, first: float) -> dict[str, torch.Tensor]:
        settings = {**TINY["destseg"], "first": first}
        return load_file(fit("destseg", folder, steps=steps, settings=settings)[0] / "model.safetensors")

    short, other, longer = stored("short", 2, 0.9), stored("other", 4, 0.5), stored("longer", 8, 0.25)
    student = [name for name in other if name.startswith("system.net.student") and name.endswith("weight")]
    segmentation = [n for n in other if n.startswith("system.net.segmentation") and n.endswith("conv.weight")]
    assert student
    assert segmentation
    for one in (other, longer):  # two steps of the student each
        assert all(torch.equal(one[name], short[name]) for name in student)
        assert not any(torch.equal(one[name], short[name]) for name in segmentation)
    assert not any(torch.equal(longer[name], other[name]) for name in segmentation)
    untrained = stored("untrained", 1, 0.9)
    assert all(torch.equal(short[name], untrained[name]) for name in segmentation)
    assert not all(torch.equal(short[name], untrained[name]) for name in student)


@pytest.mark.slow
def test_teacher_is_not_stored_twice(fit: Fit) -> None:
    folder, _ = fit("destseg")
    stored = load_file(folder / "model.safetensors")
    assert not any("teacher" in name for name in stored)
    assert sum(name.startswith("backbone.") for name in stored) > 10


@pytest.mark.slow
def test_minutes_give_whole_runs_for_both_stages(fit: Fit) -> None:
    """And so many steps asked for are the same run."""
    folder, model = fit("destseg", steps=None, minutes=0.25)
    assert model.record["minutes"] < 0.4
    again, _ = fit("destseg", "again", steps=model.record["steps"])
    short, _ = fit("destseg", "short", steps=1)
    assert sha256(folder / "model.safetensors") == sha256(again / "model.safetensors")
    one, other = load_file(folder / "model.safetensors"), load_file(short / "model.safetensors")
    assert not torch.equal(one["system.net.segmentation.logit.weight"], other["system.net.segmentation.logit.weight"])


def _noisy(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    noise = rng.random(image.shape, dtype=np.float32)
    return image, image + noise, noise[0] > 0.5


def test_a_last_batch_of_one_photo_is_dropped(fit: Fit, make_data: Any, tmp_path: Path) -> None:
    """Batch norm has nothing to say about it."""
    from unias.data.layouts import scan
    from unias.data.transforms import Augmentation
    from unias.progress import Progress
    from unias.training.features import Pixels
    from unias.training.pixels import PixelBatches

    samples = scan(make_data(tmp_path / "set", products=("nut",), train=9, good=1)).train()
    config = find("destseg").presets()["small"]
    pixels = Pixels(samples, None, config, torch.device("cpu"), Progress("silent"))  # type: ignore[arg-type]
    batches = PixelBatches(pixels, [0] * 9, Augmentation("none"), None, 4, seed=0)
    assert batches.steps_per_epoch == 2
    seen = list(batches.steps(0, 4))
    assert [len(batch.names) for batch in seen] == [4, 4, 4, 4]
    assert len({name for batch in seen[:2] for name in batch.names}) == 8
    (later,) = batches.steps(3, 4)
    assert later.names == seen[3].names
    assert later.images is not None
    assert seen[3].images is not None
    assert torch.equal(later.images, seen[3].images)
    several = PixelBatches(pixels, [0] * 9, Augmentation("mvtec"), _noisy, 4, seed=0, threads=3)
    alone = PixelBatches(pixels, [0] * 9, Augmentation("mvtec"), _noisy, 4, seed=0)
    for one, other in zip(several.steps(0, 9), alone.steps(0, 9), strict=True):
        assert one.names == other.names
        assert all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("images", "clean", "mask"))


def test_steps_are_refused_where_there_are_none(fit: Fit) -> None:
    with pytest.raises(UsageError, match="--steps: patchcore"):
        fit("patchcore", steps=3)


def test_configuration_and_system_must_agree(fit: Fit, tiny_config: Any) -> None:
    with pytest.raises(UsageError, match="of unias"):
        fit("uniad", config=tiny_config)


def test_unknown_names_say_what_there_is(fit: Fit, tiny_data: Path, tmp_path: Path, cli: Any) -> None:
    answer = cli("train", tiny_data, "-o", tmp_path / "m", "--system", "padim")
    assert answer.code == 2
    assert "padim" in answer.err
    assert all(name in answer.err for name in names())
    with pytest.raises(UsageError, match=r"no setting 'widths'.*width"):
        fit("uniad", settings={"widths": 3})
    with pytest.raises(UsageError, match="uniad has small, paper"):
        fit("uniad", preset="visa")
    answer = cli("train", tiny_data, "-o", tmp_path / "m", "--system", "uniad", "--set", "width")
    assert answer.code == 2
    assert "NAME=VALUE" in answer.err
    answer = cli("train", tiny_data, "-o", tmp_path / "m", "--set", "width=3")
    assert answer.code == 2
    assert "UniAS" in answer.err
    assert not (tmp_path / "m").exists()


def test_missing_extra_says_what_to_install(fit: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingError, match=r'draem.*pip install "unias\[bench\]"'):
            find("draem").require()
    monkeypatch.setitem(sys.modules, "anomalib.models.image.draem.torch_model", None)
    with pytest.raises(MissingError, match=r'pip install "unias\[bench\]"'):
        fit("draem")
    assert not (tmp_path / "model").exists() or not list((tmp_path / "model").iterdir())


@pytest.mark.parametrize(
    ("system", "settings", "told"),
    [
        ("uniad", {"width": 34}, "width: 34 must divide by 4"),
        ("hvq", {"width": 36, "heads": 8}, "by heads"),
        ("uniad", {"dropout": 1.5}, r"dropout: 1.5"),
        ("uniad", {"window": 9}, "window: 9 must be odd and below the 8 tokens"),
        ("uniad", {"window": 4}, "window: 4 must be odd"),
        ("rd4ad", {"sigma": 0.0}, "sigma: 0.0 must be at least"),
        ("destseg", {"side": 100}, "side: 100"),
        ("patchcore", {"ratio": 0.0}, "ratio must be"),
    ],
)
def test_bad_settings_are_one_line(system: str, settings: dict[str, Any], told: str, fit: Fit) -> None:
    with pytest.raises(UsageError, match=told):
        fit(system, settings={**TINY[system], **settings})


def test_backbone_that_does_not_fit_is_one_line(fit: Fit) -> None:
    with pytest.raises(UsageError, match="embedding: mean"):
        fit("patchcore", settings={"embedding": "authors"})


def test_names_that_are_taken() -> None:
    class Again(find("uniad")):  # type: ignore[misc]
        name = "uniad"

    with pytest.raises(UsageError, match="taken"):
        register(Again)


def test_paper_presets_are_the_published_ones() -> None:
    configs = {name: find(name).presets()["paper"] for name in BUILT_IN}
    assert {name: config.backbone.name for name, config in configs.items() if name not in ("draem",)} == {
        "patchcore": "wide_resnet50_2.tv_in1k",
        "destseg": "resnet18.tv_in1k",
        "rd4ad": "wide_resnet50_2.tv_in1k",
        "uniad": "tf_efficientnet_b4.aa_in1k",
        "hvq": "tf_efficientnet_b4.aa_in1k",
    }
    published = {
        name: (config.size, config.train.batch_size, config.train.learning_rate) for name, config in configs.items()
    }
    assert published["draem"] == (256, 8, 1e-4)
    assert published["destseg"] == (256, 32, 0.4)
    assert published["rd4ad"] == (256, 16, 5e-3)
    assert published["uniad"] == (224, 8, 1e-4)
    assert published["hvq"] == (224, 16, 1e-4)
    assert configs["patchcore"].size == 224
    assert json.dumps(sorted(BUILT_IN)) == json.dumps(sorted(TINY))


@pytest.mark.parametrize("system", ["patchcore", pytest.param("destseg", marks=pytest.mark.slow)])
def test_products_are_known_by_all_of_their_photos(system: str, fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by those alone that are enough for the costly statistics: the farthest photo says how far a product reaches."""
    _, all_used = fit(system)
    monkeypatch.setattr("unias.run.system.STATISTICS_PHOTOS", 2)
    _, few_used = fit(system, "few")
    for name in ("prototypes", "whitening", "reach"):
        one, other = (getattr(model.detector.statistics, name) for model in (all_used, few_used))
        assert torch.equal(one, other), name
