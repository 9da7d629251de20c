"""POST /v1/inspect and GET /v1/products: the predictor's own answers, in the forms asked for."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import PNG, VERSION, Running, Serve, encoded, picture, product_of

from unias.inference.predictor import Model
from unias.serve.answers import map_of, run_lengths

pytestmark = pytest.mark.usefixtures("one_thread")


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_verdicts_are_the_predictors(running: Running, model: Model, photos: list[Path], good: Path) -> None:
    """Alone, with the product given and without, one after the other."""
    seen = set()
    for photo in [good, *photos]:
        for product in (None, product_of(photo)):
            expected = model.predict(photo, product=product)
            found = running.inspect(photo, map="png", **({} if product is None else {"product": product}))
            told = {
                key: found[key] for key in ("verdict", "ok", "product", "product_known", "nearest", "cut", "p_value")
            }
            assert told == {key: expected.to_dict()[key] for key in told}
            assert found["raw_score"] == pytest.approx(expected.raw_score, abs=1e-6)
            assert np.array_equal(picture(found["mask"]["data"]), expected.pred_mask)
            values = picture(found["map"]["data"]) * found["map"]["scale"]
            assert np.abs(values - expected.model_map).max() <= 1e-5 + found["map"]["scale"]
            seen.add(found["verdict"])
    assert seen >= {"ok", "defect"}


def test_photos_that_come_together_are_judged_together(
    serve: Serve, model: Model, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the model is busy with one, nine more come in, some with their product: two batches hold them all."""
    expected = [
        model.predict(photo, product=product_of(photo) if n % 2 else None) for n, photo in enumerate(photos[:9])
    ]
    busy, go_on = threading.Event(), threading.Event()
    real = model.predict_decoded
    sizes = []

    def slow(decoded: Any, products: Any) -> Any:
        busy.set()
        assert go_on.wait(60)
        sizes.append(len(decoded))
        return real(decoded, products)

    with serve(batch=5) as running, ThreadPoolExecutor(10) as threads:
        monkeypatch.setattr(model, "predict_decoded", slow)
        first = threads.submit(running.inspect, photos[0])
        assert busy.wait(60)
        answers = [
            threads.submit(running.inspect, photo, map="png", **({"product": product_of(photo)} if n % 2 else {}))
            for n, photo in enumerate(photos[:9])
        ]
        while len(running.service.batcher) < 9:
            assert not any(answer.done() for answer in answers)
        go_on.set()
        found = [answer.result() for answer in answers]
        first.result()
        assert running.metric("unias_batch_size_count") == 4  # the one when it starts, the first, and two
    assert sizes == [1, 5, 4]
    for one, known in zip(found, expected, strict=True):
        assert (one["verdict"], one["product"]) == (known.verdict, known.product)
        values = picture(one["map"]["data"]) * one["map"]["scale"]
        assert np.abs(values - known.model_map).max() <= 1e-5 + one["map"]["scale"]


def test_answer_is_the_result_and_no_more_of_this_machine(running: Running, defective: Path, model: Model) -> None:
    answer = running.client.post(
        "/v1/inspect", content=defective.read_bytes(), headers=PNG, params={"product": product_of(defective)}
    )
    found = json.loads(answer.text, parse_constant=reject)
    expected = model.predict(defective, product=product_of(defective)).to_dict()
    assert set(found) == set(expected) - {"path"} | {"id", "model", "mask", "map"}
    assert found["model"] == {"name": "tiny", "version": VERSION}
    assert found["regions"]
    assert found["map"] is None
    assert set(found["timings"]) == {"decode", "model", "verdict"}
    assert str(defective.parent) not in answer.text


def test_four_forms_of_the_mask(running: Running, model: Model, defective: Path) -> None:
    product = product_of(defective)
    expected = model.predict(defective, product=product).pred_mask
    size = list(expected.shape)
    assert expected.any()
    by_form = {
        form: running.inspect(defective, product=product, mask=form) for form in ("png", "rle", "polygon", "none")
    }
    assert by_form["none"]["mask"] is None
    assert np.array_equal(picture(by_form["png"]["mask"]["data"]), expected)
    rle = by_form["rle"]["mask"]
    assert (rle["format"], rle["size"]) == ("rle", size)
    values = np.repeat(np.arange(len(rle["counts"])) % 2 == 1, rle["counts"])
    assert np.array_equal(values.reshape(size, order="F"), expected)
    polygons = by_form["polygon"]["mask"]["polygons"]
    assert polygons == [region["contour"] for region in by_form["polygon"]["regions"]]
    assert polygons
    assert all(0 <= x <= size[1] and 0 <= y <= size[0] for line in polygons for x, y in line)


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[1, 0], [0, 0]], [0, 1, 3]),
        ([[0, 1], [1, 1]], [1, 3]),
        ([[0, 1, 0], [1, 0, 0]], [1, 2, 3]),
    ],
)
def test_run_lengths_go_down_the_columns(rows: list[list[int]], counts: list[int]) -> None:
    assert run_lengths(np.array(rows, dtype=bool)) == counts


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_run_lengths_are_cocos() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((37, 21)) < 0.3
    packed = masks.frPyObjects({"size": [37, 21], "counts": run_lengths(mask)}, 37, 21)
    assert np.array_equal(masks.decode(packed), mask)


def test_map_keeps_its_values() -> None:
    values = np.random.default_rng(0).gamma(1, 3, (16, 16)).astype(np.float32)
    sent = map_of(values)
    assert picture(sent["data"]).dtype == np.uint16
    assert np.abs(picture(sent["data"]) * sent["scale"] - values).max() <= values.max() / 131070 * 1.01
    assert not picture(map_of(np.zeros((4, 4), dtype=np.float32))["data"]).any()


def test_multipart_and_bytes_give_the_same(running: Running, photos: list[Path]) -> None:
    data = photos[0].read_bytes()
    raw = running.inspect(data)
    form = running.client.post("/v1/inspect", files={"image": ("../../x.exe", data, "text/html")}).json()
    other = running.client.post(
        "/v1/inspect", content=data, headers={"Content-Type": "application/octet-stream"}
    ).json()
    for one in (form, other):
        assert {key: one[key] for key in ("verdict", "raw_score", "mask")} == {
            key: raw[key] for key in ("verdict", "raw_score", "mask")
        }


def test_format_is_told_by_content(running: Running) -> None:
    pixels = np.full((64, 48, 3), 90, dtype=np.uint8)
    for kind in ("PNG", "JPEG", "BMP", "TIFF"):
        assert running.inspect(encoded(pixels, kind))["size"] == [64, 48]  # all of them said to be PNG


def test_photos_are_answered_at_their_own_size_and_upright(running: Running, defective: Path) -> None:
    from PIL import Image

    turned = Image.Exif()
    turned[274] = 6
    pixels = np.asarray(Image.open(defective).convert("RGB").resize((300, 200)))
    found = running.inspect(encoded(pixels, "JPEG", exif=turned.tobytes()), product=product_of(defective))
    assert found["size"] == found["mask"]["size"] == [300, 200]


def test_caller_may_number_requests(running: Running, good: Path) -> None:
    def ask(**headers: str) -> Any:
        return running.client.post("/v1/inspect", content=good.read_bytes(), headers=PNG | headers)

    mine = ask(**{"X-Request-Id": "line-3.0042"})
    assert mine.json()["id"] == mine.headers["X-Request-Id"] == "line-3.0042"
    strange = ask(**{"X-Request-Id": "a" * 65}).json()["id"]
    assert len(strange) == 32
    assert strange != ask().json()["id"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"mask": "jpg"}, "mask"),
        ({"map": "rle"}, "map"),
        ({"prodcut": "x"}, "prodcut"),
        ({"product": "no such one"}, "no such one"),
    ],
)
def test_wishes_that_are_none_are_errors(running: Running, good: Path, query: dict[str, str], named: str) -> None:
    answer = running.client.post("/v1/inspect", content=good.read_bytes(), headers=PNG, params=query)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "hint"}
    assert named in answer.json()["error"]


def test_products_and_their_promises(running: Running, model: Model) -> None:
    found = running.client.get("/v1/products").json()
    assert found["model"] == {"name": "tiny", "version": VERSION}
    assert [one["name"] for one in found["products"]] == [one.name for one in model.products]
    for one, known in zip(found["products"], model.products, strict=True):
        assert one["cut"] == known.cut.value
        assert one["promise"]["false_alarm_rate"] == known.cut.promise.rate
        assert one["promise"]["text"] == known.cut.describe()
        assert (one["training_photos"], one["held_out_photos"]) == (len(known.train), len(known.held_out))
        assert one["drift"]["drifted"] is False


def test_answers_are_shaped_as_described(running: Running, defective: Path, good: Path) -> None:
    """What /openapi.json says of them is true."""
    from unias.serve.schema import Inspection, Products

    for photo in (defective, good):
        for mask in ("png", "rle", "polygon", "none"):
            Inspection.model_validate(running.inspect(photo, product=product_of(photo), mask=mask, map="png"))
    Products.model_validate(running.client.get("/v1/products").json())
    for shape, answer in ((Inspection, running.inspect(good)), (Products, running.client.get("/v1/products").json())):
        assert set(answer) == set(shape.model_fields)
