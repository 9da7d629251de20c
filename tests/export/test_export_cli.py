"""``unias export``: what is asked for wrongly, what is said, where things go."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from unias.inference.store import load_model
from unias.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL, DATA, OUT = "<model>", "<data>", "<out>"
FAULTS: list[tuple[int, tuple[str, ...], str]] = [
    (2, ("export", MODEL), "give --to onnx, openvino or torch"),
    (2, ("export", MODEL, "--to", "paper"), "--to: 'paper'"),
    (2, ("export", MODEL, "--int8", "--bundle", "x.zip"), "--int8 and -o go with --to"),
    (2, ("export", MODEL, "-o", OUT, "--bundle", "x.zip"), "--int8 and -o go with --to"),
    (2, ("export", MODEL, "--to", "torch", "--int8", "-o", OUT), "--int8: is for --to openvino"),
    (
        2,
        ("export", MODEL, "--to", "openvino", "--int8", "-o", OUT),
        "--int8: 8 bits are calibrated on good photos. Give --data",
    ),
    (2, ("export", MODEL, "--to", "torch", "-o", OUT, "--pixels", "uint4"), "--pixels: 'uint4'"),
    (2, ("export", MODEL, "--to", "torch", "-o", OUT, "--wheels", DATA), "--wheels goes with --bundle"),
    (2, ("export", MODEL, "--bundle", f"{OUT}.tar"), "does not end in .zip"),
    (2, ("export", MODEL, "--bundle", f"{OUT}.zip", "--wheels", DATA), "holds no .whl files"),
    (
        2,
        ("export", MODEL, "--to", "torch", "-o", OUT, "--with-photos"),
        "--with-photos goes with --bundle FILE.zip of a trained",
    ),
    (2, ("export", MODEL, "--to", "torch", "--bundle", f"{OUT}.zip", "--with-photos"), "exports keep no photos"),
    (3, ("export", "none", "--to", "torch", "-o", OUT), "none: there is no such model folder"),
    (3, ("export", "none", "--bundle", f"{OUT}.zip"), "none: there is no such model folder"),
    (3, ("export", MODEL, "--to", "torch", "-o", MODEL), "exists already"),
    (3, ("export", MODEL, "--to", "torch", "-o", OUT, "--data", "none"), "none: no such folder"),
]


@pytest.mark.parametrize(("code", "words", "said"), FAULTS, ids=[" ".join(words[2:]) for _, words, _ in FAULTS])
def test_faults(
    code: int, words: tuple[str, ...], said: str, cli: Any, small_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    places = {MODEL: small_model, DATA: tiny_data, OUT: tmp_path / "out"}
    arguments = []
    for word in words:
        for mark, place in places.items():
            word = word.replace(mark, str(place))
        arguments.append(word)
    answer = cli(*arguments)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert answer.out == ""
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("--bundle", "line.tar"), "does not end in .zip", 2),
        (("--bundle", "old.zip"), "old.zip: exists already", 3),
        (("--bundle", "line.zip", "--wheels", "empty"), "holds no .whl files", 2),
        (("--bundle", "line.zip", "--wheels", "wheels"), "lacks unias, torch ", 2),
    ],
)
def test_a_bundle_is_looked_at_before_the_export(
    words: tuple[str, ...],
    said: str,
    code: int,
    cli: Any,
    small_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not after the minutes that an export takes."""
    monkeypatch.setattr("unias.export.run.export_model", lambda *_, **__: pytest.fail("the export began"))
    (tmp_path / "old.zip").write_bytes(b"mine")
    for folder in ("empty", "wheels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "wheels" / "part-1.0-py3-none-any.whl").write_bytes(b"a wheel")
    places = [word if word.startswith("--") else tmp_path / word for word in words]
    answer = cli("export", small_model, "--to", "onnx", "-o", tmp_path / "out", *places)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert not (tmp_path / "out").exists()


def test_photos_left_out_are_said(cli: Any, model_folder: Path, tmp_path: Path) -> None:
    answer = cli("export", model_folder, "--bundle", tmp_path / "line.zip")
    assert answer.code == 0, answer.err
    assert "were left out (--with-photos packs them)" in answer.out
    answer = cli("export", model_folder, "--bundle", tmp_path / "whole.zip", "--with-photos")
    assert answer.code == 0, answer.err
    assert "left out" not in answer.out
    assert (tmp_path / "whole.zip").stat().st_size > (tmp_path / "line.zip").stat().st_size


@pytest.mark.parametrize(
    ("pixels", "bits", "warned"), [("auto", None, True), ("float32", None, False), ("auto", 12, False)]
)
def test_pixels_without_photos_are_said(
    pixels: str, bits: int | None, warned: bool, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 16-bit photos becomes a graph that refuses them, unless somebody says float32."""
    from unias.export import run

    monkeypatch.setattr(run, "drawn_pictures", lambda *_: None)
    stored = load_model(small_model, torch.device("cpu"))
    stored = dataclasses.replace(stored, config=dataclasses.replace(stored.config, bits=bits))
    said: list[str] = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    run._photos(stored, None, pixels, Heard("lines"))
    (line,) = said
    assert line.startswith("warning: compared on drawn textures")
    assert (
        "the graph takes 8-bit pixels: it refuses photos of more bits (--pixels float32 takes them)" in line
    ) is warned


def test_default_output_json_and_drawn_textures(cli: Any, small_model: Path, tmp_path: Path) -> None:
    """Beside the model; without --data drawn textures serve, and that is said."""
    model = Path(shutil.copytree(small_model, tmp_path / "model"))
    answer = cli("export", model, "--to", "torch", "--json", "--bundle", tmp_path / "line.unias.zip")
    assert answer.code == 0, answer.err
    assert "warning: compared on drawn textures, and the graph takes 8-bit pixels" in answer.err
    document = json.loads(answer.out)
    assert document["model"] == (tmp_path / "model-torch").as_posix()
    assert document["engine"] == "torch"
    assert document["difference"]["source"] == "drawn textures"
    assert document["difference"]["largest"] < 1e-4
    assert document["bytes"] == (tmp_path / "line.unias.zip").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line.unias.zip", "model", "model-torch"]


@pytest.mark.slow
def test_model_is_untouched(cli: Any, small_model: Path, tree: Any, tiny_data: Path, tmp_path: Path) -> None:
    before = tree(small_model), tree(tiny_data)
    answer = cli("export", small_model, "--to", "torch", "-o", tmp_path / "out", "--data", tiny_data)
    assert answer.code == 0, answer.err
    assert "maps differ from the trained model's by at most" in answer.out
    assert f"Export: {tmp_path / 'out'} (torch, uint8 pixels" in answer.out
    assert (tree(small_model), tree(tiny_data)) == before
