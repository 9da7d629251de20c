"""Videos and cameras: frames one after the other, every n-th, named, with flat memory; streams that break are said and closed."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unias.errors import DataError, MissingError, UsageError
from unias.inference.sources import each_photo, files_of, is_one_photo
from unias.inference.video import Frame, called, frame_count, frames, is_camera, is_stream
from unias.progress import Progress

cv2 = pytest.importorskip("cv2")
pytestmark = pytest.mark.usefixtures("one_thread")
COUNT, HEIGHT, WIDTH = 30, 48, 64


def painted(number: int) -> Any:
    """RGB: red says which frame it is, the left half is blue."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[..., 0] = 8 * number
    pixels[:, : WIDTH // 2, 2] = 200
    return pixels


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MJPEG file of 30 frames: each is a picture by itself."""
    path = tmp_path_factory.mktemp("clips") / "Band ñ 1.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(COUNT):
        writer.write(painted(number)[..., ::-1])
    writer.release()
    return path


class FakeCamera:
    """What cv2.VideoCapture(0) is to a program; it runs dry after ``pictures``."""

    opened: list[FakeCamera]
    pictures = 10**9
    works = True

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken = 0
        self.released = False
        type(self).opened.append(self)

    def isOpened(self) -> bool:  # noqa: N802
        return type(self).works

    def set(self, *_: object) -> bool:
        return False

    def grab(self) -> bool:
        self.taken += 1
        return self.taken <= type(self).pictures

    def retrieve(self) -> tuple[bool, Any]:
        return True, painted(self.taken % 30)[..., ::-1]

    def release(self) -> None:
        self.released = True


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    kind = type("Camera", (FakeCamera,), {"opened": []})
    monkeypatch.setattr(cv2, "VideoCapture", kind)
    return kind


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every stream that OpenCV opens, with what became of it."""
    made: list[Any] = []
    real = cv2.VideoCapture

    class Watched:
        def __init__(self, source: Any) -> None:
            self.stream = real(source)
            self.released = False
            made.append(self)

        def release(self) -> None:
            self.released = True
            self.stream.release()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    monkeypatch.setattr(cv2, "VideoCapture", Watched)
    return made


def test_frames_in_order_in_rgb(clip: Path, streams: list[Any]) -> None:
    found = list(frames(clip))
    assert [frame.name for frame in found] == [f"{clip}#{number:06}" for number in range(COUNT)]
    for number, frame in enumerate(found):
        assert frame.number == number
        assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        assert np.abs(frame.pixels.astype(int) - painted(number)).mean() < 8
    assert [stream.released for stream in streams] == [True]


@pytest.mark.parametrize("every", [1, 7, 100])
def test_every_nth_frame(clip: Path, every: int) -> None:
    assert [frame.number for frame in frames(clip, every)] == list(range(0, COUNT, every))
    assert frame_count(clip, every) == len(range(0, COUNT, every))


def test_a_stream_is_closed_when_its_reader_stops(clip: Path, streams: list[Any]) -> None:
    source = each_photo([clip])
    next(source)
    assert [stream.released for stream in streams] == [False]
    source.close()
    assert [stream.released for stream in streams] == [True]


def test_results_of_a_video(model: Any, clip: Path, streams: list[Any]) -> None:
    results = model.predict(clip, every=10, batch_size=2)
    first = next(results)
    assert (first.path, first.name) == (None, f"{clip}#000000")
    assert first.size == (HEIGHT, WIDTH)
    assert first.to_dict()["path"] == f"{clip}#000000"
    assert first.image.shape == (model.config.size, model.config.size, 3)
    rest = list(results)
    assert [result.name.rpartition("#")[2] for result in rest] == ["000010", "000020"]
    alone = model.predict(list(frames(clip, 10))[2].pixels)
    np.testing.assert_allclose(rest[1].model_map, alone.model_map, rtol=1e-4, atol=1e-5)
    results = model.predict([clip, clip])
    next(results)
    results.close()
    assert all(stream.released for stream in streams)


def test_a_video_is_read_with_flat_memory(model: Any, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more frames are read ahead than a batch holds."""
    read = 0
    real = frames

    def counted(source: Any, every: int) -> Iterator[Frame]:
        nonlocal read
        for frame in real(source, every):
            read += 1
            yield frame

    monkeypatch.setattr("unias.inference.sources.frames", counted)
    for done, _ in enumerate(model.predict(clip, batch_size=4), 1):
        assert read <= 4 * -(-done // 4)
    assert read == COUNT


def test_what_is_a_stream(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    assert all(is_stream(source) for source in (clip, str(clip), "none.MP4", "video:x.bin", "camera:0", "camera:x"))
    others = (tmp_path / "folder.mp4", f"{clip.parent}/*.avi", "photo.png", b"", 3, painted(0))
    assert not any(is_stream(source) for source in others)
    assert not is_one_photo(clip)
    assert is_one_photo(Frame("x", 0, painted(0)))
    assert is_camera("camera:1")
    assert not is_camera("video:x")
    assert called("camera:1") == "camera1"
    assert files_of(f"{clip.parent}/*.avi") == [clip]
    assert files_of("camera:1") == ["camera:1"]


def test_another_ending(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.bin").write_bytes(clip.read_bytes())
    found = list(each_photo(f"video:{tmp_path / 'clip.bin'}", 15))
    assert [frame.name for frame in found] == [f"{tmp_path / 'clip.bin'}#{number}" for number in ("000000", "000015")]


@pytest.mark.parametrize("kept", [0.6, 0.9])
def test_a_video_that_is_cut_off_is_said(
    model: Any, clip: Path, tmp_path: Path, kept: float, streams: list[Any]
) -> None:
    cut = tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[: int(kept * clip.stat().st_size)])
    done: list[Any] = []
    with pytest.raises(DataError, match=r"cut\.avi: ends after \d+ of 30 frames\. Copy or record it again"):
        done += model.predict(cut)
    told: list[str] = []
    again = list(model.predict([cut, clip], on_error=lambda photo, error: told.append(f"{photo}: {error}")))
    assert 0 < len(done) < COUNT  # what could be read of it was judged
    assert len(again) == len(done) + COUNT
    assert len(told) == 1
    assert all(stream.released for stream in streams)


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)])
def test_what_is_no_video(tmp_path: Path, content: bytes, streams: list[Any]) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.mp4: cannot be read as a video"):
        list(frames(path))
    with pytest.raises(DataError, match="there is no such video"):
        list(frames(tmp_path / "none.mp4"))
    assert all(stream.released for stream in streams)


def test_without_opencv(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingError, match=r'pip install "unias\[video\]"'):
        list(frames(clip))


def test_camera(model: Any, camera: type[FakeCamera]) -> None:
    results = model.predict("camera:2", every=3)
    found = list(itertools.islice(results, 4))
    assert [result.name for result in found] == [f"camera2#{number:06}" for number in (0, 3, 6, 9)]
    (device,) = camera.opened
    assert device.number == 2
    assert device.taken == 10  # no frame is taken before the last one's result was asked for
    assert not device.released
    results.close()
    assert device.released


@pytest.mark.parametrize(
    ("works", "source", "kind", "fault"),
    [
        (False, "camera:0", DataError, "camera:0: cannot be opened. Is it connected"),
        (True, "camera:0", DataError, "camera:0: gives no picture any more. Is it connected"),
        (True, "camera:", UsageError, "give the camera's number, such as camera:0"),
        (True, "camera:-1", UsageError, "give the camera's number"),
    ],
)
def test_cameras_that_fail(
    camera: type[FakeCamera], works: bool, source: str, kind: type[Exception], fault: str
) -> None:
    camera.works, camera.pictures = works, 2
    with pytest.raises(kind, match=fault.replace(".", r"\.")):
        list(frames(source))
    assert all(device.released for device in camera.opened)


def test_nonsense_every(clip: Path) -> None:
    with pytest.raises(UsageError, match="--every 0: must be at least 1"):
        list(frames(clip, 0))


def rows(out: Path) -> list[Any]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]


def test_command_on_a_video(
    cli: Any, model_folder: Path, clip: Path, tiny_data: Path, tmp_path: Path, streams: list[Any]
) -> None:
    photo = sorted(tiny_data.glob("*/test/hole/*.png"))[0]
    out = tmp_path / "out"
    answer = cli("predict", model_folder, clip, photo, "-o", out, "--every", 12, "--frames")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("4 photos: ")
    assert "predicting: 4/4" in answer.err
    found = rows(out)
    assert [row["path"] for row in found] == [
        *(f"{clip}#{number}" for number in ("000000", "000012", "000024")),
        str(photo),
    ]
    for row, number in zip(found, (0, 12, 24), strict=False):
        assert Path(row["mask"]).name == f"Band ñ 1.avi#{number:06}.png"
        with Image.open(out / row["frame"]) as picture:
            assert np.abs(np.asarray(picture).astype(int) - painted(number)).mean() < 8
        for column in ("mask", "heatmap"):
            with Image.open(out / row[column]) as picture:
                assert picture.size == (WIDTH, HEIGHT)
    assert found[3]["frame"] == ""
    assert all(stream.released for stream in streams)
    plain = cli("predict", model_folder, clip, "-o", tmp_path / "plain", "--most", 2, "-q")
    assert plain.out.startswith("2 photos: ")
    assert [row["frame"] for row in rows(tmp_path / "plain")] == ["", ""]
    assert not (tmp_path / "plain" / "frames").exists()
    assert all(stream.released for stream in streams)


def test_frames_become_labels(cli: Any, model_folder: Path, clip: Path, tmp_path: Path) -> None:
    assert cli("predict", model_folder, clip, "-o", tmp_path / "out", "--every", 15, "--frames", "-q").code == 0
    answer = cli("export-labels", tmp_path / "out", "--to", "coco")
    assert answer.code == 0, answer.err
    content = json.loads((tmp_path / "out" / "labels-coco" / "annotations.json").read_text("utf-8"))
    assert [image["file_name"] for image in content["images"]] == ["Band ñ 1.avi#000000.png", "Band ñ 1.avi#000015.png"]


def test_command_on_videos_that_break(cli: Any, model_folder: Path, clip: Path, tmp_path: Path) -> None:
    cut, none = tmp_path / "cut.avi", tmp_path / "none.mp4"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    answer = cli("predict", model_folder, cut, none, clip, "-o", tmp_path / "out", "--every", 10)
    assert answer.code == 3
    assert "2 unreadable" in answer.out
    assert answer.err.count("unreadable: ") == 2
    assert [row["path"].rpartition("#")[0] for row in rows(tmp_path / "out")[-3:]] == [str(clip)] * 3
    assert rows(tmp_path / "out")[0]["path"] == f"{cut}#000000"


def test_command_on_a_camera(cli: Any, model_folder: Path, camera: type[FakeCamera], tmp_path: Path) -> None:
    answer = cli("predict", model_folder, "camera:0", "-o", tmp_path / "out", "--most", 3, "--every", 2)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("3 photos: ")
    assert "predicting: 3/3" in answer.err
    assert [Path(row["mask"]).name for row in rows(tmp_path / "out")] == [f"camera0#{n:06}.png" for n in (0, 2, 4)]
    assert [device.released for device in camera.opened] == [True]
    assert camera.opened[0].taken == 5


def test_ctrl_c_at_a_camera(
    cli: Any, model_folder: Path, camera: type[FakeCamera], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished rows are kept, the camera is let go."""
    real: Callable[[Any], bool] = FakeCamera.grab

    def grab(self: Any) -> bool:
        if self.taken == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(camera, "grab", grab)
    answer = cli("predict", model_folder, "camera:0", "-o", tmp_path / "out")
    assert answer.code == 130
    assert "the 4 finished rows are in" in answer.err
    assert len(rows(tmp_path / "out")) == 4
    assert [device.released for device in camera.opened] == [True]


def test_progress_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("lines", every=0).stage("predicting", None) as advance:
        advance()
        advance(2, "a note")
    said = capsys.readouterr().err.splitlines()
    assert said == ["predicting: 1, 0 s", "predicting: 3, 0 s, a note"]


def test_a_camera_in_a_list_is_not_waited_for(model: Any, camera: type[FakeCamera]) -> None:
    """The first frame's result does not wait for the eighth frame."""
    results = model.predict(["camera:0"])
    next(results)
    assert camera.opened[0].taken == 1
    results.close()
    assert camera.opened[0].released
