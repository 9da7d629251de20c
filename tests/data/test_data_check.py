"""What ``unias data`` says of a folder: the counts, and each thing that can be wrong, by name."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from unias.data import check
from unias.data.check import Report, inspect
from unias.data.layouts import Sample, scan
from unias.errors import UsageError

RNG = np.random.default_rng(1)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def noise(height: int = 20, width: int = 20, top: int = 255) -> np.ndarray:
    return RNG.integers(0, top + 1, (height, width), dtype=np.uint8 if top < 256 else np.uint16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clean product: 12 training photos, 2 good and 2 defective test photos with masks."""
    base = tmp_path / "set" / "nut"
    for number in range(12):
        save(base / f"train/good/{number:02}.png", noise())
    mask = np.zeros((20, 20), np.uint8)
    mask[4:9, 4:9] = 255
    for number in range(2):
        save(base / f"test/good/{number}.png", noise())
        save(base / f"test/bent/{number}.bmp", noise())
        save(base / f"ground_truth/bent/{number}_mask.png", mask)
    return tmp_path / "set"


def text(report: Report) -> str:
    out = io.StringIO()
    report.render(Console(file=out, width=100))
    return out.getvalue()


def test_a_clean_folder(root: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = inspect(scan(root), progress=lambda done, total: steps.append((done, total)))
    assert report.errors == ()
    assert report.warnings == ()
    assert steps == [(n, 16) for n in range(1, 17)]
    assert report.as_dict()["products"] == {
        "nut": {
            "product": "nut",
            "train_good": 12,
            "test_good": 2,
            "test_defective": {"bent": 2},
            "masks": 2,
            "smallest": (20, 20),
            "largest": (20, 20),
            "distinct_sizes": 1,
            "bits": {"8": 16},
            "modes": {"L": 16},
            "extensions": {"bmp": 2, "png": 14},
        }
    }
    json.dumps(report.as_dict(), allow_nan=False)
    shown = text(report)
    assert "Nothing wrong found." in shown
    assert "nut: bent 2" in shown


def test_counts_alone_open_no_file(root: Path) -> None:
    (root / "nut/train/good/00.png").write_bytes(b"")
    report = inspect(scan(root), read=False)
    assert report.errors == ()
    assert report.products[0].train_good == 12
    assert report.products[0].smallest is None
    assert "nut" in text(report)


def test_photos_and_masks_that_cannot_be_read_are_errors(root: Path) -> None:
    photo, mask = root / "nut/train/good/03.png", root / "nut/ground_truth/bent/1_mask.png"
    photo.write_bytes(photo.read_bytes()[:200])
    mask.write_bytes(b"")
    report = inspect(scan(root))
    assert len(report.errors) == 2
    assert any(line.startswith(f"{photo}: ") for line in report.errors)
    assert any(line.startswith(f"{mask}: empty, a file of zero bytes") for line in report.errors)
    assert f"error: {photo}: " in text(report)


@pytest.mark.parametrize(("top", "bits"), [(4095, 12), (700, 12), (8000, 13)])
def test_dark_16_bit_photos_suggest_bits(tmp_path: Path, top: int, bits: int) -> None:
    for number in range(10):
        array = noise(top=top)
        array[0, 0] = top
        save(tmp_path / f"nut/{number}.png", array)
    [line] = inspect(scan(tmp_path)).warnings
    assert f"largest value is {top} of 65535" in line
    assert f"say --bits {bits}." in line
    assert inspect(scan(tmp_path), bits=bits).warnings == ()


def test_bright_16_bit_photos_do_not(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / f"nut/{number}.png", noise(top=4095 if number else 9000))
    assert inspect(scan(tmp_path)).warnings == ()


def test_bits_that_do_nothing_or_are_out_of_range(root: Path) -> None:
    [line] = inspect(scan(root), bits=12).warnings
    assert "--bits 12 changes nothing" in line
    with pytest.raises(UsageError):
        inspect(scan(root), bits=3)


def test_an_empty_mask_is_named(root: Path) -> None:
    mask = save(root / "nut/ground_truth/bent/0_mask.png", np.zeros((20, 20), np.uint8))
    [line] = inspect(scan(root)).warnings
    assert line.startswith(f"{mask}: an empty mask for {root}/nut/test/bent/0.bmp")


def test_masks_of_another_size_or_shape(root: Path) -> None:
    half = save(root / "nut/ground_truth/bent/0_mask.png", np.full((10, 10), 255, np.uint8))
    other = save(root / "nut/ground_truth/bent/1_mask.png", np.full((20, 40), 255, np.uint8))
    lines = inspect(scan(root)).warnings
    assert len(lines) == 2
    assert lines[0].startswith(f"{other}: 20 x 40 (height x width), its photo")
    assert lines[1].startswith(f"{half}: a mask of another size")


def test_a_defect_without_a_mask(root: Path) -> None:
    (root / "nut/ground_truth/bent/0_mask.png").unlink()
    [line] = inspect(scan(root)).warnings
    assert line.startswith(f"{root}/nut/test/bent/0.bmp: no mask for a photo of a defect")


def test_the_same_file_in_training_and_test(root: Path) -> None:
    (root / "nut/test/good/0.png").write_bytes((root / "nut/train/good/05.png").read_bytes())
    [line] = inspect(scan(root)).warnings
    assert line.startswith(f"{root}/nut/test/good/0.png = nut/train/good/05.png: the same file")


def test_the_same_file_good_and_defective(root: Path) -> None:
    (root / "nut/test/good/0.png").write_bytes((root / "nut/test/bent/0.bmp").read_bytes())
    [line] = inspect(scan(root)).warnings
    assert line.startswith(f"{root}/nut/test/bent/0.bmp: bent, yet the same file is good at nut/test/good/0.png")


def test_few_photos_and_uneven_ones(root: Path) -> None:
    for number in range(5):
        save(root / f"bolt/train/good/{number}.png", noise(20, 20 if number else 60))
    save(root / "bolt/train/good/9.png", noise(top=65535))
    few, shape, depth = inspect(scan(root)).warnings
    assert few.startswith(f"{root}/bolt: 6 good training photos of bolt")
    assert "0.png is 20 x 60" in shape
    assert depth.startswith(f"{root}/bolt/train/good/9.png: 16 bits")


def test_names_are_not_taken_for_markup(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / f"[red]nut[bold]/{number}.png", noise())
    assert "[red]nut[bold]" in text(inspect(scan(tmp_path)))


def test_what_scan_said_comes_first(root: Path) -> None:
    save(root / "overview.png", noise())
    assert "overview.png" in inspect(scan(root)).warnings[0]


def test_an_interrupt_stops_the_readers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    look = check._look

    def slow(sample: Sample, bits: int | None) -> check._Facts:
        looked.append(sample.key)
        time.sleep(0.02)
        return look(sample, bits)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "_look", slow)
    with pytest.raises(KeyboardInterrupt):
        inspect(scan(root), progress=stop, workers=1)
    assert len(looked) < 8  # of 16
