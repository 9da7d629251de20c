"""What is let through to the decoders: four formats, told by content, of a size that their header states.

Decoding is the part of a server that strangers' bytes reach, so what only costs time or memory is refused here, before it:
sizes over the limit, endless headers (``headers``), run-length BMPs, JPEGs of hundreds of scans, TIFFs in thousands of
pieces, with huge tiles, or packed with something that unpacks to more than it says. The decoders themselves answer for what
is merely broken.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageFile

from unias.data.decode import DAMAGED, check_size, open_header
from unias.errors import DataError
from unias.serve.headers import PIECE, fault_of, unpacked_size
from unias.serve.refusals import Refusal
from unias.serve.settings import ServeSettings

NAME = "the photo"  # what messages call it: file names are the client's
MAGIC = (
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", (b"\xff\xd8\xff",)),
    ("BMP", (b"BM",)),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
MOST_SCANS = 200  # of a JPEG; ten are usual, and each costs a pass over the whole picture
MOST_PIECES = 65_536  # strips or tiles of a TIFF
MOST_BITS = 32  # a sample
PLAIN, DEFLATE = 1, (8, 32946)  # of TIFF's compressions, those that tifffile unpacks without another package
JPEG_IN_TIFF = (6, 7)


def kind_of(data: bytes) -> str:
    """PNG, JPEG, BMP or TIFF by its first bytes. Raises Refusal 415 for anything else."""
    for kind, starts in MAGIC:
        if data.startswith(starts):
            return kind
    raise Refusal(
        415, "format", f"{NAME} is none of PNG, JPEG, BMP and TIFF by its content.", "Send it as one of these formats."
    )


def check_photo(data: bytes, settings: ServeSettings) -> None:
    """Whether it may be decoded; reads headers only. Raises Refusal: 413 too many pixels, 415 another format, 422 broken."""
    kind = kind_of(data)
    if fault := fault_of(kind, data):
        raise Refusal(422, "undecodable", f"{NAME} is a {kind} with {fault}.", "Save it again without its metadata.")
    try:
        image = open_header(data, NAME)
        size = tiff_size(data, image, settings) if kind == "TIFF" or image is None else image.size
        if size[0] * size[1] <= settings.max_pixels:
            check_size(size, NAME)
    except DataError as error:
        raise undecodable(error) from error
    if size[0] * size[1] > settings.max_pixels:
        raise Refusal(
            413,
            "too_many_pixels",
            f"{NAME} has {size[0]} x {size[1]} pixels, over this server's limit of {settings.max_pixels:,}.",
            "Send it smaller or in tiles, or start the server with a higher --max-megapixels.",
        )
    if kind == "BMP" and isinstance(image, ImageFile.ImageFile) and [tile[0] for tile in image.tile] == ["bmp_rle"]:
        raise Refusal(415, "format", f"{NAME} is a run-length compressed BMP.", "Send it as PNG.")
    if kind == "JPEG" and data.count(b"\xff\xda") > MOST_SCANS:
        raise Refusal(422, "undecodable", f"{NAME} is a JPEG of over {MOST_SCANS} scans.", "Save it again.")


def undecodable(error: DataError) -> Refusal:
    """Pillow or tifffile cannot read it, or it is no photo."""
    return Refusal(
        422,
        "undecodable",
        str(error).replace(DAMAGED, "").strip(),
        "Check the file in an image viewer and send it again.",
    )


def tiff_size(data: bytes, image: Image.Image | None, settings: ServeSettings) -> tuple[int, int]:
    """(width, height) of a TIFF's first page. Raises Refusal 415 or 422 for what may not be unpacked."""
    import tifffile  # slow to import

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            size = (int(page.imagewidth), int(page.imagelength))
            samples, bits, packing = int(page.samplesperpixel), int(page.bitspersample), int(page.compression)
            tile = (int(page.tilewidth) or size[0], int(page.tilelength) or size[1])
            whole = [
                -(-side // piece) * piece for side, piece in zip(size, tile, strict=True)
            ]  # with its last tiles in full
            spans = list(zip(page.dataoffsets, page.databytecounts, strict=False))
            light = int(page.photometric)
    except Exception as error:  # whatever a broken file makes it raise
        raise _strange(str(error) or type(error).__name__) from error
    if image is not None and image.size != size and image.size != size[::-1]:
        raise _strange("two readers disagree on its size")
    if size[0] * size[1] > settings.max_pixels:
        return size
    area = whole[0] * whole[1]
    if samples > 4 or bits > MOST_BITS or area > 2 * settings.max_pixels or len(spans) > MOST_PIECES:
        raise _strange(f"{samples} channels of {bits} bits in {len(spans)} pieces of {tile[0]} x {tile[1]}")
    if packing in JPEG_IN_TIFF and data.count(b"\xff\xda") > MOST_SCANS + len(spans):
        raise _strange("too many JPEG scans")
    # What Pillow reads goes through libtiff, whose buffers have the size of a strip; tifffile unpacks whatever there is.
    by_pillow = image is not None and (bits <= 8 or (image.mode in ("I;16", "F") and light != 0))
    if not by_pillow:
        _check_packing(data, packing, spans, area * samples * bits // 8)
    return size


def _check_packing(data: bytes, packing: int, spans: list[Any], room: int) -> None:
    """All pieces together unpack to no more than ``room`` bytes, and a little that decoders leave unread."""
    if packing == PLAIN:
        return
    if packing not in DEFLATE:
        raise Refusal(
            415,
            "format",
            f"{NAME} is a TIFF of over 8 bits packed in a way that is not taken here (compression {packing}).",
            "Save it without compression or with deflate, or as PNG.",
        )
    for offset, count in spans:
        room -= unpacked_size(data[offset : offset + count], room + PIECE)
        if room < -PIECE:
            raise _strange("it unpacks to more than its size")


def _strange(what: str) -> Refusal:
    return Refusal(
        422, "undecodable", f"{NAME} is a TIFF that is not read here: {what[:200]}.", "Save it as one grey or RGB page."
    )
