"""Reading a checkpoint of the authors' code: its classes without their code, its names without guessing."""

from __future__ import annotations

import os
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from unias.errors import DataError
from unias.model.convert import convert_backbone, convert_head, our_name, read_released, split_released

RAN: list[str] = []


class EasyDict(dict):  # type: ignore[type-arg]
    """Made as the real one is: every entry is an item and an attribute, so that it pickles with items and a state."""

    def __init__(self, values: dict[str, object]) -> None:
        for key, value in values.items():
            setattr(self, key, EasyDict(value) if isinstance(value, dict) else value)

    def __setattr__(self, name: str, value: object) -> None:
        RAN.append(name)
        super().__setattr__(name, value)
        super().__setitem__(name, value)

    def __setstate__(self, state: object) -> None:
        RAN.append("setstate")

    __setitem__ = __setattr__


EasyDict.__module__ = "easydict"
EasyDict.__qualname__ = "EasyDict"


@pytest.fixture
def easydict(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of that name, as it was where the file was written."""
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easydict", module)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path, easydict: types.ModuleType) -> Path:
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = torch.optim.AdamW([parameter], lr=1e-4)
    parameter.sum().backward()
    optimizer.step()
    state = OrderedDict(
        [
            ("module.backbone._conv_stem.weight", torch.full((4, 3, 3, 3), 0.5)),
            ("module.sem_seg_head.predictor.decoder_norm.weight", torch.arange(8.0)),
            ("module.sem_seg_head.predictor.decoder_norm.bias", -torch.arange(8.0)),
        ]
    )
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(
        {
            "epoch": 1000,
            "arch": EasyDict(
                {"backbone": {"type": "efficientnet_b4", "outlayers": [1, 5, 9, 21]}, "neighbor_size": [7, 7]}
            ),
            "state_dict": state,
            "best_metric": np.float64(0.9829),
            "optimizer": optimizer.state_dict(),
        },
        path,
    )
    RAN.clear()
    return path


def check_content(path: Path) -> None:
    state = read_released(path)
    assert list(state) == [
        "module.backbone._conv_stem.weight",
        "module.sem_seg_head.predictor.decoder_norm.weight",
        "module.sem_seg_head.predictor.decoder_norm.bias",
    ]
    assert torch.equal(state["module.sem_seg_head.predictor.decoder_norm.weight"], torch.arange(8.0))


def test_plain_torch_refuses_it(checkpoint: Path) -> None:
    """Otherwise this file would prove nothing."""
    with pytest.raises(Exception, match="easydict"):
        torch.load(checkpoint, weights_only=True)


def test_reads_where_easydict_is_not_installed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "easydict")
    check_content(checkpoint)


def test_runs_no_code_of_its_classes(checkpoint: Path) -> None:
    assert "easydict" in sys.modules
    check_content(checkpoint)
    assert RAN == []


def test_reads_the_older_numpy_name(checkpoint: Path, tmp_path: Path) -> None:
    """numpy 1 wrote numpy.core.multiarray, numpy 2 writes numpy._core.multiarray."""
    older = tmp_path / "older.pth"
    changed = 0
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(older, "w", zipfile.ZIP_STORED) as target:
        for entry in source.namelist():
            content = source.read(entry)
            if entry.endswith("data.pkl"):
                new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
                if new not in content:
                    new, old = old, new
                changed += content.count(new)
                content = content.replace(new, old)
            target.writestr(entry, content)
    assert changed == 1
    check_content(older)


def test_nothing_stays_allowed_afterwards(checkpoint: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_released(checkpoint)
    assert set(torch.serialization.get_safe_globals()) == before


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "arch": Malicious(f"echo > {mark}")}, path)
    with pytest.raises(DataError, match=r"bad\.pth: cannot be read"):
        read_released(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "a dict with state_dict is expected"),
        ({"state_dict": {}}, "no state_dict of tensors"),
        ({"state_dict": 3}, "no state_dict of tensors"),
        ({"epoch": 1}, "no state_dict of tensors"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(DataError, match=message):
        read_released(tmp_path / "other.pth")


def test_no_file_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_released(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        read_released(tmp_path / "text.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        read_released(tmp_path / "empty.pth")


def test_bare_state_dict_is_read(tmp_path: Path) -> None:
    torch.save({"predictor.decoder_norm.weight": torch.ones(4)}, tmp_path / "bare.pth")
    assert list(read_released(tmp_path / "bare.pth")) == ["predictor.decoder_norm.weight"]


def test_split_takes_the_prefixes_off() -> None:
    tensors = {
        "module.sem_seg_head.predictor.decoder_norm.weight": torch.zeros(1),
        "module.backbone._bn0.weight": torch.ones(1),
        "sem_seg_head.pixel_decoder.input_proj.bias": torch.zeros(2),
    }
    head, backbone = split_released(tensors)
    assert list(head) == ["predictor.decoder_norm.weight", "pixel_decoder.input_proj.bias"]
    assert list(backbone) == ["_bn0.weight"]
    assert split_released({"predictor.decoder_norm.weight": torch.zeros(1)})[1] == {}


@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("pixel_decoder.adapter_2.weight", "pixel_decoder.lateral.2.conv.weight"),  # these two carry the level itself
        ("pixel_decoder.layer_1.norm.bias", "pixel_decoder.output.1.norm.bias"),
        ("pixel_decoder.layer_4.weight", "pixel_decoder.top_output.weight"),
        ("predictor.patch_embed.1.proj.weight", "tokens.patch.3.weight"),  # the others count from the coarsest
        ("predictor.input_proj.0.bias", "tokens.project.4.bias"),
        ("predictor.out_agg.3.2.weight", "heads.heads.1.layers.1.weight"),
        ("predictor.layer_adaptors.2.conv3.1.weight", "decoder.layers.2.cnn.branches.3.1.weight"),
        ("predictor.layer_adaptors.0.conv0.bias", "decoder.layers.4.cnn.branches.0.0.bias"),
        (
            "predictor.transformer_block.3.ChannelCrossAttnLayer.multihead_attn.in_proj_weight",
            "decoder.layers.1.hybrid.channel.cross.attention.in_proj_weight",
        ),
        (
            "predictor.transformer_block.1.SpatialFFNLayer.norm.weight",
            "decoder.layers.3.hybrid.spatial.feed_forward.norm.weight",
        ),
        ("predictor.unknown.weight", None),
        ("pixel_decoder.adapter_2.weight.extra", None),
    ],
)
def test_names_by_hand(released: str, ours: str | None) -> None:
    assert our_name(released) == ours


def test_every_converted_name_exists_in_the_released_model(tiny_model) -> None:
    model, _ = tiny_model(sar="released", head_padding="each")
    expected = model.state_dict()
    for name in (
        "tokens.patch.3.weight",
        "query.query",
        "decoder.layers.2.cnn.branches.3.1.weight",
        "query.adaptor.branches.0.0.weight",
        "decoder.layers.1.hybrid.channel.cross.attention.in_proj_weight",
        "pixel_decoder.encoder.0.attention.attention.in_proj_weight",
    ):
        assert name in expected


def test_a_head_of_other_settings_is_refused_and_changes_nothing(tiny_model) -> None:
    model, _ = tiny_model(sar="released", head_padding="each")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {"predictor.decoder_norm.weight": torch.full((32,), 9.0), "predictor.decoder_norm.bias": torch.zeros(31)}
    with pytest.raises(
        DataError, match=r"decoder_norm\.bias has shape \(31,\), expected \(32,\).*Nothing was converted"
    ):
        convert_head(given, model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_query_rows_become_two_maps(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows T g .. T g + T - 1 of the released embedding are block g, row by row."""
    model, _ = tiny_model(sar="released", head_padding="each")
    rows = torch.arange(2 * 64 * 32.0).view(128, 32)
    others = {key: value for key, value in model.state_dict().items() if key != "query.query"}
    monkeypatch.setattr("unias.model.convert.our_name", lambda key: "query.query" if key == "rows" else key)
    convert_head({"rows": rows, **others}, model)
    query = model.query.query.detach()
    for block, channel, row, column in ((0, 0, 0, 0), (0, 5, 2, 7), (1, 31, 7, 7), (1, 3, 0, 1)):
        assert query[block, channel, row, column] == rows[64 * block + 8 * row + column, channel]


def test_backbone_by_order() -> None:
    released = {
        "_conv_stem.weight": torch.full((2, 3, 1, 1), 1.0),
        "_bn0.running_mean": torch.full((2,), 2.0),
        "_blocks.0._bn1.weight": torch.full((4,), 3.0),
        "_conv_head.weight": torch.zeros(9, 9),
        "_bn1.weight": torch.zeros(9),
        "_fc.weight": torch.zeros(9, 9),
    }
    expected = {
        "conv_stem.weight": torch.zeros(2, 3, 1, 1),
        "bn1.running_mean": torch.zeros(2),
        "blocks.0.0.bn2.weight": torch.zeros(4),
    }
    converted = convert_backbone(released, expected, "file.pth")
    assert {key: float(value.flatten()[0]) for key, value in converted.items()} == {
        "conv_stem.weight": 1.0,
        "bn1.running_mean": 2.0,
        "blocks.0.0.bn2.weight": 3.0,
    }
    with pytest.raises(
        DataError,
        match=r"file\.pth: backbone tensor _bn0\.running_mean has shape \(2,\), bn1\.running_mean needs \(5,\)",
    ):
        convert_backbone(released, expected | {"bn1.running_mean": torch.zeros(5)}, "file.pth")
    with pytest.raises(DataError, match="has 3 tensors, 4 are needed"):
        convert_backbone(released, expected | {"more": torch.zeros(1)}, "file.pth")
