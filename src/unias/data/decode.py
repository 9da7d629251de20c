"""Photos of every kind to pixels, or one clear DataError; nothing here guesses and nothing is half read.

Axes: h, w = the photo's own height and width after EXIF rotation; H, W = the model's input.
8-bit photos stay uint8 RGB in [0, 255]; deeper ones become float32 in [0, 1], divided by the full range of their type
(65535 for 16 bits, the stored bits for a 12-bit TIFF) or by ``2 ** bits - 1`` where the caller says that a 16-bit file
holds fewer. Grey is repeated to three channels, alpha is dropped (not composited: a camera has no alpha), a palette is
looked up, CMYK goes through Pillow's conversion. Of several pages or frames the first is read.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from unias.errors import DataError, UsageError

MAX_PIXELS = 178_956_970  # a quarter GiB of 24-bit pixels doubled: Pillow's own limit, checked before decoding
MIN_SIDE = 8  # pixels; anything smaller is no photo
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")  # tried by content, in this order; never EPS and the like
ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}  # the last bytes of a whole file
DAMAGED = "Replace it with a good copy, or take it out of the folder, and run again."

Pixels = NDArray[Any]
Source = Path | str | bytes | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class Photo:
    """One decoded photo.

    Attributes:
        pixels: (h, w, 3) RGB; uint8 for 8-bit sources, float32 in [0, 1] for deeper ones.
        bits: bits a channel in the source: 8, 9-16, or 32 for floats (1-bit and palette photos count as 8).
        mode: the source's mode, such as L, RGB, RGBA, P, CMYK, 1, I;16, RGB;16, F.
        size: (h, w) after EXIF rotation.
        largest: largest value of any channel as a fraction of the type's full range, whatever ``bits`` was asked for.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    bits: int
    mode: str
    size: tuple[int, int]
    largest: float


@dataclass(frozen=True)
class Deep:
    """Samples deeper than 8 bits: (h, w) or (h, w, c), EXIF-rotated; ``full`` is the value that means white."""

    samples: Pixels
    mode: str
    bits: int
    full: float


def read_photo(source: Source, bits: int | None = None, name: str | None = None) -> Photo:
    """Decode one photo, whole or not at all.

    Args:
        source: a path, a file's bytes, a PIL image, or an array: (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4) RGBA of
            uint8, uint16, bool, or floats in [0, 1].
        bits: what 16-bit samples really hold, 9 to 16 (12 for 12-bit data in 16-bit files); other depths ignore it.
        name: what messages call the photo; by default its path.

    Raises:
        UsageError: ``bits`` outside 9..16.
        DataError: missing, empty, truncated, not an image, a side under 8 pixels, too large, NaN, values out of range.
    """
    check_bits(bits)
    if isinstance(source, np.ndarray):
        return _from_array(source, bits, name or "the array given as a photo")
    if isinstance(source, Image.Image):
        called = name or "the PIL image given as a photo"
        check_size(source.size, called)
        return _photo(source, _guarded(lambda: _upright(pillow_samples(source, called), source), called), bits, called)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), name or "the bytes given as a photo"
    elif isinstance(source, (str, Path)):
        name = name or str(source)
        data = read_bytes(source, name)
    else:
        raise DataError(f"{name or type(source).__name__}: not a photo. Give a path, bytes, a PIL image or an array.")
    return _photo(*open_samples(data, name), bits, name)


def check_bits(bits: int | None) -> None:
    """Raise UsageError unless ``bits`` is None or 9 to 16."""
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 9 <= bits <= 16):
        raise UsageError(f"--bits {bits}: must be 9 to 16, the bits that 16-bit files really hold (12 is usual).")


def to_input(photo: Photo, size: int | tuple[int, int]) -> NDArray[np.float32]:
    """The whole photo as a model's input: float32 (3, H, W) in [0, 1], C-contiguous, by Pillow's bicubic, no crop.

    ``size`` is H = W, or (H, W). 8-bit photos are resized as uint8 (so values are k / 255), deeper ones as float32 a
    channel and clipped to [0, 1], which keeps their depth.
    """
    height, width = _pair(size)
    if photo.pixels.dtype == np.uint8:
        picture = Image.fromarray(photo.pixels).resize((width, height), Image.Resampling.BICUBIC)
        small = np.asarray(picture, dtype=np.float32) / np.float32(255)
    else:
        channels = [Image.fromarray(np.ascontiguousarray(photo.pixels[..., c])) for c in range(3)]
        resized = [np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels]
        small = np.clip(np.stack(resized, axis=2), 0, 1)
    return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32)


def to_display(photo: Photo, size: tuple[int, int] | int | None = None) -> NDArray[np.uint8]:
    """The photo for people: uint8 (h, w, 3) at its own size, or (H, W, 3) at ``size`` = H = W or (H, W)."""
    if photo.pixels.dtype == np.uint8:
        shown = photo.pixels.astype(np.uint8)
    else:
        shown = np.rint(np.clip(photo.pixels, 0, 1) * 255).astype(np.uint8)
    if size is None:
        return shown
    return np.array(Image.fromarray(shown).resize(_pair(size)[::-1], Image.Resampling.BICUBIC))


def load_input(
    source: Source, size: int | tuple[int, int], bits: int | None = None, name: str | None = None
) -> tuple[NDArray[np.float32], Photo]:
    """``read_photo`` then ``to_input``: ((3, H, W) in [0, 1], the photo). Raises what ``read_photo`` raises."""
    photo = read_photo(source, bits, name)
    return to_input(photo, size), photo


def read_bytes(path: Path | str, name: str | None = None) -> bytes:
    """A file's bytes; DataError when it is missing, a folder, unreadable or has no bytes."""
    name = name or str(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file. Check the path.") from error
    except IsADirectoryError as error:
        raise DataError(f"{name}: is a folder, not a photo. Give the photos in it.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name}: cannot be read: {reason}. Check the path and its permissions.") from error
    if data:
        return data
    raise DataError(f"{name}: empty, a file of zero bytes. {DAMAGED}")


def open_samples(data: bytes, name: str, min_side: int = MIN_SIDE) -> tuple[Image.Image, Deep | None]:
    """A file's bytes as (loaded image, None) for up to 8 bits a channel, as (image, Deep) for more.

    The image is not EXIF-rotated yet (see ``rotated``), the samples of Deep are. Raises DataError, see ``read_photo``.
    """
    image = open_header(data, name)
    if image is None:
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # a TIFF that Pillow does not know, such as float RGB
            return Image.new("L", (1, 1)), _guarded(lambda: _tiff_samples(data, name, min_side), name)
        raise DataError(f"{name}: not an image that can be read (PNG, JPEG, BMP, TIFF), or damaged. {DAMAGED}")
    check_size(image.size, name, min_side)
    return image, _guarded(lambda: _deep_samples(image, data, name, min_side), name)


def check_size(size: tuple[int, int], name: str, min_side: int = MIN_SIDE) -> None:
    """Raise DataError when (width, height) is too small for a photo or too large to decode safely."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} is {width * height:,} pixels, over the limit of {MAX_PIXELS:,} "
            "(a decompression bomb?). Cut it into tiles or make it smaller."
        )
    if min(width, height) < min_side:
        raise DataError(f"{name}: {width} x {height} pixels is too small, {min_side} a side is the least. {DAMAGED}")


def rotated(array: Pixels, image: Image.Image) -> Pixels:
    """(h, w, ...) turned upright as the loaded ``image``'s EXIF orientation says; a broken EXIF block turns nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return array
    return _turn(array, orientation)


def pillow_samples(image: Image.Image, name: str) -> Deep | None:
    """A PIL image's samples where its mode is deeper than 8 bits (I;16*, I, F), not rotated; None otherwise."""
    if image.mode.startswith("I;16"):
        return Deep(np.asarray(image).astype(np.uint16), "I;16", 16, 65535.0)
    if image.mode == "I":
        return Deep(_as_uint16(np.asarray(image), name), "I;16", 16, 65535.0)
    if image.mode == "F":
        return Deep(np.array(image), "F", 32, 1.0)
    return None


def open_header(data: bytes, name: str) -> Image.Image | None:
    """Pillow's reader for the content, by the formats above alone, with nothing decoded yet; None when none knows it.

    Not ``Image.open``: that one warns from half of the limit on, and the limit here is checked by ``check_size``.
    """
    Image.preinit()
    if any(kind not in Image.OPEN for kind in FORMATS):
        Image.init()
    for kind in (kind for kind in FORMATS if kind in Image.OPEN):
        factory, accept = Image.OPEN[kind]
        if accept is not None and accept(data[:16]) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except Exception as error:
            if kind == "TIFF" and isinstance(error, SyntaxError):
                return None  # tifffile knows more kinds
            raise DataError(
                f"{name}: a damaged {kind} file ({str(error) or type(error).__name__}). {DAMAGED}"
            ) from error
    return None


def _deep_samples(image: Image.Image, data: bytes, name: str, min_side: int) -> Deep | None:
    """Load ``image``; its samples when they are deeper than 8 bits, else None. May raise anything (see _guarded)."""
    kind = image.format
    if kind == "TIFF":
        depth = max(_many(image.tag_v2.get(258, 1)))  # type: ignore[attr-defined]
        if depth > 8 and not (image.mode in ("I;16", "F") and image.tag_v2.get(262) != 0):  # type: ignore[attr-defined]
            return _tiff_samples(data, name, min_side)
        _check_tiff_end(image, data)
        image.load()  # Pillow turns a TIFF upright while loading
        deep = pillow_samples(image, name)
        twelve = deep is not None and deep.mode == "I;16" and depth < 16
        return replace(deep, bits=depth, full=float(2**depth - 1)) if deep and twelve else deep
    if kind in ENDS and data.rfind(ENDS[kind]) < 0:
        raise OSError("the end of the file is missing")
    image.load()
    sixteen = kind == "PNG" and data[24] == 16 and image.mode in ("RGB", "RGBA")
    return _upright(_png_samples(image, data) if sixteen else pillow_samples(image, name), image)


def _upright(deep: Deep | None, image: Image.Image) -> Deep | None:
    return None if deep is None else replace(deep, samples=rotated(deep.samples, image))


def _png_samples(image: Image.Image, data: bytes) -> Deep:
    """A 16-bit PNG with colour or alpha, of which Pillow keeps the high bytes alone (in the loaded ``image``).

    The low bytes are had by unpacking the same rows once more as if they were little-endian.
    """
    low: Any = PngImagePlugin.PngImageFile(io.BytesIO(data))
    codec, extents, offset = low.tile[0][:3]
    low.tile = [(codec, extents, offset, "RGBA" if data[25] == 4 else f"{image.mode};16L")]
    low.load()
    low_bytes = np.asarray(low, dtype=np.uint16)
    if data[25] == 4:  # grey and alpha, 2 bytes each, unpacked as four channels
        return Deep(low_bytes[..., ::2] << 8 | low_bytes[..., 1::2], "LA;16", 16, 65535.0)
    return Deep(np.asarray(image, dtype=np.uint16) << 8 | low_bytes, f"{image.mode};16", 16, 65535.0)


def _tiff_samples(data: bytes, name: str, min_side: int) -> Deep:
    """A TIFF's first page through tifffile, for the kinds that Pillow cuts to 8 bits or does not know."""
    import tifffile  # slow to import, seldom needed

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        check_size((page.imagewidth, page.imagelength), name, min_side)
        spans = zip(page.dataoffsets, page.databytecounts, strict=True)
        if any(count == 0 or offset + count > len(data) for offset, count in spans):
            raise OSError("the file is truncated")
        if page.axes not in ("YX", "YXS", "SYX") or page.samplesperpixel > 4:
            fault = f"a TIFF of {page.samplesperpixel} channels (axes {page.axes}) is not a photo"
            raise DataError(f"{name}: {fault}. Save it as one grey or RGB page.")
        samples, orientation = np.asarray(page.asarray()), page.tags.valueof("Orientation", 1)
        inverted, depth = page.photometric == 0, int(page.bitspersample)
    if page.axes == "SYX":
        samples = np.moveaxis(samples, 0, 2)
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    mode = ("L", "LA", "RGB", "RGBA")[channels - 1]
    if samples.dtype.kind == "f":
        full, mode, bits = 1.0, "F" if channels == 1 else f"{mode};F", 32
    elif samples.dtype.kind in "iub":
        bits = depth if 8 < depth < 16 else 16 if depth > 8 else 8
        samples, full = _as_uint16(samples, name), float(2**bits - 1)
        mode = mode if bits == 8 else "I;16" if channels == 1 else f"{mode};16"
    else:
        raise DataError(f"{name}: a TIFF of {samples.dtype} is not a photo. Save it with 8 or 16 bits.")
    if inverted:
        samples = (full - samples).astype(samples.dtype)
    return Deep(_turn(samples, orientation), mode, bits, full)


def _check_tiff_end(image: Image.Image, data: bytes) -> None:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    for starts, counts in ((273, 279), (324, 325)):  # strips, tiles
        spans = zip(_many(tags.get(starts, ())), _many(tags.get(counts, ())), strict=False)
        if any(start + count > len(data) for start, count in spans):
            raise OSError("the file is truncated")


def _photo(image: Image.Image, deep: Deep | None, bits: int | None, name: str) -> Photo:
    if deep is not None:
        return _from_deep(deep, bits, name)
    pixels = np.ascontiguousarray(_guarded(lambda: rotated(_rgb(image), image), name))
    return Photo(pixels, 8, image.mode, (pixels.shape[0], pixels.shape[1]), float(pixels.max()) / 255)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode in ("P", "PA", "La", "RGBa"):  # through RGBA: transparency in a palette needs it
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "RGBX"):
        return np.array(image)[..., :3]
    if image.mode == "LA":
        return _three(np.array(image)[..., :1])
    return np.array(image.convert("RGB"))


def _from_deep(deep: Deep, bits: int | None, name: str) -> Photo:
    samples = deep.samples
    if samples.dtype.kind == "f" and not bool(np.isfinite(samples).all()):
        raise DataError(f"{name}: holds NaN or infinite values. {DAMAGED}")
    samples = _three(samples)
    low, high = float(samples.min()), float(samples.max())
    if samples.dtype.kind == "f" and (low < 0 or high > 1):
        raise DataError(f"{name}: float values from {low:g} to {high:g}; they must lie in [0, 1]. Scale them first.")
    full = deep.full
    if bits is not None and deep.bits == 16:
        full = float(2**bits - 1)
        if high > full:
            raise DataError(
                f"{name}: holds the value {high:.0f}, more than {bits} bits can ({full:.0f}). "
                "Give the right --bits, or leave it out to divide by the full 16 bits."
            )
    pixels = np.ascontiguousarray(samples.astype(np.float32) / np.float32(full))
    kept = deep.bits if bits is None or deep.bits != 16 else bits
    return Photo(pixels, kept, deep.mode, (pixels.shape[0], pixels.shape[1]), high / deep.full)


def _from_array(array: Pixels, bits: int | None, name: str) -> Photo:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise DataError(f"{name}: shape {array.shape}; give (h, w), (h, w, 1), (h, w, 3) or (h, w, 4).")
    check_size((array.shape[1], array.shape[0]), name)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[1 if array.ndim == 2 else array.shape[2]]
    if array.dtype == np.bool_ or array.dtype == np.uint8:
        grey = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
        pixels = np.array(_three(grey), order="C")
        mode = "1" if array.dtype == np.bool_ and mode == "L" else mode
        return Photo(pixels, 8, mode, (pixels.shape[0], pixels.shape[1]), float(pixels.max()) / 255)
    if array.dtype == np.uint16:
        return _from_deep(Deep(array, "I;16" if mode == "L" else f"{mode};16", 16, 65535.0), bits, name)
    if array.dtype.kind == "f":
        return _from_deep(Deep(array, "F" if mode == "L" else f"{mode};F", 32, 1.0), bits, name)
    raise DataError(f"{name}: an array of {array.dtype}; give uint8, uint16, bool, or floats in [0, 1].")


def _three(array: Pixels) -> Pixels:
    """(h, w), or (h, w, c) with c of 1, 2 = grey and alpha, 3, 4 = RGB and alpha, to (h, w, 3)."""
    if array.ndim == 2:
        array = array[..., None]
    return np.repeat(array[..., :1], 3, axis=2) if array.shape[2] < 3 else array[..., :3]


def _as_uint16(samples: Pixels, name: str) -> Pixels:
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: integer values from {low} to {high} do not fit 16 bits. Save it with 8 or 16 bits.")
    return samples.astype(np.uint16)


def _turn(array: Pixels, orientation: Any) -> Pixels:
    """EXIF orientations 2-8 undone on the first two axes (the TIFF 6.0 table); any other value turns nothing."""
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    return turns[orientation](array) if orientation in turns else array


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _many(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _guarded(work: Callable[[], Any], name: str) -> Any:
    """Run one decoding step; whatever a broken file makes the decoders raise becomes one DataError."""
    try:
        return work()
    except DataError:
        raise
    except Exception as error:  # MemoryError too
        raise DataError(f"{name}: truncated or damaged ({str(error) or type(error).__name__}). {DAMAGED}") from error
