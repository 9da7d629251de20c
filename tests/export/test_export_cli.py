"""``unias export``: what is asked for wrongly, what is said, where things go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

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


def test_default_output_json_and_drawn_textures(cli: Any, small_model: Path, tmp_path: Path) -> None:
    """Beside the model; without --data drawn textures serve, and that is said."""
    model = Path(shutil.copytree(small_model, tmp_path / "model"))
    answer = cli("export", model, "--to", "torch", "--json", "--bundle", tmp_path / "line.unias.zip")
    assert answer.code == 0, answer.err
    assert "warning: compared on drawn textures. Give --data" in answer.err
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
