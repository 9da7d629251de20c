"""What a model said of photos, kept on disk: FOLDER/judged/NAME.jsonl, one line a photo.

Kept is what does not depend on the cut (the raw score, the nearest product, whether it is known); the verdict is told anew by
the cuts of the day, so that a cut that moves leaves nothing stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unias.calibration.ranks import p_value
from unias.files import writing
from unias.inference.products import ProductInfo
from unias.inference.result import pred_score
from unias.studio.workspace import JUDGED, NEW, PHOTOS, Workspace, read_lines_of


@dataclass(frozen=True)
class Judged:
    """One photo's line.

    Attributes:
        id: the photo's. stamp: its size and time of change: of another one the line is out of date.
        model: which training judged it (``model_key``).
        nearest: the product whose scale was used; known = whether it is that one.
        raw: the raw score.
    """

    id: str
    stamp: str
    model: str
    nearest: str
    known: bool
    raw: float

    def view(self, products: dict[str, ProductInfo]) -> dict[str, Any]:
        """By the cuts of today."""
        info = products[self.nearest]
        failed = self.raw > info.cut.value
        return {
            "id": self.id,
            "product": self.nearest if self.known else None,
            "nearest": self.nearest,
            "ok": self.known and not failed,
            "verdict": "unknown product" if not self.known else "defect" if failed else "ok",
            "score": self.raw,
            "pred_score": pred_score(self.raw, info.cut.value),
            "p_value": p_value(self.raw, info.held_out_scores) if self.known and info.held_out_scores else None,
            **dict(zip(("split", "kind"), split_of(self.id), strict=True)),
        }


def split_of(number: str) -> tuple[str, str]:
    """("test", the kind) of a photo's id; ("new", "new") for one of no data set."""
    parts = number.split("/")
    if parts[0] == PHOTOS and len(parts) >= 4:
        return parts[2].casefold(), "good" if parts[3].casefold() == "good" else parts[3]
    return "new", "new"


def product_of(number: str, names: Iterable[str]) -> str | None:
    """The product that a photo's folder says, where the model knows it."""
    parts = number.split("/")
    return parts[1] if parts[0] == PHOTOS and len(parts) > 2 and parts[1] in set(names) else None


def to_judge(workspace: Workspace) -> list[Path]:
    """Every test photo and every new one."""
    from unias.data.layouts import SKIPPED, SUFFIXES

    found = []
    for home in (*sorted((workspace / PHOTOS).glob("*/test")), workspace / NEW):
        for path in sorted(home.rglob("*")):
            names = path.relative_to(workspace.root).parts
            hidden = any(name.startswith(".") or name.casefold() in SKIPPED for name in names)
            if path.suffix.casefold() in SUFFIXES and not hidden and path.is_file():
                found.append(path)
    return found


def stamp_of(path: Path) -> str:
    """Changes when the file does."""
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def weights_of(folder: Path) -> Path:
    """The file of a model that stays as it is when cuts move; of an export, which has none, its settings."""
    weights = folder / "model.safetensors"
    return weights if weights.is_file() else folder / "config.yaml"


def model_key(folder: Path) -> str:
    """Changes with the model's weights, not with its cuts."""
    stat = weights_of(folder).stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def read_judged(workspace: Workspace, name: str, key: str) -> dict[str, Judged]:
    """{photo's id: its line} of photos that are still there, unchanged."""
    found = {}
    for line in read_lines_of(workspace / JUDGED / f"{name}.jsonl"):
        try:
            one = Judged(**line)
            if one.model == key and stamp_of(workspace.root / one.id) == one.stamp:
                found[one.id] = one
        except (TypeError, OSError):
            continue
    return found


def write_judged(workspace: Workspace, name: str, lines: Sequence[Judged]) -> None:
    """All of them, whole or not at all."""
    import json

    with writing(workspace / JUDGED / f"{name}.jsonl") as temporary:
        text = "".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines)
        temporary.write_text(text, encoding="utf-8", newline="\n")
