"""Tiled photos from training to verdict: every stage sees the same views and the same blended map."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unias
from unias.config import Config, load_config
from unias.data.decode import load_input, read_photo
from unias.data.layouts import scan
from unias.data.transforms import Augmentation, turned
from unias.inference import rehearsal
from unias.inference.predictor import Model
from unias.maps.tiling import unfolded
from unias.progress import Progress
from unias.training.batches import CachedBatches, ImageBatches, StepDataset, TurnedFeatures, turned_rows
from unias.training.features import Features, view_rows

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiled_config(tiny_config: Config) -> Config:
    return dataclasses.replace(tiny_config, tile=2)


@pytest.fixture(scope="module")
def tiled(
    tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiled_config: Config
) -> tuple[Path, Model, list[str]]:
    """(folder, the model that training gave back, what it said)."""
    said: list[str] = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    folder = tmp_path_factory.mktemp("tiled") / "model"
    torch.set_num_threads(1)
    return folder, unias.train(tiny_data, folder, config=tiled_config, threads=1, progress=Heard("lines")), said


@pytest.fixture(scope="module")
def again(tiled: tuple[Path, Model, list[str]]) -> Model:
    """As read back."""
    return unias.load(tiled[0], "cpu")


def photos(tiny_data: Path) -> list[Path]:
    return sorted(tiny_data.glob("*/test/*/*.png"))


def test_the_model_knows_how_it_sees(tiled: Any, again: Model) -> None:
    folder, model, _ = tiled
    assert again.config.tiling == model.config.tiling
    assert (again.config.size, again.config.input_size) == (128, 240)
    assert "seen in 2 x 2 views that overlap by 16 pixels" in (folder / "card.md").read_text("utf-8")


def test_the_map_is_the_views_maps_blended(again: Model, tiny_data: Path) -> None:
    """By hand: cut the photo, look at each view as at a photo, blend the levels, then fuse."""
    path = photos(tiny_data)[0]
    (result,) = again.predict([path], levels=True)
    assert result.model_map.shape == (240, 240)
    detector: Any = again.detector
    image = torch.from_numpy(load_input(path, 240)[0])[None]
    by_hand: dict[int, torch.Tensor] = {level: torch.zeros(1, 120, 120) for level in (4, 3, 2, 1)}
    weights = detector.blend.weights
    pooled = []
    with torch.inference_mode():
        for number, (top, left) in enumerate([(0, 0), (0, 112), (112, 0), (112, 112)]):
            features = detector.backbone(image[:, :, top : top + 128, left : left + 128])
            pooled.append(torch.cat([features[level].mean(dim=(2, 3)) for level in (4, 3, 2, 1)], dim=1))
            levels = detector.level_maps(
                {k: 1 - torch.nn.functional.cosine_similarity(*pair, dim=1) for k, pair in pairs(detector, features)}
            )
            for level, values in levels.items():
                by_hand[level][:, top // 2 : top // 2 + 64, left // 2 : left // 2 + 64] += values * weights[number]
        product, _ = detector.statistics.recognise(torch.stack(pooled).mean(dim=0))
        fused = torch.nn.functional.interpolate(
            detector.fuse(by_hand, product)[:, None], size=(240, 240), mode="bilinear", align_corners=True
        )[0, 0]
    assert again.products[int(product)].name == result.nearest
    np.testing.assert_allclose(result.model_map, fused.numpy(), rtol=1e-3, atol=1e-5)
    assert {values.shape for values in result.level_maps.values()} == {(240, 240)}


def pairs(detector: Any, features: dict[int, torch.Tensor]) -> list[tuple[int, tuple[torch.Tensor, torch.Tensor]]]:
    reconstruction = detector.unias(features)
    return [(level, (reconstruction.targets[level], out)) for level, out in reconstruction.outputs.items()]


def test_cuts_are_those_of_the_maps_in_use(again: Model, tiny_data: Path) -> None:
    """Held-out photos predicted again give the stored scores: training, storing and use see the same views."""
    for info in again.products:
        results = list(again.predict([tiny_data / key for key in info.held_out], product=info.name))
        assert [result.raw_score for result in results] == pytest.approx(info.held_out_scores, rel=1e-4)
        assert sum(result.ok for result in results) >= len(results) - 1


def test_one_photo_and_many_give_the_same(again: Model, tiny_data: Path) -> None:
    paths = photos(tiny_data)[:5]
    together = list(again.predict(paths, batch_size=3))
    for path, result in zip(paths, together, strict=True):
        alone = again.predict(path)
        np.testing.assert_allclose(alone.model_map, result.model_map, rtol=1e-4, atol=1e-6)
        assert alone.model_mask.any() == (not alone.ok and alone.product_known)
        assert alone.pred_mask.shape == alone.size == (96, 96)


def test_products_are_recognised(again: Model, tiny_data: Path) -> None:
    for path in photos(tiny_data):
        assert again.predict(path).nearest == path.parts[-4]


def test_it_sees_smaller_defects(again: Model, model: Model) -> None:
    tiled, whole = again.smallest_defect((960, 960)), model.smallest_defect((960, 960))
    assert tiled is not None
    assert whole is not None
    assert tiled[0] / whole[0] == pytest.approx(128 / 240)


@pytest.fixture(scope="module")
def features(tiny_data: Path, tiled_config: Config) -> Features:
    from unias.backbones.timm_backbone import build_backbone

    samples = scan(tiny_data).train()[:3]
    return Features(samples, build_backbone(tiled_config.backbone), tiled_config, CPU, Progress("silent"))


def test_features_are_of_views_photo_by_photo(features: Features) -> None:
    arrays = features.fill("views")
    assert {level: array.shape for level, array in arrays.items()} == {
        level: (12, *shape) for level, shape in features.shapes().items()
    }
    image = torch.from_numpy(load_input(features.samples[1].path, 240)[0])[None]
    with torch.inference_mode():
        expected = features.backbone(unfolded(image, features.tiling))
    (batch,) = features.batches("", [1])
    for level, values in batch.items():
        assert values.shape[0] == 4
        torch.testing.assert_close(values, expected[level], rtol=2e-3, atol=2e-3)
    assert view_rows([2, 0], 4).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    whole = Features(
        features.samples, features.backbone, dataclasses.replace(features.config, tile=1), CPU, Progress("silent")
    )
    assert len(next(iter(whole.fill("whole").values()))) == 3  # another cache entry


def test_cached_and_decoded_steps_are_the_same(features: Features, tiled_config: Config) -> None:
    """Every view of every photo once an epoch, turned as its photo's draw says, by both ways."""
    samples = features.samples
    augmentation = Augmentation("auto", {samples[0].product: (0, 2, 5)})
    rows = turned_rows(samples, augmentation)
    more = Features(
        [samples[index] for index, _ in rows],
        features.backbone,
        tiled_config,
        CPU,
        Progress("silent"),
        [turn for _, turn in rows],
    )
    put = TurnedFeatures(more.fill("turned views"), samples, augmentation, 4)
    names = [str(sample.path) for sample in samples for _ in range(4)]
    cached = CachedBatches(features.fill("views"), names, [0] * 12, 5, 3, CPU, put)
    steps = StepDataset(samples, tiled_config.tiling, None, augmentation, 5, 3)
    decoded = ImageBatches(steps, features.backbone, CPU)
    assert cached.steps_per_epoch == decoded.steps_per_epoch == 3
    seen: list[str] = []
    with torch.inference_mode():
        for epoch in range(2):
            span = (3 * epoch, 3 * epoch + 3)
            for one, other in zip(cached.steps(*span), decoded.steps(*span), strict=True):
                seen += one.names
                assert sorted(one.names) == sorted(other.names)
                for level, values in one.features.items():
                    ours = values.flatten(1).norm(dim=1).sort().values
                    torch.testing.assert_close(
                        ours, other.features[level].flatten(1).norm(dim=1).sort().values, rtol=2e-3, atol=2e-2
                    )
    assert sorted(seen) == sorted(names * 2)


def test_a_turned_photo_has_turned_views(features: Features) -> None:
    """Cut after turning: view 0 of a photo upside down is its last view upside down."""
    steps = StepDataset(features.samples, features.tiling, None, Augmentation("auto", {}), 4, 0)
    photo = load_input(features.samples[0].path, 240)[0]
    np.testing.assert_array_equal(steps._view(features.samples[0], 3, 0), photo[:, 112:, 112:])
    upside_down = StepDataset(
        features.samples, features.tiling, None, Augmentation("auto", {features.samples[0].product: (2,)}), 4, 0
    )
    np.testing.assert_array_equal(upside_down._view(features.samples[0], 0, 0), turned(photo[:, 112:, 112:].copy(), 2))


def test_commands(cli: Any, tiled: Any, tiny_data: Path, tmp_path: Path) -> None:
    folder, _, _ = tiled
    photo = photos(tiny_data)[0]
    answer = cli("predict", folder, photo, "-o", tmp_path / "out", "-q")
    assert answer.code == 0, answer.err
    answer = cli("evaluate", folder, tiny_data, "-o", tmp_path / "report", "-q")
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "report" / "metrics.json").read_text("utf-8"))["size"] == "240 x 240"
    assert (tmp_path / "report" / "index.html").is_file()
    zone = np.zeros((96, 96), dtype=np.uint8)
    zone[:20] = 255
    Image.fromarray(zone).save(tmp_path / "zone.png")
    wish = f"plaque gravée={tmp_path / 'zone.png'}"
    answer = cli("calibrate", folder, "-o", tmp_path / "moved", "--ignore", wish, "--data", tiny_data, "-q")
    assert answer.code == 0, answer.err
    moved = unias.load(tmp_path / "moved", "cpu")
    ignored = next(info.ignore for info in moved.products if info.name == "plaque gravée")
    assert ignored is not None
    assert ignored.shape == (240, 240)
    assert ignored.mean() == pytest.approx(20 / 96, abs=0.01)
    told = cli("data", tiny_data, "--tile", 2, "-q")
    assert "at --size 224 --tile 2" in told.out


@pytest.mark.slow
@pytest.mark.parametrize("uncached", [True, False])
def test_from_the_command_line(cli: Any, tiny_data: Path, tiny_yaml: Path, tmp_path: Path, uncached: bool) -> None:
    """--tile over a configuration; photos decoded anew at each step; drawn defects choose the fusion; turns are found."""
    config = load_config(tiny_yaml)
    train = dataclasses.replace(config.train, recipe="auto", cache=not uncached)
    from unias.config import dump_config

    changed = dataclasses.replace(config, train=train, maps=dataclasses.replace(config.maps, drawn=4))
    (tmp_path / "settings.yaml").write_text(dump_config(changed), encoding="utf-8")
    answer = cli(
        "train",
        tiny_data,
        "-o",
        tmp_path / "model",
        "--config",
        tmp_path / "settings.yaml",
        "--tile",
        2,
        "--steps",
        3,
        "-q",
    )
    assert answer.code == 0, answer.err
    found = unias.load(tmp_path / "model", "cpu")
    assert found.config.tile == 2
    assert found.predict(photos(tiny_data)[0]).model_map.shape == (240, 240)
    extra = tmp_path / "more"
    (extra / "new").mkdir(parents=True)
    for number, path in enumerate(sorted(tiny_data.glob("plaque*/train/good/*.png"))):
        with Image.open(path) as picture:
            picture.rotate(90).save(extra / "new" / f"{number}.png")
    kept = rehearsal.unpack(tmp_path / "model" / rehearsal.FILE, [p.name for p in found.products], tmp_path / "kept")
    sides = {read_photo(sample.path).size for samples in kept.values() for sample in samples}
    assert sides == {(found.config.input_size, found.config.input_size)}  # as it saw them, not as one view
    answer = cli("extend", tmp_path / "model", extra, "-o", tmp_path / "wider", "--steps", 2, "-q")
    assert answer.code == 0, answer.err
    wider = unias.load(tmp_path / "wider", "cpu")
    assert len(wider.products) == 3
    assert wider.config.tile == 2


@pytest.mark.slow
def test_exported(cli: Any, tiled: Any, again: Model, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    answer = cli("export", tiled[0], "--to", "onnx", "--data", tiny_data, "-o", tmp_path / "onnx", "-q")
    assert answer.code == 0, answer.err
    exported = unias.load(tmp_path / "onnx", "cpu")
    for path in photos(tiny_data)[:3]:
        ours, theirs = again.predict(path), exported.predict(path)
        np.testing.assert_allclose(theirs.model_map, ours.model_map, rtol=1e-3, atol=1e-4 * ours.model_map.max())
        assert (theirs.ok, theirs.product) == (ours.ok, ours.product)


def test_other_systems_see_photos_whole(cli: Any, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli("train", tiny_data, "-o", tmp_path / "m", "--system", "patchcore", "--tile", 2, "--size", 128)
    assert answer.code == 2
    assert "tile: is for unias; patchcore sees photos whole" in answer.err
