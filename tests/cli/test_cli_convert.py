"""``unias convert``: a released checkpoint becomes a model folder."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cli_answers import strict

import unias
from unias.backbones.timm_backbone import FrozenBackbone, create_network, use_authors_padding
from unias.config import BackboneConfig
from unias.data.decode import load_input
from unias.inference.store import build_detector
from unias.model.convert import our_name
from unias.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]


INVERSE: list[tuple[str, str]] = [
    (r"pixel_decoder\.lateral\.(\d)\.conv\.(\w+)", r"pixel_decoder.adapter_\1.\2"),
    (r"pixel_decoder\.lateral\.(\d)\.norm\.(\w+)", r"pixel_decoder.adapter_\1.norm.\2"),
    (r"pixel_decoder\.top_output\.(\w+)", r"pixel_decoder.layer_4.\1"),
    (r"pixel_decoder\.output\.(\d)\.conv\.(\w+)", r"pixel_decoder.layer_\1.\2"),
    (r"pixel_decoder\.output\.(\d)\.norm\.(\w+)", r"pixel_decoder.layer_\1.norm.\2"),
    (r"pixel_decoder\.input_projection\.(\w+)", r"pixel_decoder.input_proj.\1"),
    (
        r"pixel_decoder\.encoder\.(\d)\.attention\.attention\.(.+)",
        r"pixel_decoder.transformer.encoder.layers.\1.self_attn.\2",
    ),
    (
        r"pixel_decoder\.encoder\.(\d)\.attention\.norm\.(\w+)",
        r"pixel_decoder.transformer.encoder.layers.\1.norm1.\2",
    ),
    (
        r"pixel_decoder\.encoder\.(\d)\.feed_forward\.norm\.(\w+)",
        r"pixel_decoder.transformer.encoder.layers.\1.norm2.\2",
    ),
    (r"pixel_decoder\.encoder\.(\d)\.feed_forward\.(.+)", r"pixel_decoder.transformer.encoder.layers.\1.\2"),
    (r"tokens\.patch\.<(\d)>\.(\w+)", r"predictor.patch_embed.\1.proj.\2"),
    (r"tokens\.project\.<(\d)>\.(\w+)", r"predictor.input_proj.\1.\2"),
    (r"tokens\.level_embedding", r"predictor.level_embed_src.weight"),
    (r"query_source\.(\w+)", r"predictor.feature_projector.\1"),
    (r"query\.query", r"predictor.spatial_query_feat.weight"),
    (r"decoder\.query_position", r"predictor.spatial_query_embed.weight"),
    (r"query\.channel_weight\.(.+)", r"predictor.query_processor.channel_weight.agg.\1"),
    (r"query\.spatial_weight\.(.+)", r"predictor.query_processor.spatial_weight.\1"),
    (r"query\.adaptor\.branches\.(\d)\.(\d)\.(\w+)", r"predictor.query_processor.adaptor.conv\1.\2.\3"),
    (r"decoder\.layers\.<(\d)>\.cnn\.branches\.(\d)\.(\d)\.(\w+)", r"predictor.layer_adaptors.\1.conv\2.\3.\4"),
    (
        r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.cross\.attention\.(.+)",
        r"predictor.transformer_block.\1.\2CrossAttnLayer.multihead_attn.\3",
    ),
    (
        r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.self\.attention\.(.+)",
        r"predictor.transformer_block.\1.\2SelfAttnLayer.self_attn.\3",
    ),
    (r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.cross\.(.+)", r"predictor.transformer_block.\1.\2CrossAttnLayer.\3"),
    (r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.self\.(.+)", r"predictor.transformer_block.\1.\2SelfAttnLayer.\3"),
    (r"decoder\.layers\.<(\d)>\.hybrid\.(\w+)\.feed_forward\.(.+)", r"predictor.transformer_block.\1.\2FFNLayer.\3"),
    (r"heads\.norm\.(\w+)", r"predictor.decoder_norm.\1"),
]


def released_name(ours: str) -> str:
    """The authors' name of one of our tensors: ours is the only table that goes this way, so a slip shows."""
    heads = re.fullmatch(r"heads\.heads\.(\d)\.layers\.(\d)\.(\w+)", ours)
    if heads:
        return f"predictor.out_agg.{4 - int(heads[1])}.{int(heads[2]) + 1}.{heads[3]}"
    marked = re.sub(
        r"^(tokens\.patch|tokens\.project|decoder\.layers)\.(\d)",
        lambda found: f"{found[1]}.<{4 - int(found[2])}>",
        ours,
    )
    marked = marked.replace(".hybrid.spatial.", ".hybrid.Spatial.").replace(".hybrid.channel.", ".hybrid.Channel.")
    for pattern, template in INVERSE:
        if re.fullmatch(pattern, marked):
            return re.sub(pattern, template, marked)
    raise AssertionError(f"no released name for {ours}")


class Released(NamedTuple):
    """A checkpoint as the authors' code leaves it, at small widths with random weights, and the same built directly."""

    folder: Path
    predict: Callable[[Path], np.ndarray]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    name = PRESETS["released"].backbone.name
    network, channels = create_network(name)
    backbone = {key: value.clone() for key, value in network.state_dict().items()}
    settings = dataclasses.replace(
        PRESETS["released"],
        size=128,
        backbone=BackboneConfig(name, authors_padding=True),
        model=dataclasses.replace(
            PRESETS["released"].model, width=32, ffn=64, fpn_widths=(32, 32, 32, 32), patch_widths=(32, 48, 64)
        ),
    )
    use_authors_padding(network, name)
    detector = build_detector(settings, ("any",), FrozenBackbone(network, channels)).eval()
    head: OrderedDict[str, torch.Tensor] = OrderedDict()
    for ours, value in detector.unias.state_dict().items():
        theirs = released_name(ours)
        assert our_name(theirs) == ours
        if ours == "query.query":
            value = value.permute(0, 2, 3, 1).flatten(0, 2)
        head[f"module.sem_seg_head.{theirs}"] = value
    whole = OrderedDict(head)
    for place, value in enumerate(backbone.values()):
        whole[f"module.backbone._{place}.weight"] = value
    whole["module.backbone._conv_head.weight"] = torch.zeros(3, 3)
    whole["module.backbone._fc.bias"] = torch.zeros(1000)
    torch.save({"epoch": 1000, "state_dict": whole, "best_metric": np.float64(0.98)}, folder / "whole.pth")
    torch.save({"state_dict": head}, folder / "head.pth")
    torch.save(backbone, folder / "b4.pth")

    def predict(photo: Path) -> np.ndarray:
        with torch.inference_mode():
            images = torch.from_numpy(load_input(photo, 128)[0])[None]
            return detector(images).anomaly_map[0].numpy()

    return Released(folder, predict)


@pytest.mark.slow
def test_released_checkpoint_becomes_a_model(cli: Any, released: Released, tiny_data: Path, tmp_path: Path) -> None:
    answer = cli("convert", released.folder / "whole.pth", "-o", tmp_path / "model", "--json")
    assert answer.code == 0, answer.err
    assert strict(answer.out)["products"] == "any"
    photo = sorted(tiny_data.glob("*/test/hole/*.png"))[0]
    expected = released.predict(photo)
    converted = unias.load(tmp_path / "model", device="cpu")
    assert converted.config.backbone.authors_padding
    assert converted.config.size == 128
    result = converted.predict(photo)
    assert expected.max() > 0
    assert np.allclose(result.model_map, expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert (result.product, result.ok) == ("any", True)

    bare = cli(
        "convert", released.folder / "head.pth", "-o", tmp_path / "bare", "--weights", released.folder / "b4.pth", "-q"
    )
    assert bare.code == 0, bare.err
    again = unias.load(tmp_path / "bare", device="cpu").predict(photo)
    assert np.array_equal(again.model_map, result.model_map)

    second = cli("convert", released.folder / "whole.pth", "-o", tmp_path / "model")
    assert second.code == 3
    assert "holds a finished model already" in second.err


@pytest.mark.slow
def test_converted_with_good_photos_has_provisional_cuts(
    cli: Any, released: Released, tiny_data: Path, tmp_path: Path
) -> None:
    command = ("convert", released.folder / "whole.pth", "-o", tmp_path / "model", "--data", tiny_data)
    answer = cli(*command)
    assert answer.code == 0, answer.err
    converted = unias.load(tmp_path / "model", device="cpu")
    assert [product.name for product in converted.products] == ["Dichtung groß", "plaque gravée"]
    for product in converted.products:
        assert product.cut.provisional
        assert len(product.held_out) == 4
        scores = [converted.predict(tiny_data / key, product=product.name).raw_score for key in product.held_out]
        assert product.cut.value == pytest.approx(max(scores), rel=1e-4)
    card = (tmp_path / "model" / "card.md").read_text("utf-8")
    assert "provisional" in card
    assert cli("predict", tmp_path / "model", tiny_data, "-o", tmp_path / "out", "-q").code == 0


@pytest.mark.slow
def test_documented_commands(
    cli: Any, released: Released, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:src|tests)/[\w./]+)`", text)
    assert len(files) > 20
    assert all((ROOT / file).is_file() for file in files)
    (tmp_path / "photos").symlink_to(tiny_data)
    (tmp_path / "checkpoint.pth").symlink_to(released.folder / "whole.pth")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    assert [line.split()[:2] for line in lines] == [["unias", "convert"], ["unias", "evaluate"]]
    for line in lines:
        answer = cli(*line.split()[1:])
        assert answer.code == 0, answer.err
    assert (tmp_path / "released-report" / "index.html").is_file()


@pytest.mark.slow
def test_checkpoints_that_do_not_fit_leave_nothing(cli: Any, tree: Any, released: Released, tmp_path: Path) -> None:
    content = torch.load(released.folder / "whole.pth", weights_only=False)["state_dict"]
    without = {key: value for key, value in content.items() if not key.endswith("decoder_norm.bias")}
    torch.save({"state_dict": without}, tmp_path / "without.pth")
    other = {key: torch.zeros(5) if key.endswith("backbone._3.weight") else value for key, value in content.items()}
    torch.save({"state_dict": other}, tmp_path / "other.pth")
    before = tree(tmp_path)
    for name, message in (("without.pth", "heads.norm.bias is missing"), ("other.pth", "backbone tensor _3.weight")):
        answer = cli("convert", tmp_path / name, "-o", tmp_path / "model", "-q")
        assert answer.code == 3
        assert message in answer.err
        assert name in answer.err
    bare = cli("convert", released.folder / "head.pth", "-o", tmp_path / "model", "--weights", "none.pth", "-q")
    assert bare.code == 4
    assert tree(tmp_path) == before


def test_no_figure_is_nan_in_json() -> None:
    with pytest.raises(AssertionError):
        strict(json.dumps({"a": math.nan}) + "\n")
