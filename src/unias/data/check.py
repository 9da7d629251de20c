"""``unias data DATA``: what was understood of a folder and what is wrong with it, before anything is trained.

Every photo and mask is decoded once. What cannot be read is an error (exit code 3); everything else that a person
should look at is a warning. Each line names a file, the fault and the next step.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unias.data.decode import check_bits, read_bytes, read_photo
from unias.data.layouts import Dataset, Sample
from unias.data.masks import read_mask, same_shape
from unias.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

WORKERS = 2
FEW = 10  # fewer good training photos than this is a warning
DARK = 1 / 8  # 16-bit photos that never reach this part of the range probably hold fewer bits
UNEVEN = 1.5  # height / width of a product's photos may differ by this factor before it is a warning
NAMED = 5  # files named in one line; the rest is counted

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ProductReport:
    """One product's counts. Sizes are [height, width] after EXIF rotation; empty where nothing was read."""

    product: str
    train_good: int
    test_good: int
    test_defective: dict[str, int]
    masks: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    distinct_sizes: int
    bits: dict[str, int]
    modes: dict[str, int]
    extensions: dict[str, int]


@dataclass(frozen=True)
class Report:
    """What ``inspect`` found; ``errors`` are files that cannot be read, ``warnings`` everything else."""

    root: Path
    layout: str
    products: tuple[ProductReport, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain types for JSON."""
        return {
            "root": self.root.as_posix(),
            "layout": self.layout,
            "products": {report.product: asdict(report) for report in self.products},
            "errors": list(self.errors),
            "warnings": list(self.warnings),
        }

    def render(self, console: Console) -> None:
        """Print a table of the products, the kinds of defects, then errors and warnings."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"{self.root} ({self.layout})"), title_justify="left")
        table.add_column("product", overflow="fold")
        for heading in ("train", "test good", "defective", "masks"):
            table.add_column(heading, justify="right")
        table.add_column("height x width")
        table.add_column("bits, mode, file")
        for row in self.products:
            files = "; ".join(", ".join(part) for part in (row.bits, row.modes, row.extensions) if part)
            numbers = (row.train_good, row.test_good, sum(row.test_defective.values()), row.masks)
            cells = (row.product, *map(str, numbers), _sizes(row), files)
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
        for row in self.products:
            if row.test_defective:
                kinds = ", ".join(f"{kind} {count}" for kind, count in row.test_defective.items())
                console.print(Text(f"{row.product}: {kinds}"), soft_wrap=True)
        for style, word, lines in (("red", "error", self.errors), ("yellow", "warning", self.warnings)):
            for line in lines:
                console.print(Text.assemble((f"{word}: ", style), line), soft_wrap=True)
        if not self.errors and not self.warnings:
            console.print("Nothing wrong found.")


@dataclass(frozen=True)
class _Facts:
    """What is kept of one photo once it was decoded; its pixels are not."""

    sample: Sample
    size: tuple[int, int] = (0, 0)
    bits: int = 0
    mode: str = ""
    largest: float = 0.0
    digest: str = ""
    error: str = ""
    mask_size: tuple[int, int] | None = None
    mask_empty: bool = False
    mask_error: str = ""


def inspect(
    dataset: Dataset,
    bits: int | None = None,
    read: bool = True,
    progress: Progress | None = None,
    workers: int = WORKERS,
) -> Report:
    """Look at every photo and mask of ``dataset`` and say what is there and what is wrong.

    Args:
        bits: as for ``read_photo``.
        read: False counts only and opens no file.
        progress: called with (done, total) after each photo, from the calling thread.
        workers: threads that decode.

    Raises UsageError for ``bits`` outside 9..16; files that cannot be read become errors of the report instead.
    """
    check_bits(bits)
    facts: list[_Facts] = []
    if read:
        total = len(dataset.samples)
        pool = ThreadPoolExecutor(max_workers=max(1, workers))
        try:
            for fact in pool.map(lambda sample: _look(sample, bits), dataset.samples):
                facts.append(fact)
                if progress is not None:
                    progress(len(facts), total)
        finally:
            pool.shutdown(cancel_futures=True)
    errors = [line for fact in facts for line in (fact.error, fact.mask_error) if line]
    warnings = list(dataset.warnings)
    for product in dataset.products:
        mine = [fact for fact in facts if fact.sample.product == product and not fact.error]
        warnings += _counted(dataset, product) + _dark(product, mine, bits) + _uneven(product, mine) + _masks(mine)
    warnings += _twins([fact for fact in facts if fact.digest])
    if bits is not None and facts and not any(9 <= fact.bits <= 16 for fact in facts):
        warnings.append(f"{dataset.root}: --bits {bits} changes nothing, no photo has 16 bits. Leave it out.")
    products = tuple(_product(dataset, product, facts) for product in dataset.products)
    return Report(dataset.root, dataset.layout, products, tuple(errors), tuple(warnings))


def _look(sample: Sample, bits: int | None) -> _Facts:
    found: dict[str, Any] = {}
    try:
        data = read_bytes(sample.path)
        found["digest"] = hashlib.sha256(data).hexdigest()
        photo = read_photo(data, bits, str(sample.path))
        found |= {"size": photo.size, "bits": photo.bits, "mode": photo.mode, "largest": photo.largest}
    except DataError as error:
        found["error"] = str(error)
    if sample.mask is not None:
        try:
            mask = read_mask(sample.mask)
            found |= {"mask_size": (mask.shape[0], mask.shape[1]), "mask_empty": not bool(mask.any())}
        except DataError as error:
            found["mask_error"] = str(error)
    return _Facts(sample, **found)


def _product(dataset: Dataset, product: str, facts: Sequence[_Facts]) -> ProductReport:
    test = dataset.test(product)
    mine = [fact for fact in facts if fact.sample.product == product and not fact.error]
    sizes = sorted({fact.size for fact in mine}, key=lambda size: (size[0] * size[1], size))
    samples = [s for s in dataset.samples if s.product == product]
    return ProductReport(
        product=product,
        train_good=len(dataset.train(product)),
        test_good=sum(s.is_good for s in test),
        test_defective=_tally(s.defect for s in test if not s.is_good),
        masks=sum(s.mask is not None for s in test),
        smallest=sizes[0] if sizes else None,
        largest=sizes[-1] if sizes else None,
        distinct_sizes=len(sizes),
        bits=_tally(str(fact.bits) for fact in mine),
        modes=_tally(fact.mode for fact in mine),
        extensions=_tally(s.path.suffix.casefold().lstrip(".") for s in samples),
    )


def _counted(dataset: Dataset, product: str) -> list[str]:
    lines = []
    good = len(dataset.train(product))
    place = dataset.root / product if (dataset.root / product).is_dir() else dataset.root
    if good < FEW:
        found = f"{good} good training photo{'' if good == 1 else 's'}"
        lines.append(f"{place}: {found} of {product}; a product wants {FEW} at the least, 100 and more are better.")
    bare = [s.path for s in dataset.test(product) if s.mask is None and not s.is_good]
    if bare and dataset.has_masks(product):
        lines.append(
            f"{_first(bare)}: no mask for a photo of a defect, though {product} has masks. "
            "Add it to ground_truth, or take the photo out; unias evaluate refuses it."
        )
    return lines


def _dark(product: str, facts: Sequence[_Facts], bits: int | None) -> list[str]:
    deep = [fact for fact in facts if fact.bits == 16]
    if not deep or bits is not None:
        return []
    top = max(deep, key=lambda fact: fact.largest)
    if top.largest >= DARK:
        return []
    value = round(top.largest * 65535)
    guess = max(12, math.ceil(math.log2(value + 1)))
    return [
        f"{top.sample.path}: the brightest of {product}'s 16-bit photos, yet its largest value is {value} of 65535, "
        f"under an eighth of the range. If the camera gives {guess} bits, say --bits {guess}."
    ]


def _uneven(product: str, facts: Sequence[_Facts]) -> list[str]:
    lines = []
    train = sorted((f for f in facts if f.sample.split == "train"), key=lambda f: (f.size[0] / f.size[1], f.sample.key))
    low, high = (train[0], train[-1]) if train else (None, None)
    if low and high and high.size[0] * low.size[1] > UNEVEN * low.size[0] * high.size[1]:
        lines.append(
            f"{high.sample.path}: {_by(high.size)}, while {low.sample.path.name} is {_by(low.size)} (height x width). "
            f"{product}'s photos differ in shape and all are resized to one; cut them alike if you can."
        )
    depths = _tally("16" if 9 <= fact.bits <= 16 else str(fact.bits) for fact in facts)
    if len(depths) > 1:
        rare = min(depths, key=lambda depth: depths[depth])
        some = [f.sample.path for f in facts if ("16" if 9 <= f.bits <= 16 else str(f.bits)) == rare]
        lines.append(
            f"{_first(some)}: {rare} bits, while other photos of {product} have another depth. Save them alike."
        )
    return lines


def _masks(facts: Sequence[_Facts]) -> list[str]:
    lines = []
    for fact in facts:
        mask, size = fact.sample.mask, fact.mask_size
        if mask is None or size is None:
            continue
        if fact.mask_empty and not fact.sample.is_good:
            lines.append(
                f"{mask}: an empty mask for {fact.sample.path}, a photo of a defect. Draw it, or check the photo."
            )
        if not same_shape(size, fact.size):
            lines.append(
                f"{mask}: {_by(size)} (height x width), its photo {fact.sample.path} is {_by(fact.size)}: not the same "
                "picture. Give the mask that belongs to the photo; unias evaluate refuses it."
            )
    other = [f.sample.mask for f in facts if f.sample.mask and f.mask_size and f.mask_size != f.size]
    other = [mask for mask in other if not any(str(mask) in line for line in lines)]
    if other:
        lines.append(
            f"{_first(other)}: a mask of another size than its photo; resized by nearest neighbour. Look at one."
        )
    return lines


def _twins(facts: Sequence[_Facts]) -> list[str]:
    """The same bytes in training and in test, or good and defective at once."""
    lines: list[str] = []
    groups: dict[str, list[Sample]] = {}
    for fact in facts:
        groups.setdefault(fact.digest, []).append(fact.sample)
    pairs = []
    for group in groups.values():
        trained = [s for s in group if s.split == "train"]
        pairs += [(trained[0], s) for s in group if s.split == "test" and trained]
    if pairs:
        shown = "; ".join(f"{test.path} = {train.key}" for train, test in pairs[:NAMED])
        more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
        lines.append(
            f"{shown}{more}: the same file in training and in test. Take it out of one; figures would flatter."
        )
    for group in groups.values():
        good, bad = [s for s in group if s.is_good], [s for s in group if not s.is_good]
        if good and bad:
            lines.append(
                f"{bad[0].path}: {bad[0].defect}, yet the same file is good at {good[0].key}. Keep one of them."
            )
    return lines


def _first(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _sizes(row: ProductReport) -> str:
    if row.smallest is None or row.largest is None:
        return ""
    if row.distinct_sizes == 1:
        return _by(row.smallest)
    return f"{_by(row.smallest)} to {_by(row.largest)} ({row.distinct_sizes} sizes)"
