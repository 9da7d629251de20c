"""Uploads that nobody means well with: every one is answered, none with a 5xx, and the memory stays as it was."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from serving import PNG, Running, Serve

from unias.data.decode import read_photo
from unias.errors import DataError
from unias.serve.headers import fault_of, unpacked_size
from unias.serve.photos import check_photo
from unias.serve.refusals import Refusal
from unias.serve.settings import ServeSettings

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # a server goes on where a decoder warns
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]
FEW, MANY = 280, 2100
KINDS = {"png": "image/png", "jpeg": "image/jpeg", "tiff": "image/tiff", "bmp": "image/bmp"}
GROWTH = 24  # MiB that memory may move by, while thousands of uploads go through


def decodes(data: bytes) -> bool:
    try:
        read_photo(data)
    except DataError:
        return False
    return True


def ask(running: Running, data: bytes, number: int = 0) -> int:
    """The status, sent as a form or as it is."""
    if number % 2:
        answer = running.client.post("/v1/inspect?mask=none", files={"image": ("photo.png", data, "image/png")})
    else:
        answer = running.client.post("/v1/inspect?mask=none", content=data, headers=PNG)
    if answer.status_code != 200:
        assert set(answer.json()) == {"error", "hint"}
        assert len(answer.text) < 2000
    return answer.status_code


@pytest.mark.parametrize("upload", hostile.crafted(), ids=lambda upload: upload.name)
def test_crafted(running: Running, upload: hostile.Upload) -> None:
    status = ask(running, upload.data)
    assert status in upload.answers
    if not decodes(upload.data):
        assert 400 <= status < 500
    gate = running.service.gate
    assert (gate.photos, gate.held, gate.coming) == (0, 0, 0)


def storm(running: Running, count: int, seed: int) -> Counter[int]:
    """Fuzzed files, every fifth one a crafted one, with a good photo between: {status: how many}."""
    crafted = [upload.data for upload in hostile.crafted()]
    good = hostile.saved(hostile.picture(), "PNG")
    found: Counter[int] = Counter()
    for number, data in enumerate(hostile.fuzzed(count, seed)):
        if number % 5 == 4:
            data = crafted[number // 5 % len(crafted)]
        status = ask(running, data, number)
        assert status < 500
        if status == 200:
            assert decodes(data)
        found[status] += 1
        if number % 100 == 0:
            assert ask(running, good) == 200
    return found


def test_fuzzed(running: Running) -> None:
    found = storm(running, FEW, seed=0)
    assert found.total() == FEW
    assert found[200] > FEW // 10
    assert found[422] > FEW // 4


@pytest.mark.slow
def test_thousands_leave_the_memory_flat(serve: Serve) -> None:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("memory is read from /proc")

    def memory() -> float:
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    with serve() as running:
        storm(running, 400, seed=1)
        before = memory()
        found = storm(running, MANY, seed=2)
        after = memory()
        assert found.total() == MANY
        assert abs(after - before) < GROWTH, (before, after)
        assert running.service.ready


def test_nothing_is_unpacked_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """tifffile unpacks whatever there is: it gets only what was counted before."""
    import tifffile

    unpacked: list[bytes] = []
    real = tifffile.TiffPage.asarray

    def seen(page: Any, *arguments: Any, **wishes: Any) -> Any:
        unpacked.append(page.parent.filehandle._fh.getvalue())
        return real(page, *arguments, **wishes)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", seen)
    settings, let_in = ServeSettings(), 0
    files = [upload.data for upload in hostile.tiffs()] + [
        data for data in hostile.fuzzed(600, 3) if data[:2] in (b"II", b"MM")
    ]
    for data in files:
        try:
            check_photo(data, settings)
        except Refusal:
            continue
        assert not unpacked  # the check itself reads headers alone
        if decodes(data) and unpacked:
            let_in += 1
            with tifffile.TiffFile(__import__("io").BytesIO(data)) as file:
                assert file.pages.first.compression in (1, 8, 32946)
        unpacked.clear()
    assert let_in > 10


HEADERS = [
    ("PNG", hostile.png(32, 32, hostile.rows(), extra=hostile.chunk(b"prVt", b"") * 30_000), "chunks"),
    ("PNG", hostile.png(32, 32, hostile.rows(), extra=hostile.chunk(b"eXIf", bytes(70_000))), "EXIF"),
    (
        "PNG",
        hostile.png(
            32,
            32,
            hostile.rows(),
            extra=hostile.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(10**6))),
        ),
        "EXIF",
    ),
    ("JPEG", b"\xff\xd8" + b"\xff" * 30_000 + b"\xd9", "segments"),
    ("JPEG", b"\xff\xd8" + b"\xff\x00" * 30_000, "segments"),
    ("JPEG", b"\xff\xd8" + b"\xff\xe5\x00\x02" * 30_000, "segments"),
    ("JPEG", b"\xff\xd8" + (b"\xff\xe1\xf0\x00Exif\0\0" + bytes(0xEFF8)) * 3, "EXIF"),
    ("TIFF", hostile.made_tiff(bytes(5000), {5000 + n: (7, 4000, 8) for n in range(100)}), "longer than the file"),
    ("TIFF", hostile.made_tiff(bytes(5000), {5000 + n: (3, 1, 8) for n in range(5000)}), "tags"),
]


@pytest.mark.parametrize(("kind", "data", "named"), HEADERS)
def test_endless_headers(running: Running, kind: str, data: bytes, named: str) -> None:
    assert named in str(fault_of(kind, data))
    assert ask(running, data) == 422


def test_headers_of_photos_are_no_fault() -> None:
    for data in hostile.seeds():
        kind = next(
            name
            for name, start in (("PNG", b"\x89"), ("JPEG", b"\xff"), ("BMP", b"B"), ("TIFF", b"I"))
            if data.startswith(start)
        )
        assert fault_of(kind, data) is None
        for end in range(0, min(len(data), 400), 7):  # nor does a short one raise
            fault_of(kind, data[:end])


def test_unpacked_size_stops_counting() -> None:
    packed = zlib.compress(bytes(50_000_000), 9)
    assert unpacked_size(packed, 10**9) == 50_000_000
    assert 5_000_000 < unpacked_size(packed, 5_000_000) <= 5_000_000 + 2**20
    assert unpacked_size(b"no deflate", 100) == 0
    assert unpacked_size(packed[: len(packed) // 2], 10**9) < 50_000_000


def test_types_that_lie_are_of_no_use(running: Running) -> None:
    for name, data in (
        ("png", hostile.saved(hostile.picture(), "PNG")),
        ("gif", hostile.saved(hostile.picture(), "GIF")),
    ):
        for kind in [*KINDS.values(), "image/gif", "image/svg+xml"]:
            answer = running.client.post("/v1/inspect", content=data, headers={"Content-Type": kind})
            assert answer.status_code == (200 if name == "png" else 415)


def test_deep_photos_are_taken_whole(running: Running) -> None:
    """The guard against bombs lets real 16-bit TIFFs through, packed or not, in strips, tiles or planes."""
    deep = np.random.default_rng(0).integers(0, 65_535, (100, 75, 3), dtype=np.uint16)
    for wishes in (
        {},
        {"compression": "zlib"},
        {"tile": (32, 32)},
        {"tile": (64, 64), "compression": "zlib"},
        {"rowsperstrip": 7, "compression": "zlib"},
    ):
        data = hostile.tiff(deep, photometric="rgb", **wishes)
        assert np.array_equal(np.rint(read_photo(data).pixels * 65_535), deep)
        assert running.inspect(data)["size"] == [100, 75]
