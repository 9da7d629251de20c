"""How much a file makes its reader do before the first pixel: counted here in a few steps, given up early.

Pillow and tifffile read headers in Python, entry by entry. A few megabytes of empty PNG chunks or JPEG segments keep them busy
for seconds, and a directory whose thousand entries all point at the same megabyte makes a gigabyte of it. No photo has any of
that.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

MOST_STEPS = (
    20_000  # chunks of a PNG (writers cut pixels into pieces of 8 KiB or more), segments and fill bytes of a JPEG
)
MOST_EXIF = 65_535  # bytes, as one JPEG segment holds
MOST_TAGS = 4096
PROFILE = b"Raw profile type exif"  # EXIF as text, in hex
PIECE = 1 << 20  # bytes unpacked at a time
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def fault_of(kind: str, data: bytes) -> str | None:
    """What is wrong with the header, None where it is nothing; what is merely broken is left to the decoders.

    kind: PNG, JPEG, BMP or TIFF.
    """
    if kind == "PNG":
        return _png(data)
    if kind == "JPEG":
        return _jpeg(data)
    return _tags(data) if kind == "TIFF" else None


def unpacked_size(packed: bytes, most: int) -> int:
    """How many bytes a deflate stream unpacks to; counted no further than over ``most``."""
    stream, total = zlib.decompressobj(), 0
    try:
        while packed and not stream.eof and total <= most:
            total += len(stream.decompress(packed, PIECE))
            packed = stream.unconsumed_tail
    except zlib.error:
        return total  # the decoder will say so
    return total


def _png(data: bytes) -> str | None:
    place = 8
    for _ in range(MOST_STEPS):
        if place + 8 > len(data):
            return None
        length, kind = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if kind == b"eXIf" and length > MOST_EXIF:
            return f"{length} bytes of EXIF"
        if kind in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(PROFILE, start):
            packed = data[start + len(PROFILE) + 2 : start + length] if kind == b"zTXt" else b""
            if kind == b"iTXt" or max(length, unpacked_size(packed, 2 * MOST_EXIF)) > 2 * MOST_EXIF:
                return "too much EXIF"
        place = start + length + 4
    return f"over {MOST_STEPS} chunks"


def _jpeg(data: bytes) -> str | None:
    exif = 0
    for count, (marker, start, end) in enumerate(_segments(data)):
        if count == MOST_STEPS:
            return f"over {MOST_STEPS} segments"
        if marker == 0xE1 and data.startswith(b"Exif\0\0", start):
            exif += end - start
    return f"{exif} bytes of EXIF" if exif > MOST_EXIF else None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end of what it holds) up to the first scan; fill bytes are steps too."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA:
            return
        if marker == 0xFF:
            place += 1
            yield marker, place, place
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # nothing follows
            place += 2
            yield marker, place, place
        else:
            (length,) = struct.unpack_from(">H", data, place + 2)
            yield marker, place + 4, place + 2 + length
            place += 2 + max(2, length)


def _tags(data: bytes) -> str | None:
    """Of a TIFF's first directory: its values together are no longer than the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    entry, room = (f"{order}HHQQ", 8) if big else (f"{order}HHII", 4)
    try:
        (place,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, place)
        if count > MOST_TAGS:
            return f"{count} tags"
        start, total = place + (8 if big else 2), 0
        for number in range(count):
            _, kind, values, _ = struct.unpack_from(entry, data, start + number * struct.calcsize(entry))
            size = SIZES.get(kind, 0) * values
            total += size if size > room else 0
    except struct.error:
        return None
    return "tags that are longer than the file" if total > len(data) else None
