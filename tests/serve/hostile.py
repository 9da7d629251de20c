"""Uploads that nobody means well with: crafted ones by name, and valid files with their bytes tampered with.

Every file here is small; what it claims to be is not.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIDE = 32
OK, TOO_LARGE, FORMAT, BROKEN = (200,), (413,), (415,), (422,)


class Upload(NamedTuple):
    """A file and what may be answered to it."""

    name: str
    data: bytes
    answers: tuple[int, ...]


def picture(channels: int = 3, dtype: Any = np.uint8, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(channels)
    shape = (side, side) if channels == 1 else (side, side, channels)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def saved(image: Image.Image | np.ndarray, kind: str, **wishes: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **wishes)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **wishes: Any) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **wishes)
    return buffer.getvalue()


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def rows(width: int = SIDE, height: int = SIDE, channels: int = 3) -> bytes:
    return zlib.compress((b"\0" + b"\x7f" * width * channels) * height)


def pngs() -> Iterator[Upload]:
    plain = png(SIDE, SIDE, rows())
    bomb = zlib.compress(bytes(20_000_000), 9)
    yield Upload("png", plain, OK)
    yield Upload("png: signature alone", plain[:8], BROKEN)
    yield Upload("png: half", plain[: len(plain) // 2], BROKEN)
    yield Upload("png: without its end", plain[:-12], BROKEN)
    yield Upload("png: wrong checksum", plain[:40] + b"\xff" + plain[41:], BROKEN)
    yield Upload("png: 60000 x 60000", png(60000, 60000, rows()), TOO_LARGE)
    yield Upload("png: 2^31 - 1 squared", png(2**31 - 1, 2**31 - 1, b""), TOO_LARGE)
    yield Upload("png: 4 GiB wide", png(2**32 - 1, 1, b""), TOO_LARGE + BROKEN)
    yield Upload("png: real bomb", png(20_000, 20_000, zlib.compress(bytes(2501 * 20_000), 9), 1, 0), TOO_LARGE)
    yield Upload("png: no width", png(0, SIDE, rows()), BROKEN)
    yield Upload("png: 4 x 4", png(4, 4, rows(4, 4)), BROKEN)
    yield Upload("png: fewer rows than said", png(SIDE, SIDE, rows(SIDE, 3)), OK + BROKEN)
    yield Upload("png: data goes on for 20 MB", png(SIDE, SIDE, bomb), OK + BROKEN)
    yield Upload("png: strange depth", png(SIDE, SIDE, rows(), 5), BROKEN)
    yield Upload("png: text of 20 MB", png(SIDE, SIDE, rows(), extra=chunk(b"zTXt", b"a\0\0" + bomb)), OK + BROKEN)
    yield Upload(
        "png: international text", png(SIDE, SIDE, rows(), extra=chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), OK + BROKEN
    )
    yield Upload("png: profile of 20 MB", png(SIDE, SIDE, rows(), extra=chunk(b"iCCP", b"a\0\0" + bomb)), OK + BROKEN)
    yield Upload("png: 5,000 texts", png(SIDE, SIDE, rows(), extra=chunk(b"tEXt", b"a\0b" * 9) * 5000), OK + BROKEN)
    yield Upload("png: chunk longer than the file", plain[:33] + struct.pack(">I", 2**31 - 1) + b"tEXtabc", BROKEN)
    yield Upload("png: palette without one", png(SIDE, SIDE, rows(channels=1), colour=3), OK + BROKEN)
    frames = [Image.fromarray(picture(side=SIDE)) for _ in range(20)]
    yield Upload("png: 20 frames", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), OK)
    yield Upload("png: 16 bits", saved(picture(1, np.uint16), "PNG"), OK)
    yield Upload("png: with a zip behind it", plain + b"PK\3\4" + bytes(200) + b"PK\5\6" + bytes(18), OK)
    yield Upload(
        "png: with a page in it", png(SIDE, SIDE, rows(), extra=chunk(b"tEXt", b"a\0<script>alert(1)</script>")), OK
    )


# JPEG


def jpegs() -> Iterator[Upload]:
    plain = saved(picture(), "JPEG")
    size = plain.index(b"\xff\xc0") + 5
    scan = plain.index(b"\xff\xda")
    progressive = saved(picture(), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    yield Upload("jpeg", plain, OK)
    yield Upload("jpeg: half", plain[: len(plain) // 2], BROKEN)
    yield Upload("jpeg: without its end", plain[:-2], BROKEN)
    yield Upload("jpeg: two bytes and an end", b"\xff\xd8\xff\xd9", BROKEN)
    yield Upload("jpeg: 65535 x 65535", plain[:size] + b"\xff\xff\xff\xff" + plain[size + 4 :], TOO_LARGE)
    yield Upload("jpeg: no size", plain[:size] + bytes(4) + plain[size + 4 :], BROKEN)
    yield Upload("jpeg: no tables", plain[:2] + plain[plain.index(b"\xff\xc0") :], OK + BROKEN)
    yield Upload("jpeg: 5,000 scans", progressive[:-2] + progressive[last:-2] * 5000 + b"\xff\xd9", BROKEN)
    yield Upload("jpeg: scan without data", plain[: scan + 14] + b"\xff\xd9", OK + BROKEN)
    yield Upload("jpeg: segment longer than the file", plain[:20] + b"\xff\xe1\xff\xff" + plain[20:], BROKEN)
    yield Upload("jpeg: exif of zeros", saved(picture(), "JPEG", exif=b"Exif\0\0" + bytes(5000)), OK)
    yield Upload("jpeg: exif that loops", saved(picture(), "JPEG", exif=b"Exif\0\0" + _ifd([(274, 3, 1, 6)], 8)), OK)
    yield Upload("jpeg: four inks", saved(Image.fromarray(picture()).convert("CMYK"), "JPEG"), OK)
    yield Upload("jpeg: a page behind it", plain + b"<html><script>alert(1)</script>", OK)
    yield Upload("jpeg: a comment with a page", plain[:2] + b"\xff\xfe\x00\x0a<script>" + plain[2:], OK)


# TIFF


def _ifd(tags: list[tuple[int, int, int, int]], following: int = 0, order: str = "<") -> bytes:
    """A TIFF with one directory of (tag, type, count, value); ``following``: offset of the next."""
    entries = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", following)


def made_tiff(
    data: bytes, more: dict[int, tuple[int, int, int]], following: int = 0, without: tuple[int, ...] = ()
) -> bytes:
    """An 8-bit grey one of 32 x 32 in one strip, with some of its tags changed: {tag: (type, count, value)}."""
    tags = {
        256: (4, 1, SIDE),
        257: (4, 1, SIDE),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 0),
        277: (3, 1, 1),
        278: (4, 1, SIDE),
        279: (4, 1, len(data)),
    } | more
    kept = sorted((tag, *value) for tag, value in tags.items() if tag not in without)
    start = 8 + 2 + 12 * len(kept) + 4
    kept = [(tag, kind, count, start if tag == 273 and value == 0 else value) for tag, kind, count, value in kept]
    return _ifd(kept, following) + data


def tiffs() -> Iterator[Upload]:
    grey, deep = bytes(range(256)) * 4, np.full((SIDE, SIDE, 3), 30_000, dtype=np.uint16)
    bomb = zlib.compress(bytes(30_000_000), 9)
    whole = {258: (3, 1, 16), 262: (3, 1, 0), 259: (3, 1, 8)}  # 16 bits, white is zero, deflate: tifffile unpacks it
    yield Upload("tiff", made_tiff(grey, {}), OK)
    yield Upload("tiff: big-endian", tiff(picture(1), byteorder=">"), OK)
    yield Upload("tiff: big", tiff(picture(1), bigtiff=True), OK)
    yield Upload("tiff: half", made_tiff(grey, {})[:500], BROKEN)
    yield Upload("tiff: head alone", b"II*\0", BROKEN)
    yield Upload("tiff: no directory", b"II*\0" + struct.pack("<I", 2**31), BROKEN)
    yield Upload("tiff: directory in its own head", b"II*\0" + struct.pack("<I", 0) + bytes(100), BROKEN)
    yield Upload("tiff: 65,535 tags", b"II*\0" + struct.pack("<I", 8) + b"\xff\xff" + bytes(40), BROKEN)
    yield Upload("tiff: loops", made_tiff(grey, {}, following=8), OK)
    yield Upload("tiff: 100000 x 100000", made_tiff(grey, {256: (4, 1, 100_000), 257: (4, 1, 100_000)}), TOO_LARGE)
    yield Upload("tiff: 2^32 - 1 wide", made_tiff(grey, {256: (4, 1, 2**32 - 1)}), TOO_LARGE + BROKEN)
    yield Upload("tiff: no width", made_tiff(grey, {}, without=(256,)), BROKEN)
    yield Upload("tiff: no strips", made_tiff(grey, {}, without=(273, 279)), BROKEN)
    yield Upload("tiff: strips beyond the file", made_tiff(grey, {273: (4, 1, 2**30)}), BROKEN)
    yield Upload("tiff: 2^32 - 1 strips", made_tiff(grey, {273: (4, 2**32 - 1, 8)}), BROKEN)
    yield Upload("tiff: tag of 2^32 - 1 values", made_tiff(grey, {270: (2, 2**32 - 1, 8)}), OK + BROKEN)
    yield Upload("tiff: unknown tags and types", made_tiff(grey, {60000: (77, 9, 9), 60001: (0, 1, 1)}), OK + BROKEN)
    yield Upload("tiff: width as text", made_tiff(grey, {256: (2, 4, 0x41414141)}), BROKEN)
    yield Upload("tiff: 64 bits", made_tiff(grey, {258: (3, 1, 64)}), BROKEN)
    yield Upload("tiff: 200 channels", made_tiff(grey, {277: (3, 1, 200)}), BROKEN)
    yield Upload("tiff: unknown packing", made_tiff(grey, {259: (3, 1, 4711)}), BROKEN + FORMAT)
    yield Upload("tiff: 16 bits, unknown packing", made_tiff(grey, whole | {259: (3, 1, 4711)}), FORMAT + BROKEN)
    yield Upload("tiff: unpacks to 30 MB", made_tiff(bomb, whole), BROKEN)
    yield Upload("tiff: 8 bits, unpacks to 30 MB", made_tiff(bomb, {259: (3, 1, 8)}), OK + BROKEN)
    yield Upload(
        "tiff: huge tiles",
        made_tiff(grey, {322: (4, 1, 60_000), 323: (4, 1, 60_000), 324: (4, 1, 300), 325: (4, 1, 1024)}),
        BROKEN,
    )
    yield Upload(
        "tiff: no tiles",
        made_tiff(grey, {322: (4, 1, 0), 323: (4, 1, 0), 324: (4, 1, 300), 325: (4, 1, 9)}),
        OK + BROKEN,
    )
    yield Upload("tiff: rows of 2^32 - 1", made_tiff(grey, {278: (4, 1, 2**32 - 1)}), OK)
    yield Upload("tiff: no rows", made_tiff(grey, {278: (4, 1, 0)}), OK + BROKEN)
    yield Upload("tiff: 16 bits, colour", tiff(deep, photometric="rgb"), OK)
    yield Upload("tiff: 16 bits, colour, deflate", tiff(deep, photometric="rgb", compression="zlib"), OK)
    yield Upload(
        "tiff: 16 bits, colour, in planes",
        tiff(np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate"),
        OK,
    )
    yield Upload("tiff: five pages", tiff(picture(5).transpose(2, 0, 1), photometric="minisblack"), OK)
    yield Upload("tiff: not a number", tiff(np.full((SIDE, SIDE), np.nan, dtype=np.float32)), BROKEN)
    yield Upload("tiff: far values", tiff(np.full((SIDE, SIDE), 1e30, dtype=np.float32)), BROKEN)
    yield Upload("tiff: complex", tiff(np.ones((SIDE, SIDE), dtype=np.complex64)), BROKEN)
    yield Upload("tiff: 70,000 strips", _many_strips(70_000), BROKEN)


def _many_strips(count: int) -> bytes:
    """8 x ``count`` pixels, one row a strip, all of them the same eight bytes."""
    tags = {256: (4, 1, 8), 257: (4, 1, count), 278: (4, 1, 1)}
    start = 8 + 2 + 12 * 9 + 4
    offsets = np.full(count, start, dtype="<u4").tobytes()
    sizes = np.full(count, 8, dtype="<u4").tobytes()
    body = bytes(8) + offsets + sizes
    return made_tiff(body, tags | {273: (4, count, start + 8), 279: (4, count, start + 8 + len(offsets))})


# BMP


def bmp(width: int, height: int, body: bytes, bits: int = 24, packing: int = 0, start: int = 54) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, start) + head + body


def bmps() -> Iterator[Upload]:
    body = bytes(SIDE * SIDE * 3)
    palette = bytes(1024)
    yield Upload("bmp", bmp(SIDE, SIDE, body), OK)
    yield Upload("bmp: top first", bmp(SIDE, -SIDE, body), OK)
    yield Upload("bmp: half", bmp(SIDE, SIDE, body)[:1000], BROKEN)
    yield Upload("bmp: head alone", b"BM", BROKEN)
    yield Upload("bmp: 60000 x 60000", bmp(60_000, 60_000, body), TOO_LARGE)
    yield Upload("bmp: 2^31 - 1 wide", bmp(2**31 - 1, 2**31 - 1, body), TOO_LARGE)
    yield Upload("bmp: negative width", bmp(-SIDE, SIDE, body), BROKEN + TOO_LARGE)
    yield Upload("bmp: no size", bmp(0, 0, body), BROKEN)
    yield Upload("bmp: 13 bits", bmp(SIDE, SIDE, body, 13), BROKEN)
    yield Upload("bmp: run lengths", bmp(SIDE, SIDE, palette + b"\x20\0" * SIDE + b"\0\1", 8, 1, 54 + 1024), FORMAT)
    yield Upload("bmp: pixels beyond the file", bmp(SIDE, SIDE, body, start=2**31), BROKEN)
    yield Upload("bmp: unknown packing", bmp(SIDE, SIDE, body, packing=99), BROKEN)


def others() -> Iterator[Upload]:
    """What is no photo, or none of the four formats."""
    image = Image.fromarray(picture())
    yield Upload("one byte", b"\x89", FORMAT)
    yield Upload("text", b"hello", FORMAT)
    yield Upload("a page", b"<!doctype html><html></html>", FORMAT)
    yield Upload("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', FORMAT)
    yield Upload("pdf", b"%PDF-1.7\n" + bytes(100), FORMAT)
    yield Upload("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(r) file\n", FORMAT)
    yield Upload("zip", b"PK\3\4" + bytes(100), FORMAT)
    yield Upload("program", b"\x7fELF" + bytes(100), FORMAT)
    yield Upload("pickle", b"\x80\x04\x95" + bytes(100), FORMAT)
    yield Upload("zeros", bytes(100_000), FORMAT)
    for kind in ("GIF", "WEBP", "PPM", "TGA", "ICO"):
        yield Upload(kind.lower(), saved(image, kind), FORMAT)
    yield Upload("gif with an archive behind it", saved(image, "GIF") + b"PK\3\4" + bytes(100), FORMAT)
    yield Upload("a png's name, a gif's bytes", b"GIF89a" + png(SIDE, SIDE, rows()), FORMAT)


def crafted() -> list[Upload]:
    """All of them."""
    return [upload for family in (pngs, jpegs, tiffs, bmps, others) for upload in family()]


# Fuzzing


def seeds() -> list[bytes]:
    """Valid files of every kind that is decoded."""
    deep = picture(3, np.uint16)
    return [
        saved(picture(), "PNG"),
        saved(picture(4), "PNG"),
        saved(picture(1, np.uint16), "PNG"),
        saved(Image.fromarray(picture()).quantize(16), "PNG"),
        saved(picture(), "JPEG"),
        saved(picture(1), "JPEG", progressive=True),
        saved(picture(), "BMP"),
        saved(picture(), "TIFF"),
        saved(picture(), "TIFF", compression="tiff_lzw"),
        saved(picture(1), "TIFF", compression="tiff_deflate"),
        saved(picture(), "TIFF", compression="jpeg"),
        tiff(deep, photometric="rgb"),
        tiff(deep, photometric="rgb", compression="zlib"),
        tiff(deep, photometric="rgb", tile=(16, 16)),
        tiff(picture(1).astype(np.float32) / 255),
    ]


def fuzzed(count: int, seed: int) -> Iterator[bytes]:
    """Valid files, each tampered with in one of seven ways."""
    valid, rng = seeds(), np.random.default_rng(seed)
    ways: list[Callable[[bytearray, np.random.Generator], bytes]] = [
        _flip,
        _cut,
        _zero,
        _swell,
        _swap,
        _head,
        _mix(valid),
    ]
    for number in range(count):
        yield ways[number % len(ways)](bytearray(valid[number // len(ways) % len(valid)]), rng)


def _flip(data: bytearray, rng: np.random.Generator) -> bytes:
    for place in rng.integers(0, len(data), int(rng.integers(1, 30))):
        data[place] = int(rng.integers(256))
    return bytes(data)


def _cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: int(rng.integers(1, len(data)))])


def _zero(data: bytearray, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, 200))
    data[start : start + length] = bytes(len(data[start : start + length]))
    return bytes(data)


def _swell(data: bytearray, rng: np.random.Generator) -> bytes:
    """A stretch of the file many times over."""
    start = int(rng.integers(len(data)))
    piece = data[start : start + int(rng.integers(1, 100))]
    return bytes(data[:start] + piece * int(rng.integers(2, 500)) + data[start:])


def _swap(data: bytearray, rng: np.random.Generator) -> bytes:
    """Four bytes become a huge or a negative number."""
    place = int(rng.integers(0, max(1, min(len(data) - 4, 400))))
    value = (2**31 - 1, 2**32 - 1, 2**31, 0, 65_535, 70_000)[int(rng.integers(6))]
    data[place : place + 4] = struct.pack("<I" if rng.integers(2) else ">I", value)
    return bytes(data)


def _head(data: bytearray, rng: np.random.Generator) -> bytes:
    """The first 200 bytes are where formats keep their sizes."""
    for place in rng.integers(2, min(len(data), 200), int(rng.integers(1, 6))):
        data[place] = int(rng.choice([0, 1, 127, 128, 255]))
    return bytes(data)


def _mix(valid: list[bytes]) -> Callable[[bytearray, np.random.Generator], bytes]:
    def mix(data: bytearray, rng: np.random.Generator) -> bytes:
        """The beginning of one file, the end of another."""
        other = valid[int(rng.integers(len(valid)))]
        return bytes(data[: int(rng.integers(16, len(data)))] + other[int(rng.integers(len(other))) :])

    return mix
