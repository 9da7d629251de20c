"""What a folder of photos holds: its layout is detected, never configured, and the order never depends on the disk.

Layouts, product by product:

    mvtec   <product>/train/good, <product>/test/<good or defect>, <product>/ground_truth/<defect>/<name>_mask.png
            (or <name>.png); without ground_truth too; train/good may hold a folder for each recording session; the root
            may itself be one product; VisA re-laid is this
    visa    <product>/Data/Images/{Normal,Anomaly}, <product>/Data/Masks/Anomaly, split_csv/1cls.csv
    plain   <product>/*.png: every photo is a good training photo
    flat    *.png: one product, named after the folder

Left out everywhere: hidden files, Thumbs.db, desktop.ini, __MACOSX, thumbnails, links that lead back into a folder above.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from unias.data.masks import KINDS, read_mask
from unias.errors import DataError
from unias.files import require_utf8

SUFFIXES = KINDS  # of photos and masks
SKIPPED = frozenset({"thumbs.db", "desktop.ini", "__macosx", "thumbs", "thumbnail", "thumbnails", "@eadir"})
NOT_PRODUCTS = frozenset(
    {"good", "bad", "ok", "nok", "ng", "normal", "anomaly", "defect", "train", "test", "ground_truth"}
)
EXPECTED = (
    "Expected <product>/train/good/*.png (MVTec-AD), VisA with its split_csv/1cls.csv, <product>/*.png, or one folder "
    "of photos; png, jpg, jpeg, bmp, tif or tiff."
)


@dataclass(frozen=True)
class Sample:
    """One photo.

    Attributes:
        path: where it lies, absolute.
        product: the product it shows.
        split: train or test.
        defect: good, or the kind of defect.
        mask: its ground-truth mask, or a folder of several; None where there is none.
        key: its path below the dataset's root with forward slashes, the stable name of the photo.
    """

    path: Path
    product: str
    split: str
    defect: str
    mask: Path | None
    key: str

    @property
    def is_good(self) -> bool:
        """Whether it shows a good part."""
        return self.defect == "good"


@dataclass(frozen=True)
class Dataset:
    """What ``scan`` understood: ``samples`` sorted by product and key; ``warnings`` one line each, naming a file."""

    root: Path
    layout: str
    products: tuple[str, ...]
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...] = ()

    def train(self, product: str | None = None) -> list[Sample]:
        """The training photos, all of them good, of one product or of all."""
        return [s for s in self.samples if s.split == "train" and product in (None, s.product)]

    def test(self, product: str | None = None) -> list[Sample]:
        """The test photos, good and defective, of one product or of all."""
        return [s for s in self.samples if s.split == "test" and product in (None, s.product)]

    def has_masks(self, product: str) -> bool:
        """Whether any photo of ``product`` has a mask; without one it is judged by whole images only."""
        return any(s.mask is not None for s in self.samples if s.product == product)

    def only(self, keys: Iterable[str]) -> Dataset:
        """The same with the photos named by ``keys`` alone. Raises DataError for a key that is not there."""
        wanted = set(keys)
        missing = sorted(wanted - {s.key for s in self.samples})
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"{self.root}: no photo {missing[0]}{more} here. Give the folder that the list was made from."
            )
        samples = tuple(s for s in self.samples if s.key in wanted)
        products = tuple(p for p in self.products if any(s.product == p for s in samples))
        return replace(self, products=products, samples=samples)


def scan(root: Path | str) -> Dataset:
    """Understand a folder. Raises DataError when it is missing, a file, has no photos, or contradicts itself."""
    top = Path(os.path.abspath(root))
    if not top.is_dir():
        fault = "is a file, not a folder" if top.exists() else "no such folder"
        raise DataError(f"{root}: {fault}. Give the folder that holds the photos.")
    found = _Scan(top)
    layout = found.detect()
    samples = tuple(sorted(found.samples, key=lambda s: (s.product, s.key)))
    if not samples:
        raise DataError(f"{root}: no photos found{found.hint()}. {EXPECTED}")
    _check_strays(found)
    require_utf8(sample.path for sample in samples)
    return Dataset(top, layout, tuple(sorted(found.products)), samples, tuple(dict.fromkeys(found.warnings)))


def require_training(dataset: Dataset) -> None:
    """Raise DataError unless every product has good photos to train on."""
    bare = [p for p in dataset.products if not dataset.train(p)]
    if bare or not dataset.products:
        raise DataError(f"{dataset.root}: no good training photos of {', '.join(bare) or 'any product'}. {EXPECTED}")


def require_test(dataset: Dataset) -> None:
    """Raise DataError unless there are test photos, and a mask for each defect photo of a product that has masks."""
    if not dataset.test():
        raise DataError(
            f"{dataset.root}: no test photos. Expected <product>/test/good and <product>/test/<defect> (MVTec-AD), or "
            "VisA with its split_csv/1cls.csv."
        )
    for product in dataset.products:
        if dataset.has_masks(product):
            bare = [s for s in dataset.test(product) if s.mask is None and not s.is_good]
            if bare:
                more = f" (and {len(bare) - 1} more)" if len(bare) > 1 else ""
                raise DataError(
                    f"{bare[0].path}: a photo of a defect without a mask{more}, while other photos of {product} have "
                    f"one. Put it at ground_truth/{bare[0].defect}/{bare[0].path.stem}_mask.png, or take the photo out."
                )


@dataclass
class _Scan:
    """One walk over ``root``: what it has found so far."""

    root: Path
    samples: list[Sample] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    strays: list[tuple[str, str, Path]] = field(default_factory=list)  # product, defect, mask without a photo

    def detect(self) -> str:
        table = _child(self.root, "split_csv", "1cls.csv")
        if table is not None and not any(_is_mvtec(f) for f in self.folders(self.root)):
            self.visa_table(table)
            return "visa"
        name = self.root.name or "product"
        if self.one_product(self.root, name):
            return "mvtec" if _is_mvtec(self.root) else "visa"
        folders = list(self.folders(self.root))
        known = [f for f in folders if self.one_product(f, f.name)]
        loose = self.photos(self.root)
        plain = [(f, self.photos(f)) for f in folders if f not in known]
        full = [(f, photos) for f, photos in plain if photos]
        if known:
            if full:
                raise DataError(
                    f"{full[0][0]}: photos lie directly in this folder, while {known[0].name} has train and test "
                    f"folders. Move them to {full[0][0].name}/train/good, or take the folder out."
                )
            if loose:
                self.warnings.append(f"{loose[0]}: {_count(loose)} beside the products' folders, not used.")
            return "mvtec" if any(_is_mvtec(f) for f in known) else "visa"
        if loose and full:
            raise DataError(
                f"{self.root}: photos both directly in this folder and in {full[0][0].name}: one product or several? "
                "Give each product a folder of its own, or take the folders out."
            )
        for folder, photos in [(self.root, loose)] if loose else full:
            product = name if loose else folder.name
            self.products.append(product)
            for photo in photos:
                self.add(photo, product, "train", "good")
            if not loose and product.casefold() in NOT_PRODUCTS:
                self.warnings.append(f"{folder}: taken as a product, all its photos as good. {EXPECTED}")
        for folder, photos in plain:
            deeper = [p for f in self.folders(folder) for p in self.photos(f)] if photos or loose else []
            if deeper:
                self.warnings.append(f"{deeper[0]}: {_count(deeper)} in a folder too deep, not used.")
        return "flat" if loose else "plain"

    def one_product(self, folder: Path, product: str) -> bool:
        """Read ``folder`` as one product of MVTec-AD's or VisA's kind; False when it is neither."""
        if not _is_mvtec(folder) and _child(folder, "Data", "Images") is None:
            return False
        (self.mvtec if _is_mvtec(folder) else self.visa_folder)(folder, product)
        self.products.append(product)
        return True

    def mvtec(self, folder: Path, product: str) -> None:
        masks = self.mvtec_masks(folder)
        for part in ("train", "test"):
            below = _child(folder, part)
            if below is None:
                continue
            direct = self.photos(below)
            if direct:
                place = "train/good" if part == "train" else "test/good or test/<defect>"
                raise DataError(f"{direct[0]}: {_count(direct)} directly in {part}. Move them to {product}/{place}.")
            for kind in self.folders(below):
                photos, defect = self.photos(kind), "good" if kind.name.casefold() == "good" else kind.name
                if part == "train" and defect == "good":
                    photos += [photo for session in self.folders(kind) for photo in self.photos(session)]
                if part == "train" and defect != "good":
                    if photos:
                        self.warnings.append(f"{kind}: {_count(photos)} not used; training reads train/good alone.")
                    continue
                for photo in photos:
                    self.add(photo, product, part, defect, masks.get((defect, photo.stem)) if part == "test" else None)
        used = {s.mask for s in self.samples}
        stems = {(s.defect, s.path.stem) for s in self.samples if s.product == product and s.split == "test"}
        self.strays += [(product, at[0], m) for at, m in sorted(masks.items()) if m not in used and at not in stems]

    def mvtec_masks(self, folder: Path) -> dict[tuple[str, str], Path]:
        """{(defect, the photo's stem): mask}; a mask <name>_mask wins over <name>, both over a folder <name> of several."""
        masks: dict[tuple[str, str], Path] = {}
        below = _child(folder, "ground_truth")
        for kind in self.folders(below) if below is not None else ():
            defect = "good" if kind.name.casefold() == "good" else kind.name
            photos = {p.stem for p in self.photos(_child(folder, "test", kind.name) or kind)}
            for mask in self.photos(kind):
                marked = mask.stem.endswith("_mask") and mask.stem not in photos
                stem = mask.stem.removesuffix("_mask") if marked else mask.stem
                if marked or (defect, stem) not in masks:
                    masks[defect, stem] = mask
            masks = {(defect, one.name): one for one in self.folders(kind) if self.photos(one)} | masks  # MVTec LOCO
        return masks

    def visa_folder(self, folder: Path, product: str) -> None:
        self.warnings.append(f"{folder}: VisA's layout without split_csv/1cls.csv: all Normal photos are for training.")
        masks = {m.stem: m for m in self.photos(_child(folder, "Data", "Masks", "Anomaly"))}
        for photo in self.photos(_child(folder, "Data", "Images", "Normal")):
            self.add(photo, product, "train", "good")
        for photo in self.photos(_child(folder, "Data", "Images", "Anomaly")):
            self.add(photo, product, "test", "anomaly", masks.pop(photo.stem, None))
        self.strays += [(product, "anomaly", mask) for _, mask in sorted(masks.items())]

    def visa_table(self, table: Path) -> None:
        absent: Counter[str] = Counter()
        seen: dict[str, int] = {}
        for number, row in enumerate(_rows(table), start=2):
            where = f"{table}, line {number}"
            product, split, label = row["object"], row["split"].casefold(), row["label"].casefold()
            if not product or split not in ("train", "test") or label not in ("normal", "anomaly"):
                raise DataError(f"{where}: object '{product}', split '{split}', label '{label}'. Correct the line.")
            if not (self.root / product).is_dir():
                absent[product] += 1
                continue
            key = _below(row["image"], where)
            if key in seen:
                raise DataError(f"{where}: {key} stands on line {seen[key]} too. Name every photo once.")
            seen[key] = number
            if not os.path.lexists(self.root / key):
                raise DataError(f"{self.root / key}: named by {where}, but not there. Put it back, or drop the line.")
            if split == "train" and label == "anomaly":
                raise DataError(f"{where}: {key} is an anomaly in training, which reads good photos. Correct the line.")
            mask = self.root / _below(row["mask"], where) if row["mask"] and label == "anomaly" else None
            if mask is not None and not mask.exists():
                self.warnings.append(f"{mask}: named by {where}, but not there.")
                mask = None
            if product not in self.products:
                self.products.append(product)
            self.add(self.root / key, product, split, "good" if label == "normal" else "anomaly", mask)
        for product, count in sorted(absent.items()):
            self.warnings.append(f"{self.root / product}: no such folder, yet {table.name} lists {count} photos of it.")
        used = {s.mask for s in self.samples}
        for product in self.products:
            for kind in ("Normal", "Anomaly"):
                photos = self.photos(_child(self.root, product, "Data", "Images", kind))
                extra = [p for p in photos if self.key(p) not in seen]
                if extra:
                    self.warnings.append(f"{extra[0]}: {_count(extra)} not in {table.name}, not used.")
            masks = self.photos(_child(self.root, product, "Data", "Masks", "Anomaly"))
            self.strays += [(product, "anomaly", mask) for mask in masks if mask not in used]

    def add(self, photo: Path, product: str, split: str, defect: str, mask: Path | None = None) -> None:
        self.samples.append(Sample(photo, product, split, defect, mask, self.key(photo)))

    def key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def entries(self, folder: Path) -> list[Path]:
        try:
            names = [entry.name for entry in folder.iterdir()]
        except OSError as error:
            raise DataError(f"{folder}: cannot be read: {error.strerror}. Check its permissions.") from error
        return [folder / n for n in sorted(names) if not n.startswith((".", "~$")) and n.casefold() not in SKIPPED]

    def folders(self, folder: Path) -> Iterator[Path]:
        """The folders in ``folder``, sorted, without links that lead back to it or above it."""
        here = Path(os.path.realpath(folder))
        for entry in self.entries(folder):
            if os.path.isdir(entry):  # noqa: PTH112 - Path.is_dir raises on some loops of links
                real = Path(os.path.realpath(entry))
                if not (entry.is_symlink() and (here == real or real in here.parents)):
                    yield entry

    def photos(self, folder: Path | None) -> list[Path]:
        """The photos directly in ``folder``, sorted; a link to nothing is a warning."""
        entries = [] if folder is None else self.entries(folder)
        found = [e for e in entries if e.suffix.casefold() in SUFFIXES and not os.path.isdir(e)]  # noqa: PTH112
        gone = [entry for entry in found if entry.is_symlink() and not os.path.exists(entry)]  # noqa: PTH110
        self.warnings += [f"{entry}: a link to a file that is not there, left out." for entry in gone]
        return [entry for entry in found if entry not in gone]

    def hint(self) -> str:
        """Where photos may be instead, for a folder that seems to hold none."""
        for folder in self.folders(self.root):
            if any(_is_mvtec(f) or self.photos(f) for f in self.folders(folder)):
                return f" (but {folder} looks like a data set: give that folder)"
        return ""


def _check_strays(found: _Scan) -> None:
    """Masks without a photo: an error where their photo stands elsewhere without one, otherwise a warning."""
    for sample in found.samples:
        if sample.is_good and sample.mask is not None and read_mask(sample.mask).any():
            raise DataError(
                f"{sample.mask}: marks a defect in {sample.path}, which stands among the good photos. Move the photo "
                "to test/<defect>, or take the mask out."
            )
    bare: dict[tuple[str, str, str], Sample] = {}
    with_masks = {s.product for s in found.samples if s.mask is not None} | {p for p, _, _ in found.strays}
    for sample in found.samples:
        if sample.split == "test" and sample.mask is None and not sample.is_good and sample.product in with_masks:
            bare[sample.product, sample.defect, sample.path.stem] = sample
    lone: dict[Path, list[Path]] = {}
    for product, defect, mask in found.strays:
        stem = mask.stem.removesuffix("_mask")
        for (other, kind, name), sample in bare.items():
            if name == stem and (other == product or kind == defect):
                raise DataError(
                    f"{mask}: a mask of the wrong class: {product}, {defect} has no photo {stem}, but {sample.path} "
                    "has no mask. Move the mask beside its photo's class, or take it out."
                )
        lone.setdefault(mask.parent, []).append(mask)
    for folder, several in lone.items():
        names = ", ".join(m.name for m in several[:5]) + (f" and {len(several) - 5} more" if len(several) > 5 else "")
        found.warnings.append(f"{folder}: mask without a photo: {names}. Not used.")


def _is_mvtec(folder: Path) -> bool:
    """Whether ``folder`` holds train/good, or a test folder with folders in it, or both train and test."""
    train, test = _child(folder, "train"), _child(folder, "test")
    if _child(folder, "train", "good") is not None or (train is not None and test is not None):
        return True
    return test is not None and any(e.is_dir() and e.name.casefold() not in SKIPPED for e in _listed(test))


def _child(folder: Path, *names: str) -> Path | None:
    """The entry below ``folder`` by these names whatever their case, the exact spelling first; None when absent."""
    for name in names:
        match = [e for e in _listed(folder) if e.name.casefold() == name.casefold()]
        if not match:
            return None
        folder = next((e for e in match if e.name == name), match[0])
    return folder


def _listed(folder: Path) -> list[Path]:
    """The entries of a folder, sorted; none for a file or a folder that cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        rows = [{(k or "").strip(): str(v or "").strip() for k, v in row.items()} for row in csv.DictReader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read: {error}. Take it from the VisA archive again.") from error
    missing = {"object", "split", "label", "image", "mask"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"{table}: no column {', '.join(sorted(missing))}. VisA's has object,split,label,image,mask.")
    return rows


def _below(text: str, where: str) -> str:
    """A path of the table with forward slashes. Raises DataError when it leads out of the data set."""
    path = Path(text.replace("\\", "/"))
    if not text or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: '{text}' does not lie below the data set's folder. Correct the line.")
    return path.as_posix()


def _count(photos: list[Path]) -> str:
    return f"{len(photos)} photo{'s' * (len(photos) != 1)}"
