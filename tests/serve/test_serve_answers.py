"""The server's answers: the verdicts of ``Model.predict``, and one clear refusal for everything else."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encoded, product_of  # type: ignore[import-not-found]
from PIL import Image


@pytest.mark.parametrize("form", ["raw", "multipart"])
def test_the_verdict_is_the_one_of_predict(running: Any, model: Any, photos: list[Path], form: str) -> None:
    for photo in photos[::3]:
        product = product_of(photo)
        expected = model.predict(photo, product=product)
        wishes = {"product": product, "mask": "png"}
        if form == "raw":
            words = {"content": photo.read_bytes(), "headers": {"content-type": "image/png"}}
        else:
            words = {"files": {"image": (photo.name, photo.read_bytes(), "image/png")}}
        answer = running.client.post("/v1/inspect", params=wishes, **words)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["ok"], found["product"], found["verdict"]) == (expected.ok, product, expected.verdict)
        assert found["raw_score"] == pytest.approx(expected.raw_score, rel=1e-5)
        assert found["p_value"] == expected.p_value
        assert len(found["regions"]) == len(expected.regions)


def test_products_health_metrics_and_docs(running: Any, model: Any, photos: list[Path]) -> None:
    listed = running.client.get("/v1/products").json()
    assert [one["name"] for one in listed["products"]] == [one.name for one in model.products]
    assert running.client.get("/healthz").status_code == 200
    assert running.client.get("/readyz").status_code == 200
    running.client.post("/v1/inspect", content=photos[0].read_bytes(), headers={"content-type": "image/png"})
    assert "unias" in running.client.get("/metrics").text
    page = running.client.get("/docs").text
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")  # nothing from outside
    assert running.client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"GIF89a" + bytes(100), 415),
        (b"no picture at all", 415),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), 422),
    ],
)
def test_what_is_no_photo_is_refused(running: Any, content: bytes, status: int) -> None:
    answer = running.client.post("/v1/inspect", content=content, headers={"content-type": "image/png"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_cut_short_and_unknown_product(running: Any, photos: list[Path]) -> None:
    data = photos[0].read_bytes()
    short = running.client.post("/v1/inspect", content=data[: len(data) // 2], headers={"content-type": "image/png"})
    assert short.status_code == 422
    unknown = running.client.post("/v1/inspect", params={"product": "nobody"}, content=data)
    assert unknown.status_code == 422
    assert "nobody" in unknown.text


def test_too_many_pixels_are_refused_before_they_are_decoded(serve: Any) -> None:
    with serve(max_pixels=64 * 64) as started:
        large = encoded(np.zeros((128, 128), dtype=np.uint8))
        answer = started.client.post("/v1/inspect", content=large, headers={"content-type": "image/png"})
        assert answer.status_code == 413


def test_a_token_is_asked_for(serve: Any, photos: list[Path]) -> None:
    with serve(token="a long enough secret for anybody") as started:
        assert started.client.get("/v1/products").status_code == 401
        wrong = {"Authorization": "Bearer another secret that is as long"}
        assert started.client.get("/v1/products", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer a long enough secret for anybody"}
        assert started.client.get("/v1/products", headers=right).status_code == 200


def test_open_inference_protocol(running: Any, model: Any, photos: list[Path]) -> None:
    assert running.client.get("/v2/health/ready").status_code == 200
    assert running.client.get("/v2/models/tiny").json()["name"] == "tiny"
    photo = photos[0]
    request = {
        "inputs": [
            {
                "name": "image",
                "shape": [1],
                "datatype": "BYTES",
                "data": [base64.b64encode(photo.read_bytes()).decode()],
            }
        ]
    }
    answer = running.client.post("/v2/models/tiny/infer", json=request)
    assert answer.status_code == 200, answer.text
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    expected = model.predict(photo)
    score = next(value for name, value in outputs.items() if "raw_score" in name)
    assert score[0] == pytest.approx(expected.raw_score, rel=1e-5)


def test_masks_come_in_the_photos_own_size(running: Any, model: Any, defective: Path) -> None:
    wishes = {"product": product_of(defective), "mask": "png"}
    kind = {"content-type": "image/png"}
    answer = running.client.post("/v1/inspect", params=wishes, content=defective.read_bytes(), headers=kind)
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["mask"]["data"]))) as picture:
        drawn = np.asarray(picture) > 0
    assert np.array_equal(drawn, model.predict(defective, product=product_of(defective)).pred_mask)
