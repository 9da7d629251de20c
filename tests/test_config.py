"""Settings: checked when made, the same after YAML, refused by name (spec; house rule 5)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from unias.config import (
    BackboneConfig,
    CalibrationConfig,
    Config,
    MapConfig,
    ModelConfig,
    TrainConfig,
    dump_config,
    from_dict,
    load_config,
    to_dict,
)
from unias.errors import UsageError
from unias.presets import ARCHITECTURES, PRESETS, preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_yaml_round_trip(name: str, tmp_path: Path) -> None:
    config = preset(name)
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config
    assert from_dict(Config, to_dict(config)) == config
    assert yaml.safe_load(dump_config(config)) == to_dict(config)


def test_round_trip_of_settings_far_from_any_default(tmp_path: Path) -> None:
    config = Config(
        preset="paper",
        size=384,
        bits=12,
        backbone=BackboneConfig("resnet18", "wéights/file one.pth", False),
        model=ModelConfig(levels=(3, 1), sar="none", cnn="conv3", patch_widths=(), dropout=0.0),
        maps=MapConfig(fusion="mean", weights=(0.5, 1, 2, 1), local_sigma=1.5),
        train=TrainConfig(steps=7, minutes=0.25, learning_rate=3e-5, weight_decay=1e-7, seed=3),
    )
    (tmp_path / "c.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "c.yaml") == config


def test_presets_combine_architecture_and_recipe() -> None:
    assert set(PRESETS) == {"small", "paper", "visa", "released"}
    paper, visa, released, small = (preset(name) for name in ("paper", "visa", "released", "small"))
    assert (paper.model, paper.train.recipe, paper.train.loss_weight) == (ARCHITECTURES["paper"], "mvtec", 10.0)
    assert (visa.model, visa.train.recipe, visa.train.loss_weight) == (ARCHITECTURES["paper"], "visa", 1.0)
    assert (released.model, released.train.recipe) == (ARCHITECTURES["released"], "mvtec")
    assert released.train.schedule == "step_released"
    for source in (paper, visa, released):
        assert (source.train.epochs, source.train.batch_size, source.train.learning_rate) == (1000, 64, 1e-4)
        assert (source.train.clip, source.train.weight_decay, source.train.drop_epochs) == (0.1, 1e-4, 400)
        assert (source.model.width, source.model.ffn, source.model.dropout) == (256, 2048, 0.1)
        assert source.model.norm == "post"
        assert not source.model.standardize
        assert source.backbone.name.startswith("tf_efficientnet_b4")
        assert source.maps == MapConfig()
    assert (paper.model.sar, paper.model.head_padding) == ("paper", "once")
    assert (released.model.sar, released.model.head_padding) == ("released", "each")
    assert all(preset(name).train.cosine_sign == "paper" for name in PRESETS)  # no preset brings the fault back
    assert (small.model.levels, small.model.sar, small.model.cnn) == ((4, 3, 2, 1), "paper", "mgg")
    assert small.model.channel_branch
    assert small.model.filter == "gaussian_concat"


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="preset: 'big' is not one of small, paper, visa, released"):
        preset("big")


def test_every_field_has_a_line_of_documentation() -> None:
    """The comment on a field's own line is its documentation (house rule 5)."""
    source = Path(__import__("unias.config").config.__file__).read_text(encoding="utf-8")
    for kind in (Config, BackboneConfig, ModelConfig, MapConfig, TrainConfig, CalibrationConfig):
        for field in dataclasses.fields(kind):
            line = next(text for text in source.splitlines() if re.match(rf"    {field.name}: ", text))
            assert "  # " in line or dataclasses.is_dataclass(field.default_factory), line


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sise": 224}, r"there is no setting 'sise'. Known: .*size"),
        ({"model": {"widht": 3}}, r"config\.model: there is no setting 'widht'"),
        ({"train": {"optimiser": {"lr": 1}}}, r"config\.train: there is no setting 'optimiser'"),
        ({3: 4}, "there is no setting 3"),
    ],
)
def test_unknown_names(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_dict(Config, values)


@pytest.mark.parametrize(
    "values",
    [
        {"size": "224"},
        {"size": 224.0},
        {"size": True},
        {"size": None},
        {"bits": "12"},
        {"preset": 3},
        {"model": 5},
        {"model": None},
        {"model": {"levels": 4}},
        {"model": {"levels": ["4"]}},
        {"model": {"standardize": 1}},
        {"model": {"dropout": "0.1"}},
        {"model": {"fpn_widths": [1.5, 2, 3, 4]}},
        {"train": {"steps": 1.5}},
        {"train": {"minutes": "ten"}},
        {"train": {"learning_rate": True}},
        {"backbone": {"authors_padding": "yes"}},
    ],
)
def test_wrong_types(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        from_dict(Config, values)


def test_whole_numbers_serve_as_real_ones() -> None:
    config = from_dict(Config, {"train": {"minutes": 30, "learning_rate": 1}, "maps": {"weights": [1, 2, 3, 4]}})
    assert isinstance(config.train.minutes, float)
    assert config.maps.weights == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize("size", [128, 160, 224, 256, 384, 1024])
def test_sizes_that_work(size: int) -> None:
    assert Config(size=size).grid == size // 16
    assert Config(size=size).grid % 2 == 0  # the channel branch needs a number of tokens that divides by four


@pytest.mark.parametrize("size", [0, -224, 96, 112, 127, 129, 144, 200, 225])
def test_sizes_that_do_not(size: int) -> None:
    with pytest.raises(UsageError, match=f"size: {size} is not a multiple of 32 from 128 up"):
        Config(size=size)


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        (Config, {"bits": 8}, "bits"),
        (Config, {"bits": 17}, "bits"),
        (ModelConfig, {"filter": "median"}, "filter: 'median' is not one of none, average, gaussian, gaussian_concat"),
        (ModelConfig, {"sar": "yes"}, "sar"),
        (ModelConfig, {"cnn": "conv"}, "cnn"),
        (ModelConfig, {"norm": "none"}, "norm"),
        (ModelConfig, {"head": "linear"}, "head"),
        (ModelConfig, {"head_padding": "twice"}, "head_padding"),
        (ModelConfig, {"jitter_norm": "l1"}, "jitter_norm"),
        (ModelConfig, {"levels": ()}, "levels"),
        (ModelConfig, {"levels": (5,)}, "levels"),
        (ModelConfig, {"levels": (4, 0)}, "levels"),
        (ModelConfig, {"fpn_widths": (256,)}, "fpn_widths"),
        (ModelConfig, {"patch_widths": (1, 2)}, "patch_widths"),
        (ModelConfig, {"width": 130}, "width"),
        (ModelConfig, {"width": 36, "heads": 8}, "width"),
        (ModelConfig, {"dropout": 1.0}, "dropout"),
        (ModelConfig, {"dropout": -0.1}, "dropout"),
        (ModelConfig, {"jitter_probability": 1.1}, "jitter_probability"),
        (ModelConfig, {"jitter_scale": -1.0}, "jitter_scale"),
        (ModelConfig, {"neighbour_window": 6}, "neighbour_window"),
        (ModelConfig, {"neighbour_window": -1}, "neighbour_window"),
        (MapConfig, {"fusion": "sum"}, "fusion"),
        (MapConfig, {"weights": (0.0, 0.0, 0.0, 0.0)}, "weights"),
        (TrainConfig, {"seed": -1}, "seed"),
        (TrainConfig, {"schedule": "cosine"}, "warmup_steps"),
        (MapConfig, {"weights": (1.0,)}, "weights"),
        (MapConfig, {"kernels": (3, 5, 7, 8)}, "odd"),
        (TrainConfig, {"recipe": "coco"}, "recipe"),
        (TrainConfig, {"cosine_sign": "minus"}, "cosine_sign"),
        (TrainConfig, {"schedule": "linear"}, "schedule"),
        (TrainConfig, {"precision": "16"}, "precision"),
        (TrainConfig, {"batch_size": 0}, "batch_size"),
        (TrainConfig, {"epochs": 0}, "epochs"),
        (TrainConfig, {"steps": 0}, "steps"),
        (TrainConfig, {"minutes": 0.0}, "minutes"),
        (TrainConfig, {"hold_out": 1.0}, "hold_out"),
        (TrainConfig, {"learning_rate": 0.0}, "learning_rate"),
        (TrainConfig, {"ema": 1.0}, "ema"),
    ],
)
def test_values_are_checked(kind: type, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        kind(**settings)
    with pytest.raises(UsageError):
        from_dict(kind, {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()})


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("small").size = 256  # type: ignore[misc]


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "hello", "\x00"])
def test_files_that_are_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"bad\.yaml"):
        load_config(tmp_path / "bad.yaml")


def test_missing_file_binary_file_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00size")
    with pytest.raises(UsageError, match=r"binary\.yaml"):
        load_config(tmp_path / "binary.yaml")
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    assert load_config(tmp_path / "empty.yaml") == Config()


def test_a_fault_names_file_and_setting(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train:\n  steps: many\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.yaml\.train\.steps: int is expected, got 'many'"):
        load_config(tmp_path / "mine.yaml")


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "code.yaml").write_text(
        f"size: !!python/object/apply:os.mkdir ['{mark.as_posix()}']\n", encoding="utf-8"
    )
    with pytest.raises(UsageError):
        load_config(tmp_path / "code.yaml")
    assert not mark.exists()
