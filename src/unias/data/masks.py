"""Ground-truth masks to bool, at their own size first, then nearest neighbour to any other.

Rule (issue 3): a mask of mode 1 or P (palette indices, not colours), or whose largest value is under 128, means defect
where it is not zero (VisA's raw masks hold 1, 2, ...); any other means defect from 128 up. A 16-bit mask that reaches
above 255 is brought to 8 bits first, float masks mean defect from one half up. Of several channels the largest counts;
alpha is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unias.data.decode import open_samples, read_bytes, rotated
from unias.errors import DataError

KINDS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


def read_mask(path: Path | str) -> NDArray[np.bool_]:
    """One mask file as bool (h, w) at its own size, True = defect; of a folder all its masks together (MVTec LOCO).

    Raises DataError as ``read_photo`` does, for masks of one photo that differ in size, and for a folder without any.
    """
    name = str(path)
    if Path(path).is_dir():
        return _joined(Path(path))
    image, deep = open_samples(read_bytes(path, name), name, min_side=1)
    if deep is not None:
        values = _strongest(deep.samples)
        if values.dtype.kind == "f":
            if not bool(np.isfinite(values).all()):
                raise DataError(f"{name}: the mask holds NaN or infinite values. Save it as an 8-bit PNG, 0 and 255.")
            if values.max() <= 1:
                return np.ascontiguousarray(values >= 0.5)
        elif values.max() > 255:
            values = values / (deep.full / 255)
        return _cut(values)
    if image.mode in ("1", "P", "PA"):
        array: NDArray[Any] = np.asarray(image)
        return np.ascontiguousarray(rotated((array if array.ndim == 2 else array[..., 0]) != 0, image))
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    return _cut(_strongest(rotated(np.asarray(image), image)))


def _joined(folder: Path) -> NDArray[np.bool_]:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.casefold() in KINDS and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise DataError(f"{folder}: a folder for one photo's masks with none in it. Add them, or remove the folder.")
    whole = read_mask(files[0])
    for file in files[1:]:
        mask = read_mask(file)
        if mask.shape != whole.shape:
            raise DataError(
                f"{file}: {mask.shape[1]} x {mask.shape[0]} pixels, {files[0].name} another size. Mend one of them."
            )
        whole |= mask
    return whole


def resize_mask(mask: NDArray[np.bool_], size: int | tuple[int, int]) -> NDArray[np.bool_]:
    """bool (h, w) to bool (H, W), ``size`` = H = W or (H, W), by Pillow's nearest neighbour."""
    height, width = (size, size) if isinstance(size, int) else size
    picture = Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255)
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)) > 0


def same_shape(mask: tuple[int, int], photo: tuple[int, int]) -> bool:
    """Whether two (h, w) are one picture at two sizes: the same proportions to within a pixel."""
    return abs(mask[0] * photo[1] - mask[1] * photo[0]) <= max(*mask, *photo)


def load_mask(
    path: Path | str, photo_size: tuple[int, int] | None = None, photo: Path | str | None = None
) -> NDArray[np.bool_]:
    """``read_mask``, checked against its photo's (h, w): another size is fine, other proportions are a DataError.

    ``photo`` is only the photo's name for the message.
    """
    mask = read_mask(path)
    if photo_size is not None and not same_shape((mask.shape[0], mask.shape[1]), photo_size):
        raise DataError(
            f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its photo {f'{photo} ' if photo else ''}"
            f"{photo_size[1]} x {photo_size[0]}: not the same picture. Give the mask that belongs to the photo."
        )
    return mask


def _strongest(array: NDArray[Any]) -> NDArray[Any]:
    """(h, w) as it is; of (h, w, c) the largest of the channels that are not alpha (c = 2 and 4 end with alpha)."""
    if array.ndim == 2:
        return array
    colours: NDArray[Any] = array[..., : {2: 1, 4: 3}.get(array.shape[2], array.shape[2])]
    return np.asarray(colours.max(axis=2))


def _cut(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.ascontiguousarray(values > 0 if values.max() < 128 else values >= 128)
