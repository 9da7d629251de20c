"""Pictures of one prediction: any proportions, names that cannot collide, tables that survive an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unias.inference.result import Result, pred_score
from unias.report.predictions import COLUMNS, _names, _rows, _write_pictures


def result(path: Path, height: int, width: int, cut: float = 0.5) -> Result:
    anomaly_map = np.zeros((224, 224), dtype=np.float32)
    anomaly_map[100:110, 50:60] = 1.0
    score, mask = pred_score(1.0, cut), anomaly_map > cut
    return Result(path, "part", "part", False, 1.0, score, 0.1, cut, (height, width), anomaly_map, mask)


@pytest.mark.parametrize("shape", [(332, 1000), (270, 355), (683, 1024), (40, 1900), (224, 224), (9, 11)])
def test_any_proportions(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full(shape, 90, dtype=np.uint8)).save(path)
    row = _write_pictures(tmp_path, "photo", result(path, *shape))
    with Image.open(tmp_path / row["mask"]) as mask:
        assert mask.size == shape[::-1]
        assert np.asarray(mask).any()
    with Image.open(tmp_path / row["heatmap"]) as heatmap:
        assert max(heatmap.size) == min(1600, max(shape))


def test_names_do_not_collide(tmp_path: Path) -> None:
    photos = [tmp_path / "a" / "x.png", tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png", tmp_path / "a" / "X.bmp"]
    names = _names(photos)
    assert len({name.casefold() for name in names.values()}) == 4
    assert names[photos[2]] == "b/x"


def test_rows_written_so_far_are_kept(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "x")

    def interrupted() -> None:
        with _rows(tmp_path) as write:
            write(row)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()) == 2
    assert len((tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert not list(tmp_path.glob(".*.part"))
