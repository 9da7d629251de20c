"""Every kind of photo that a camera or a person leaves in a folder, and every broken one."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, PngImagePlugin

from unias.data import decode
from unias.data.decode import load_input, read_photo, to_display, to_input
from unias.errors import DataError, UsageError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (30, 40), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (30, 40, 3), dtype=np.uint16)
DEEP[0, 0] = (65535, 0, 257)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def png(array: np.ndarray, extra: bytes = b"", width: int | None = None, height: int | None = None) -> bytes:
    """A 16-bit PNG of (h, w, c), which Pillow cannot write with colour."""
    rows, columns, channels = array.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width or columns, height or rows, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_colour_is_exact(kind: str) -> None:
    photo = read_photo(encoded(Image.fromarray(COLOUR), kind))
    assert photo.pixels.dtype == np.uint8
    assert np.array_equal(photo.pixels, COLOUR)
    assert (photo.bits, photo.mode, photo.size) == (8, "RGB", (30, 40))
    assert photo.largest == COLOUR.max() / 255


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_grey_is_repeated(kind: str) -> None:
    photo = read_photo(encoded(Image.fromarray(GREY), kind))
    assert np.array_equal(photo.pixels, np.repeat(GREY[..., None], 3, axis=2))
    assert photo.mode == "L"


def test_alpha_is_dropped_and_not_composited() -> None:
    clear = np.zeros((30, 40, 1), np.uint8)
    rgba = Image.fromarray(np.concatenate([COLOUR, clear], axis=2))
    la = Image.fromarray(np.concatenate([GREY[..., None], clear], axis=2))
    assert np.array_equal(read_photo(encoded(rgba, "PNG")).pixels, COLOUR)
    assert np.array_equal(read_photo(encoded(la, "PNG")).pixels[..., 2], GREY)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(64))])
def test_palette_colours_are_looked_up(transparency: int | bytes | None) -> None:
    indexed = Image.fromarray(COLOUR).quantize(64)
    options = {} if transparency is None else {"transparency": transparency}
    photo = read_photo(encoded(indexed, "PNG", **options))
    assert np.array_equal(photo.pixels, np.asarray(indexed.convert("RGB")))
    assert photo.mode == "P"


def test_one_bit() -> None:
    bits = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (20, 10))).convert("1")
    photo = read_photo(encoded(bits, "PNG"))
    assert photo.pixels[:, 0].max() == 0
    assert photo.pixels[:, 1].min() == 255


def test_cmyk_jpeg_has_the_colours_of_pillow() -> None:
    plain = Image.new("RGB", (40, 30), (200, 40, 90))
    photo = read_photo(encoded(plain.convert("CMYK"), "JPEG", quality=100, subsampling=0))
    assert photo.mode == "CMYK"
    assert np.abs(photo.pixels.astype(int) - (200, 40, 90)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_rotation_is_applied(kind: str, orientation: int) -> None:
    stored = Image.fromarray(np.kron(RNG.integers(0, 256, (3, 4), dtype=np.uint8), np.ones((16, 16), np.uint8)))
    data = encoded(stored, kind, exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    photo = read_photo(data)
    assert photo.size == ((64, 48) if orientation > 4 else (48, 64))
    assert np.array_equal(photo.pixels, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_of_16_bit_files(orientation: int) -> None:
    upright = decode._turn(DEEP, orientation)
    block = chunk(b"eXIf", exif(orientation).tobytes()[6:])
    for data in (png(DEEP, block), tiff(DEEP, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])):
        assert np.array_equal(np.rint(read_photo(data).pixels * 65535), upright)
    grey = decode._turn(DEEP[..., 0], orientation)
    for data in (png(DEEP[..., :1], block), tiff(DEEP[..., 0], extratags=[(274, 3, 1, orientation, True)])):
        assert np.array_equal(np.rint(read_photo(data).pixels[..., 1] * 65535), grey)


def test_a_broken_exif_block_turns_nothing() -> None:
    data = encoded(Image.fromarray(COLOUR), "PNG", exif=b"Exif\0\0rubbish that is no block")
    assert np.array_equal(read_photo(data).pixels, COLOUR)


def test_of_several_frames_the_first() -> None:
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    data = encoded(first, "TIFF", save_all=True, append_images=[second])
    assert np.array_equal(read_photo(data).pixels, COLOUR)
    deep = tiff(np.stack([DEEP, 65535 - DEEP]), photometric="rgb")
    assert np.array_equal(np.rint(read_photo(deep).pixels * 65535), DEEP)


# ---- more than 8 bits


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_16_bits(channels: int) -> None:
    stored = np.concatenate([DEEP, DEEP[..., :1]], axis=2)[..., :channels]
    photo = read_photo(png(stored))
    shown = stored[..., :3] if channels > 2 else np.repeat(stored[..., :1], 3, axis=2)
    assert photo.pixels.dtype == np.float32
    assert np.array_equal(np.rint(photo.pixels * 65535), shown)
    assert photo.bits == 16
    assert photo.mode == {1: "I;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    assert photo.largest == 1.0


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"planarconfig": "separate"}])
def test_16_bit_rgb_tiff_keeps_16_bits(options: dict[str, object]) -> None:
    stored = np.moveaxis(DEEP, 2, 0).copy() if "planarconfig" in options else DEEP
    photo = read_photo(tiff(stored, photometric="rgb", **options))
    assert np.array_equal(np.rint(photo.pixels * 65535), DEEP)
    assert (photo.bits, photo.mode) == (16, "RGB;16")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"tile": (16, 16)}])
def test_16_bit_grey_tiff_keeps_16_bits(options: dict[str, object]) -> None:
    photo = read_photo(tiff(DEEP[..., 0], **options))
    assert np.array_equal(np.rint(photo.pixels[..., 0] * 65535), DEEP[..., 0])


def test_white_is_zero_is_turned_over() -> None:
    photo = read_photo(tiff(DEEP[..., 0], photometric="miniswhite"))
    assert np.array_equal(np.rint(photo.pixels[..., 0] * 65535), 65535 - DEEP[..., 0])


def test_float_tiff_in_the_unit_range() -> None:
    values = (DEEP / 65535).astype(np.float32)
    assert np.array_equal(read_photo(tiff(values, photometric="rgb")).pixels, values)
    assert np.array_equal(read_photo(tiff(values[..., 0])).pixels[..., 0], values[..., 0])
    with pytest.raises(DataError, match=r"line\.tif: float values from .* must lie in \[0, 1\]"):
        read_photo(tiff(values * 2, photometric="rgb"), name="line.tif")


def test_12_bits_packed_in_a_tiff() -> None:
    """A file that says itself that it holds 12 bits is divided by 4095 without being told."""
    even, odd = (DEEP[:, :, 0] >> 4)[:, ::2], (DEEP[:, :, 0] >> 4)[:, 1::2]
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=2).astype(np.uint8).tobytes()
    fields = [(256, 4, 1, 40), (257, 4, 1, 30), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    fields += [(273, 4, 1, 122), (277, 3, 1, 1), (278, 4, 1, 30), (279, 4, 1, len(packed))]
    table = b"".join(struct.pack("<HHII", *field) for field in fields)
    photo = read_photo(b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + table + bytes(4) + packed)
    assert photo.bits == 12
    assert np.array_equal(np.rint(photo.pixels[..., 0] * 4095), DEEP[:, :, 0] >> 4)


def test_a_tiff_of_many_channels_is_refused() -> None:
    cube = np.zeros((30, 40, 7), np.uint16)
    with pytest.raises(DataError, match="7 channels"):
        read_photo(tiff(cube, photometric="minisblack", planarconfig="contig"))


def test_bits_divides_16_bit_photos_only() -> None:
    twelve = (DEEP >> 4).astype(np.uint16)
    photo = read_photo(png(twelve), bits=12)
    assert np.allclose(photo.pixels, twelve / 4095, atol=1e-7)
    assert photo.bits == 12
    assert photo.largest == twelve.max() / 65535  # of the type's range, so the warning can be told
    assert read_photo(png(twelve)).pixels.max() < 0.07
    assert np.array_equal(read_photo(encoded(Image.fromarray(COLOUR), "PNG"), bits=12).pixels, COLOUR)
    with pytest.raises(DataError, match="more than 12 bits"):
        read_photo(png(DEEP), bits=12)


@pytest.mark.parametrize("bits", [0, 8, 17, -1, True])
def test_bits_outside_the_range(bits: int) -> None:
    with pytest.raises(UsageError, match="must be 9 to 16"):
        read_photo(COLOUR, bits=bits)


# ---- arrays and PIL images


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64, np.bool_])
def test_arrays(shape: tuple[int, ...], dtype: type) -> None:
    full = {np.uint8: 255, np.uint16: 65535, np.float64: 1, np.bool_: 1}[dtype]
    array = (RNG.random(shape) * full).astype(dtype)
    photo = read_photo(array)
    view = array.reshape(30, 40, -1).astype(np.float64) / full
    expected = view[..., :3] if view.shape[2] > 2 else np.repeat(view, 3, axis=2)
    got = photo.pixels / 255 if photo.pixels.dtype == np.uint8 else photo.pixels
    assert np.allclose(got, expected, atol=1e-6)
    assert photo.size == (30, 40)
    array[:] = 0  # a copy was made
    assert np.array_equal(photo.pixels, read_photo(photo.pixels).pixels)
    assert photo.pixels.any()


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros((30, 40, 2), np.uint8), "shape"),
        (np.zeros(30, np.uint8), "shape"),
        (np.zeros((1, 3, 30, 40), np.uint8), "shape"),
        (np.zeros((30, 40), np.int64), "int64"),
        (np.full((30, 40), np.nan), "NaN"),
        (np.full((30, 40), np.inf, np.float32), "NaN or infinite"),
        (np.full((30, 40), 200.0), r"must lie in \[0, 1\]"),
        (np.full((30, 40), -0.1), r"must lie in \[0, 1\]"),
        (np.zeros((1, 1, 3), np.uint8), "too small"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read_photo(array)


def test_pil_images() -> None:
    assert np.array_equal(read_photo(Image.fromarray(COLOUR)).pixels, COLOUR)
    deep = read_photo(Image.fromarray(DEEP[..., 0]))
    assert np.array_equal(np.rint(deep.pixels[..., 0] * 65535), DEEP[..., 0])
    wide = read_photo(Image.fromarray(DEEP[..., 0].astype(np.int32)))
    assert np.array_equal(wide.pixels, deep.pixels)
    with pytest.raises(DataError, match="do not fit 16 bits"):
        read_photo(Image.fromarray(np.full((30, 40), -1, np.int32)))


# ---- refused by name


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "16", "RGB16TIFF", "ZIPTIFF", "FTIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.99])
def test_truncated(kind: str, part: float, tmp_path: Path) -> None:
    noise = RNG.integers(0, 65536, (96, 96, 3), dtype=np.uint16)
    special = {
        "16": lambda: png(noise),
        "RGB16TIFF": lambda: tiff(noise, photometric="rgb"),
        "ZIPTIFF": lambda: tiff(noise, photometric="rgb", compression="zlib"),
        "FTIFF": lambda: tiff((noise / 65535).astype(np.float32), photometric="rgb"),
    }
    whole = special[kind]() if kind in special else encoded(Image.fromarray((noise >> 8).astype(np.uint8)), kind)
    read_photo(whole)
    path = tmp_path / "half a photo.png"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(DataError, match=r"half a photo\.png: ") as caught:
        read_photo(path)
    assert "Replace it with a good copy" in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_the_last_bytes_are_missed_too(kind: str) -> None:
    whole = encoded(Image.fromarray(COLOUR), kind)
    for lost in (2, 8, 13, 40):
        with pytest.raises(DataError):
            read_photo(whole[:-lost])


def test_a_byte_changed_in_a_png_is_noticed() -> None:
    for whole in (encoded(Image.fromarray(COLOUR), "PNG"), png(DEEP)):
        broken = bytearray(whole)
        broken[len(broken) // 2] ^= 0xFF
        with pytest.raises(DataError, match="damaged"):
            read_photo(bytes(broken))


def test_files_that_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture at all")
    (tmp_path / "run.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n")
    Image.fromarray(COLOUR[:1, :1]).save(tmp_path / "dot.png")
    faults = {"empty": "zero bytes", "text": "not an image", "run": "not an image", "dot": "1 x 1 pixels is too small"}
    for name, fault in (faults | {"none": "no such file"}).items():
        with pytest.raises(DataError, match=fault) as caught:
            read_photo(tmp_path / f"{name}.png")
        assert str(tmp_path / f"{name}.png") in str(caught.value)
    with pytest.raises(DataError, match="is a folder"):
        read_photo(tmp_path)
    with pytest.raises(DataError, match="not a photo"):
        read_photo(3)  # type: ignore[arg-type]


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    for data in (png(DEEP, width=20_000, height=20_000), tiff_header(20_000), bmp_header(20_000)):
        with pytest.raises(DataError, match=r"20000 x 20000 is 400,000,000 pixels, over the limit of 178,956,970"):
            read_photo(data, name="bomb.png")


def test_over_half_of_the_limit_there_is_no_warning() -> None:
    """Pillow's own check warns from 89 million pixels on; here a broken body is what is wrong."""
    with pytest.raises(DataError, match="truncated or damaged"):
        read_photo(png(DEEP, width=10_000, height=10_000))


def test_a_png_text_bomb_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 3_000_000, zip=True)
    with pytest.raises(DataError, match=r"bomb\.png"):
        read_photo(encoded(Image.fromarray(COLOUR), "PNG", pnginfo=info), name="bomb.png")


def tiff_header(side: int) -> bytes:
    data = bytearray(tiff(DEEP, photometric="rgb"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = [file.pages.first.tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    for place in places:
        struct.pack_into("<H", data, place, side)
    return bytes(data)


def bmp_header(side: int) -> bytes:
    data = bytearray(encoded(Image.fromarray(COLOUR), "BMP"))
    struct.pack_into("<ii", data, 18, side, side)
    return bytes(data)


# ---- to the model and to people


@pytest.mark.parametrize("size", [64, (64, 96)])
def test_to_input_is_pillows_bicubic_of_the_whole_photo(size: int | tuple[int, int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    expected = np.asarray(Image.fromarray(COLOUR).resize((width, height), Image.Resampling.BICUBIC)) / 255
    got = to_input(read_photo(COLOUR), size)
    assert got.shape == (3, height, width)
    assert got.dtype == np.float32
    assert got.flags["C_CONTIGUOUS"]
    assert np.allclose(got.transpose(1, 2, 0), expected, atol=1e-7)


def test_to_input_keeps_depth_and_clips() -> None:
    edge = np.zeros((32, 32), np.uint16)
    edge[:, 16:] = 65535
    got = to_input(read_photo(edge), 64)
    assert got.min() == 0
    assert got.max() == 1
    ramp = np.tile(np.arange(1000, 1256, dtype=np.uint16), (64, 1))
    assert len(np.unique(to_input(read_photo(ramp), (64, 256)))) == 256
    assert np.allclose(to_input(read_photo(ramp), (64, 256))[0], ramp / 65535, atol=1e-6)


def test_8_and_16_bits_of_the_same_photo_agree() -> None:
    smooth = np.asarray(Image.fromarray(COLOUR).resize((200, 150), Image.Resampling.BICUBIC))
    eight, sixteen = to_input(read_photo(smooth), 64), to_input(read_photo(smooth.astype(np.uint16) * 257), 64)
    assert np.abs(eight - sixteen).max() <= 4 / 255  # two passes, each rounded and clipped, against none
    assert np.abs(eight - sixteen).mean() <= 0.5 / 255


def test_to_display() -> None:
    assert np.array_equal(to_display(read_photo(COLOUR)), COLOUR)
    assert np.array_equal(to_display(read_photo(COLOUR.astype(np.uint16) * 257)), COLOUR)
    assert to_display(read_photo(COLOUR), (10, 20)).shape == (10, 20, 3)
    assert to_display(read_photo(DEEP), 16).dtype == np.uint8


def test_load_input(tmp_path: Path) -> None:
    path = tmp_path / "Ünïcode name, mit Leerzeichen.PNG"
    Image.fromarray(COLOUR).save(path)
    array, photo = load_input(str(path), 32)
    assert array.shape == (3, 32, 32)
    assert np.array_equal(photo.pixels, COLOUR)
