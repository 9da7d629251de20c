"""What the tests of whole commands share: a small data set, settings that train in a second, a trained model, the CLI."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from PIL import Image

from unias.config import BackboneConfig, Config, MapConfig, ModelConfig, TrainConfig, dump_config

if TYPE_CHECKING:
    from unias.inference.predictor import Model

SIDE = 96  # of the photos, in pixels
# product: (texture, its two colours); a space and a letter outside ASCII in each name
PRODUCTS = {
    "Dichtung groß": ("stripes", (60, 70, 90), (150, 165, 180)),
    "plaque gravée": ("cells", (170, 120, 60), (230, 200, 150)),
}
DEFECTS = ("scratch", "hole", "hole")


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


class Trained(NamedTuple):
    """A finished training: the folder it wrote, the model it gave back, what it said."""

    folder: Path
    model: Model
    said: list[str]


MakeData = Callable[..., Path]
Cli = Callable[..., Answer]
Tree = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the user's feature cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    """Sums in one order, so that numbers can be compared bit for bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    with _single_thread():
        yield


def _paint(product: str, number: int, side: int) -> np.ndarray:
    from unias.data.textures import TEXTURES

    kind, first, second = PRODUCTS.get(product, next(iter(PRODUCTS.values())))
    rng = np.random.default_rng([sum(product.encode("utf-8")), number])
    field = TEXTURES[kind]((side, side), rng)[..., None]
    colour = np.asarray(first) + (np.asarray(second) - np.asarray(first)) * field
    return np.clip(np.rint(colour + rng.normal(0, 5, (side, side, 1))), 0, 255).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _make_data(
    root: Path,
    products: tuple[str, ...] = tuple(PRODUCTS),
    train: int = 8,
    good: int = 3,
    defects: tuple[str, ...] = DEFECTS,
    masks: bool = True,
) -> Path:
    """A folder in MVTec-AD's layout; defects are drawn by our own generator, with exact masks."""
    from unias.data.defects import draw_defect

    for product in products:
        for number in range(train):
            _save(root / product / "train" / "good" / f"{number:03}.png", _paint(product, number, SIDE))
        for number in range(good):
            _save(root / product / "test" / "good" / f"{number:03}.png", _paint(product, 100 + number, SIDE))
        for number, kind in enumerate(defects):
            rng = np.random.default_rng([number, 7])
            pixels, mask, _ = draw_defect(_paint(product, 200 + number, SIDE), rng, kind)
            _save(root / product / "test" / kind / f"{number:03}.png", pixels)
            if masks:
                _save(root / product / "ground_truth" / kind / f"{number:03}_mask.png", mask.astype(np.uint8) * 255)
    return root


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    """make_data(root, products=..., train=8, good=3, defects=..., masks=True) -> root."""
    return _make_data


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products, 8 training photos, 3 good and 3 defective test photos each. Nobody changes it."""
    return _make_data(tmp_path_factory.mktemp("data") / "Fotos übrig")


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """The small preset's method, shrunk until it trains in a second; every source of chance is on."""
    return Config(
        preset="small",
        size=128,
        backbone=BackboneConfig(name="tf_efficientnet_lite0"),
        model=ModelConfig(
            standardize=True,
            jitter_scale=1.0,
            jitter_norm="rms",
            width=32,
            ffn=64,
            dropout=0.1,
            norm="pre",
            encoder_layers=1,
            fpn_widths=(32, 32, 16, 16),
            patch_widths=(),
            cnn_residual=True,
            head="subpixel",
        ),
        maps=MapConfig(fusion="mean", weights=(0.5, 1.0, 2.0, 1.0), local_sigma=5.0, wide_sigma=8.0, drawn=2),
        train=TrainConfig(
            recipe="none",
            batch_size=4,
            steps=6,
            learning_rate=1e-3,
            clip=1.0,
            schedule="cosine",
            warmup_steps=2,
            ema=0.9,
            cache=True,
            precision="32-true",
            keep_photos=2,
        ),
    )


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """The same settings as a file for ``--config``."""
    path = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    path.write_text(dump_config(tiny_config), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_config: Config) -> Trained:
    """The tiny model, trained once on one thread. Nobody changes its folder."""
    import unias

    said: list[str] = []

    class Heard(unias.Progress):
        def say(self, text: str) -> None:
            said.append(text)

    folder = tmp_path_factory.mktemp("trained") / "Modell für alle"
    with _single_thread():
        model = unias.train(tiny_data, folder, config=tiny_config, threads=1, progress=Heard("lines"))
    return Trained(folder, model, said)


@pytest.fixture(scope="session")
def model_folder(trained: Trained) -> Path:
    return trained.folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    """The tiny model as read back from its folder."""
    import unias

    return unias.load(model_folder, device="cpu")


@pytest.fixture(scope="session")
def cli() -> Cli:
    """cli("train", data, "-o", model) -> (exit code, standard output, standard error), in this process, on one thread."""

    def run(*arguments: object) -> Answer:
        from unias.cli import main

        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
        with (
            _single_thread(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            main([str(argument) for argument in arguments])
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
        return Answer(int(end.value.code or 0), *texts)

    return run


@pytest.fixture(scope="session")
def tree() -> Tree:
    """tree(folder) -> {path below it: hash of its bytes, "" for a folder}: the same before and after = nothing changed."""

    def look(folder: Path) -> dict[str, str]:
        found = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        return found

    return look


@pytest.fixture
def retrain(tiny_data: Path, tiny_config: Config, tmp_path: Path, one_thread: None) -> Callable[..., Trained]:
    """retrain("name", data=..., config=..., **fields of TrainConfig or arguments of unias.train) -> Trained."""
    import unias

    fields = {item.name for item in dataclasses.fields(TrainConfig)} - {"steps", "minutes", "seed"}

    def run(name: str, data: Path | None = None, config: Config | None = None, **wishes: object) -> Trained:
        said: list[str] = []

        class Heard(unias.Progress):
            def say(self, text: str) -> None:
                said.append(text)

        base = config or tiny_config
        changes = {key: wishes.pop(key) for key in list(wishes) if key in fields}
        base = dataclasses.replace(base, train=dataclasses.replace(base.train, **changes))  # type: ignore[arg-type]
        wishes.setdefault("progress", Heard("lines"))
        model = unias.train(data or tiny_data, tmp_path / name, config=base, threads=1, **wishes)  # type: ignore[arg-type]
        return Trained(tmp_path / name, model, said)

    return run


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """For commands in a process of their own: one thread, warnings are errors."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}
