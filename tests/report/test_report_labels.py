"""Pre-annotations: every format is read back and gives the masks that predict wrote."""

from __future__ import annotations

import csv
import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from unias.errors import DataError, UsageError
from unias.files import json_ready
from unias.inference.result import Result
from unias.maps.outlines import ring_area, rings, simplified
from unias.report.labels import labelstudio
from unias.report.labels.export import FORMATS, export_labels
from unias.report.labels.labelstudio import decode, encode

Mask = NDArray[np.bool_]
SIDE = 64  # of the model's map
MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))


def marked(name: str) -> Mask:
    """A mask of the model's size: a ring, a thin line, a single pixel, a corner, two blocks that touch at a corner, nothing."""
    y, x = np.mgrid[:SIDE, :SIDE]
    far = np.hypot(y - 30, x - 25)
    mask = {
        "ring": (far < 15) & (far > 6),
        "line": np.abs(0.4 * x + 8 - y) < 0.6,
        "pixel": (y == 40) & (x == 9),
        "corner": (y > 55) & (x > 50),
        "touching": ((y // 8 == 2) & (x // 8 == 2)) | ((y // 8 == 3) & (x // 8 == 3)),
        "blob": (far < 12 + 3 * np.sin(np.arctan2(y - 30, x - 25) * 5)) | ((y > 50) & (x < 7)),
        "nothing": np.zeros((SIDE, SIDE), dtype=bool),
    }[name]
    return mask


def result(path: Path, mask: Mask, size: tuple[int, int]) -> Result:
    """As the predictor makes it."""
    values = np.where(mask, 1.0, 0.1).astype(np.float32)
    if mask.any():
        values[tuple(np.argwhere(mask)[0])] = 3.0  # its first region's highest
    return Result(
        path=path,
        product="Dichtung groß",
        nearest="Dichtung groß",
        ok=not mask.any(),
        raw_score=float(values.max()),
        pred_score=0.9 if mask.any() else 0.2,
        p_value=None,
        cut=0.5,
        size=size,
        model_map=values,
        model_mask=mask,
    )


PHOTOS = {
    "ring.png": (100, 160),
    "below ñ/line.png": (64, 64),
    "below ñ/pixel #1.png": (48, 30),
    "corner.jpg": (300, 77),
    "touching.png": (128, 128),
    "blob.bmp": (211, 190),
    "nothing.png": (50, 60),
}


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as predict leaves it, its rows in no particular order; one photo was predicted twice."""
    home = tmp_path_factory.mktemp("predicted") / "out"
    (home / "masks").mkdir(parents=True)
    lines = []
    for number, (name, size) in enumerate([*PHOTOS.items(), ("ring.png", (100, 160))]):
        kind = next(kind for kind in ("ring", "line", "pixel", "corner", "touching", "blob", "nothing") if kind in name)
        found = result(Path("/photos/line 3") / name, marked(kind), size)
        mask = f"masks/{number}.png"
        Image.fromarray(found.pred_mask.astype(np.uint8) * 255).save(home / mask)
        lines.append(json.dumps(json_ready({**found.to_dict(), "mask": mask}), ensure_ascii=False))
    (home / "results.jsonl").write_text("\n".join(lines[::-1]) + "\n", encoding="utf-8")
    return home


def truth(name: str) -> Mask:
    """The mask at the photo's own size."""
    kind = next(kind for kind in ("ring", "line", "pixel", "corner", "touching", "blob", "nothing") if kind in name)
    return result(Path(name), marked(kind), PHOTOS[name]).pred_mask


def grown(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    found: Mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return found


def filled(rings: list[Any], size: tuple[int, int]) -> Mask:
    """Pixels whose centres lie in a polygon, by the even-odd rule."""
    from matplotlib.path import Path as Polygon

    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, dtype=bool)
    for ring in rings:
        corners = np.asarray(ring, dtype=float).reshape(-1, 2)
        found = Polygon(np.concatenate([corners, corners[:1]])).contains_points(
            np.stack([x.ravel(), y.ravel()], axis=1)
        )
        inside |= found.reshape(size)
    return inside


def within_a_pixel(found: Mask, wanted: Mask) -> None:
    """The same but for the border: no pixel outside the grown mask is marked, none inside the shrunken one is not."""
    assert not (found & ~grown(wanted)).any()
    assert not (~grown(~wanted) & wanted & ~found).any()
    if wanted.any():
        assert found.any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_coco_is_what_pycocotools_reads(predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco_file = pytest.importorskip("pycocotools.coco")
    done = export_labels(predicted, "coco", tmp_path / "coco", label="Fehler")
    assert (done.photos, done.root) == (len(PHOTOS), Path("/photos/line 3"))
    read = coco_file.COCO(str(tmp_path / "coco" / "annotations.json"))
    capsys.readouterr()
    assert [image["file_name"] for image in read.loadImgs(sorted(read.getImgIds()))] == sorted(PHOTOS)
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == ["Fehler"]
    for image in read.loadImgs(read.getImgIds()):
        wanted = truth(image["file_name"])
        assert (image["height"], image["width"]) == wanted.shape
        assert image["verdict"] == ("defect" if wanted.any() else "ok")
        whole = np.zeros(wanted.shape, dtype=bool)
        for one in read.loadAnns(read.getAnnIds(imgIds=[image["id"]])):
            mask = read.annToMask(one).astype(bool)
            x, y, width, height = one["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum() == one["area"]
            assert mask[y].any()
            assert mask[:, x].any()
            assert one["score"] in (3 / 3.5, 1 / 1.5)
            assert not (whole & mask).any()
            whole |= mask
        np.testing.assert_array_equal(whole, wanted)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_coco_polygons_lie_within_a_pixel(predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco_file = pytest.importorskip("pycocotools.coco")
    export_labels(predicted, "coco", tmp_path / "coco", polygons=True)
    read = coco_file.COCO(str(tmp_path / "coco" / "annotations.json"))
    capsys.readouterr()
    kinds = set()
    for image in read.loadImgs(read.getImgIds()):
        wanted = truth(image["file_name"])
        whole, by_centre = np.zeros((2, *wanted.shape), dtype=bool)
        for one in read.loadAnns(read.getAnnIds(imgIds=[image["id"]])):
            kinds.add(type(one["segmentation"]))
            whole |= read.annToMask(one).astype(bool)
            if isinstance(one["segmentation"], list):
                by_centre |= filled(one["segmentation"], wanted.shape)
            else:
                by_centre |= read.annToMask(one).astype(bool)
        within_a_pixel(whole, wanted)
        within_a_pixel(by_centre, wanted)
    assert kinds == {list, dict}  # the ring alone has a hole


@pytest.mark.parametrize("kind", ["line", "pixel", "corner", "touching", "blob"])
def test_polygons_have_fewer_points(kind: str) -> None:
    for ring in rings(marked(kind))[0]:
        fewer = simplified(ring)
        assert 3 <= len(fewer) <= (4 if len(ring) == 4 else max(8, 0.6 * len(ring)))
        assert ring_area(fewer) == pytest.approx(ring_area(ring), rel=0.1)


def test_label_studio_tasks(predicted: Path, tmp_path: Path) -> None:
    done = export_labels(predicted, "labelstudio", tmp_path / "ls", label="scratch & dent", prefix="http://x/?d=")
    tasks = json.loads((done.folder / "tasks.json").read_text("utf-8"))
    assert tasks[0]["data"]["image"] == "http://x/?d=below%20%C3%B1/line.png"
    assert tasks[1]["data"]["image"].endswith("pixel%20%231.png")
    setup = ElementTree.fromstring((done.folder / "labeling.xml").read_text("utf-8"))
    tags = {tag.get("name"): tag for tag in setup if tag.get("name")}
    assert tags["image"].get("value") == "$image"
    assert [label.get("value") for label in tags["brush"]] == ["scratch & dent"]
    for task, name in zip(tasks, sorted(PHOTOS), strict=True):
        wanted = truth(name)
        (prediction,) = task["predictions"]
        verdict, *strokes = prediction["result"]
        assert verdict["value"] == {"choices": ["defect" if wanted.any() else "ok"]}
        assert verdict["value"]["choices"][0] in [choice.get("value") for choice in tags["verdict"]]
        whole = np.zeros(wanted.shape, dtype=bool)
        for stroke in strokes:
            assert (stroke["original_height"], stroke["original_width"]) == wanted.shape
            assert tags[stroke["from_name"]].get("toName") == stroke["to_name"] == tags["image"].get("name")
            assert stroke["value"]["brushlabels"] == ["scratch & dent"]
            whole |= decode(stroke["value"]["rle"], (wanted.shape[0], wanted.shape[1]))
        np.testing.assert_array_equal(whole, wanted)
        assert len({one["id"] for one in prediction["result"]}) == len(prediction["result"])


def packed(*fields: str) -> list[int]:
    """Blocks after a header for one pixel, as bytes."""
    stream = "".join([f"{4:032b}", "00111", "0010", "0011", "0111", "1111", *fields])
    stream += "0" * (-len(stream) % 8)
    return [int(stream[place : place + 8], 2) for place in range(0, len(stream), 8)]


# What label-studio-converter 0.0.59 makes of the mask below (mask2rle of 0 and 255).
REFERENCE = [0, 0, 0, 140, 57, 27, 254, 35, 0, 183, 255, 142, 192, 39, 255, 194, 224, 0]


def small() -> Mask:
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 2:5] = mask[3, 6] = mask[4, 0] = True
    return mask


def test_brush_code_is_label_studios() -> None:
    assert encode(small()) == REFERENCE
    np.testing.assert_array_equal(decode(REFERENCE, (5, 7)), small())
    one_by_one = packed("0", "00", "011", f"{0:024b}", f"{255:08b}")  # as rle-pack may write it; we write runs alone
    np.testing.assert_array_equal(decode(one_by_one, (1, 1)), [[True]])


@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_brush_code_round_trip(mask: Mask) -> None:
    np.testing.assert_array_equal(decode(encode(mask), mask.shape), mask)


def test_brush_code_of_long_runs() -> None:
    mask = np.zeros((300, 400), dtype=bool)
    mask[100:299, :] = True
    mask[299, 399] = True
    np.testing.assert_array_equal(decode(encode(mask), (300, 400)), mask)


@pytest.mark.parametrize(
    ("code", "size", "fault"),
    [
        (REFERENCE[:-3], (5, 7), "too early"),
        (REFERENCE, (7, 7), "not those of 7 x 7 pixels"),
        (packed("1", "00", "100", f"{255:08b}"), (1, 1), "longer than the mask"),
        ([], (1, 1), "too early"),
    ],
)
def test_brush_code_that_is_none(code: list[int], size: tuple[int, int], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        decode(code, size)


def test_brush_code_against_label_studios_own_reader() -> None:
    """label-studio-converter's brush.py, where it is installed; its package is not imported, which would need all of it."""
    found = importlib.util.find_spec("label_studio_converter")
    if found is None or not found.submodule_search_locations:
        pytest.skip("label-studio-converter is not installed")
    file = Path(next(iter(found.submodule_search_locations))) / "brush.py"
    spec = importlib.util.spec_from_file_location("label_studio_brush", file)
    assert spec is not None
    assert spec.loader is not None
    brush = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brush)
    for name in ("ring", "line", "nothing"):
        mask = marked(name)
        pixels = brush.decode_rle(encode(mask)).reshape(SIDE, SIDE, 4)
        np.testing.assert_array_equal(pixels, np.repeat(np.where(mask, 255, 0)[..., None], 4, axis=2))
        theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
        np.testing.assert_array_equal(decode(theirs, (SIDE, SIDE)), mask)


def test_cvat_xml(predicted: Path, tmp_path: Path) -> None:
    done = export_labels(predicted, "cvat", tmp_path / "cvat", label="scratch & dent")
    root = ElementTree.parse(done.folder / "annotations.xml").getroot()
    assert root.tag == "annotations"
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/size") == str(len(PHOTOS))
    assert [label.findtext("name") for label in root.findall("meta/task/labels/label")] == ["scratch & dent"]
    assert [label["name"] for label in json.loads((done.folder / "labels.json").read_text("utf-8"))] == [
        "scratch & dent"
    ]
    images = root.findall("image")
    assert [(image.get("id"), image.get("name")) for image in images] == [
        (str(place), name) for place, name in enumerate(sorted(PHOTOS))
    ]
    tags = set()
    for image in images:
        wanted = truth(str(image.get("name")))
        assert (int(image.attrib["height"]), int(image.attrib["width"])) == wanted.shape
        whole = np.zeros(wanted.shape, dtype=bool)
        for shape in image:
            tags.add(shape.tag)
            assert (shape.get("label"), shape.get("source"), shape.get("occluded")) == ("scratch & dent", "auto", "0")
            if shape.tag == "polygon":
                points = [[float(value) for value in pair.split(",")] for pair in shape.attrib["points"].split(";")]
                assert len(points) >= 3
                whole |= filled([points], wanted.shape)
            else:
                left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
                counts = [int(count) for count in shape.attrib["rle"].split(", ")]
                flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
                whole[top : top + height, left : left + width] |= flat.reshape(height, width)
        within_a_pixel(whole, wanted)
    assert tags == {"polygon", "mask"}


def test_masks_and_their_table(predicted: Path, tmp_path: Path) -> None:
    done = export_labels(predicted, "masks", tmp_path / "masks")
    rows = list(csv.DictReader((done.folder / "labels.csv").read_text("utf-8").splitlines()))
    assert [row["photo"] for row in rows] == sorted(PHOTOS)
    for row in rows:
        with Image.open(done.folder / row["mask"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture) == 255, truth(row["photo"]))
        assert int(row["marked_pixels"]) == truth(row["photo"]).sum()
    assert len(list((done.folder / "masks").glob("*.png"))) == len(rows)


@pytest.mark.parametrize("kind", FORMATS)
def test_failed_photos_alone(predicted: Path, tmp_path: Path, kind: str) -> None:
    assert export_labels(predicted, kind, tmp_path / "out", failed=True).photos == len(PHOTOS) - 1


def test_frames_of_a_video_are_named_by_their_pictures(predicted: Path, tmp_path: Path) -> None:
    home = tmp_path / "out"
    (home / "masks").mkdir(parents=True)
    row = json.loads((predicted / "results.jsonl").read_text("utf-8").splitlines()[0])
    (home / "masks" / "0.png").write_bytes((predicted / row["mask"]).read_bytes())
    row |= {"path": "clip.mp4#000003", "frame": "frames/clip.mp4#000003.png", "mask": "masks/0.png"}
    (home / "results.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    done = export_labels(home, "labelstudio")
    assert done.folder == home / "labels-labelstudio"
    assert done.root == home / "frames"
    (task,) = json.loads((done.folder / "tasks.json").read_text("utf-8"))
    assert task["data"]["image"] == labelstudio.LOCAL_FILES + "frames/clip.mp4%23000003.png"


def test_what_cannot_be_exported(predicted: Path, tmp_path: Path, tree: Any) -> None:
    with pytest.raises(UsageError, match="--to voc: is not one of coco, labelstudio, cvat, masks"):
        export_labels(predicted, "voc")
    with pytest.raises(UsageError, match="--label"):
        export_labels(predicted, "coco", label=" ")
    with pytest.raises(DataError, match=r"results\.jsonl: is not there"):
        export_labels(tmp_path / "none", "coco")
    before = tree(predicted)
    with pytest.raises(DataError, match="exists already"):
        export_labels(predicted, "coco", predicted / "masks")
    assert tree(predicted) == before


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"size": [3, 3]}, "has 60 x 50 pixels, its photo 3 x 3"),
        ({"mask": "masks/none.png"}, r"none\.png"),
        ({"mask": "../masks/0.png"}, "lacks something"),
        ({"mask": "/masks/0.png"}, "lacks something"),
        ({"regions": [{"box": [1, 2]}]}, "lacks something"),
        ({"path": None}, "a row without a path"),
        ([], "no row of predict's"),
    ],
)
def test_rows_that_are_not_predicts(predicted: Path, tmp_path: Path, change: Any, fault: str) -> None:
    """Said by name, and nothing half-written stays."""
    home = tmp_path / "out"
    (home / "masks").mkdir(parents=True)
    rows = [json.loads(line) for line in (predicted / "results.jsonl").read_text("utf-8").splitlines()]
    row = next(row for row in rows if row["path"].endswith("nothing.png"))
    (home / row["mask"]).write_bytes((predicted / row["mask"]).read_bytes())
    row = {**row, **change} if change else change
    (home / "results.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for kind in FORMATS:
        with pytest.raises(DataError, match=fault):
            export_labels(home, kind)
    assert sorted(path.name for path in home.iterdir()) == ["masks", "results.jsonl"]


def test_broken_line(predicted: Path, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"path": "a.png"\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1 cannot be read"):
        export_labels(tmp_path, "coco")
    (tmp_path / "results.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="holds no photo"):
        export_labels(tmp_path, "coco")


def test_command(cli: Any, predicted: Path, tmp_path: Path) -> None:
    answer = cli("export-labels", predicted, "--to", "cvat", "-o", tmp_path / "cvat")
    assert answer.code == 0, answer.err
    assert answer.out == f"7 photos, named by their path below /photos/line 3. Labels: {tmp_path / 'cvat'}\n"
    answer = cli("export-labels", predicted, "--to", "masks", "-o", tmp_path / "masks", "--json", "--failed")
    expected = {"folder": str(tmp_path / "masks"), "root": "/photos/line 3", "photos": 6, "lost": 0}
    assert json.loads(answer.out) == expected
    assert cli("export-labels", predicted, "--to", "cvat", "-o", tmp_path / "cvat").code == 3
    assert cli("export-labels", predicted, "--to", "voc").code == 2
