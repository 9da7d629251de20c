"""The Open Inference Protocol: its paths, its tensors, its errors."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import VERSION, Running, Serve, picture, product_of

from unias.inference.predictor import Model

pytestmark = pytest.mark.usefixtures("one_thread")
INFER = "/v2/models/tiny/infer"


def tensor(name: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": shape or [len(data)], "data": data}


def text(photo: Path) -> str:
    return base64.b64encode(photo.read_bytes()).decode()


def test_server_and_model_describe_themselves(running: Running, model: Model) -> None:
    server = running.client.get("/v2").json()
    assert server["name"] == "unias"
    assert server["extensions"] == []
    about = running.client.get("/v2/models/tiny").json()
    assert (about["name"], about["versions"], about["platform"]) == ("tiny", [VERSION], "unias")
    assert about["inputs"][0] == {"name": "image", "datatype": "BYTES", "shape": [-1]}
    size = model.config.size
    assert {"name": "anomaly_map", "datatype": "FP32", "shape": [-1, size, size]} in about["outputs"]
    for path in (
        f"/v2/models/tiny/versions/{VERSION}",
        "/v2/models/tiny/ready",
        f"/v2/models/tiny/versions/{VERSION}/ready",
    ):
        assert running.client.get(path).status_code == 200
    for path in ("/v2/models/other", "/v2/models/tiny/versions/1", "/v2/models/other/ready"):
        assert running.client.get(path).status_code == 404
    assert running.client.get("/v2/health/live").json() == {"live": True}
    assert running.client.get("/v2/health/ready").json() == {"ready": True}


def test_all_outputs_of_several_photos(running: Running, model: Model, photos: list[Path], good: Path) -> None:
    chosen = [good, *photos[:3]]
    products = ["", product_of(photos[0]), "", product_of(photos[2])]
    body = {"id": "42", "inputs": [tensor("image", [text(photo) for photo in chosen]), tensor("product", products)]}
    answer = running.client.post(INFER, json=body).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", VERSION, "42")
    told = {one["name"]: one for one in answer["outputs"]}
    described = running.client.get("/v2/models/tiny").json()["outputs"]
    assert [one["name"] for one in described] == list(told)
    for one in described:
        assert told[one["name"]]["datatype"] == one["datatype"]
        assert told[one["name"]]["shape"] == [4, *one["shape"][1:]]
    size = model.config.size
    maps = np.array(told["anomaly_map"]["data"], dtype=np.float32).reshape(4, size, size)
    for place, (photo, product) in enumerate(zip(chosen, products, strict=True)):
        expected = model.predict(photo, product=product or None)
        assert told["verdict"]["data"][place] == expected.verdict
        assert told["ok"]["data"][place] is expected.ok
        assert told["product"]["data"][place] == (expected.product or "")
        assert told["pred_score"]["data"][place] == pytest.approx(expected.pred_score, abs=1e-6)
        assert told["p_value"]["data"][place] == (-1 if expected.p_value is None else expected.p_value)
        assert told["cut"]["data"][place] == expected.cut
        assert np.array_equal(picture(told["mask"]["data"][place]), expected.pred_mask)
        assert np.abs(maps[place] - expected.model_map).max() <= 1e-5


def test_only_outputs_asked_for(running: Running, good: Path) -> None:
    body = {"inputs": [tensor("image", [[text(good)]], [1, 1])], "outputs": [{"name": "ok"}, {"name": "verdict"}]}
    for path in (INFER, f"/v2/models/tiny/versions/{VERSION}/infer"):
        answer = running.client.post(path, json=body).json()
        assert answer["outputs"] == [
            {"name": "ok", "datatype": "BOOL", "shape": [1], "data": [True]},
            {"name": "verdict", "datatype": "BYTES", "shape": [1], "data": ["ok"]},
        ]
        assert "id" not in answer


BAD: list[tuple[Any, str]] = [
    ({}, "inputs"),
    ([], "object"),
    ({"inputs": []}, "image"),
    ({"inputs": [tensor("picture", ["aa"])]}, "image"),
    ({"inputs": [tensor("image", ["aaaa"]), tensor("image", ["aaaa"])]}, "image"),
    ({"inputs": [tensor("image", ["not base64"])]}, "base64"),
    ({"inputs": [tensor("image", ["ümläut"])]}, "base64"),
    ({"inputs": [tensor("image", [""])]}, "bytes"),
    ({"inputs": [tensor("image", [], [0])]}, "0 photos"),
    ({"inputs": [tensor("image", ["aaaa"] * 9)]}, "9 photos"),
    ({"inputs": [tensor("image", ["aaaa"], [2])]}, "shape"),
    ({"inputs": [tensor("image", ["aaaa"], [-1])]}, "shape"),
    ({"inputs": [tensor("image", ["aaaa"]) | {"datatype": "FP32"}]}, "BYTES"),
    ({"inputs": [tensor("image", [1, 2])]}, "inputs"),
    ({"inputs": [tensor("image", ["aaaa"]), tensor("product", ["a", "b"])]}, "products"),
    ({"inputs": [tensor("image", ["aaaa"])], "outputs": [{"name": "colour"}]}, "colour"),
]


@pytest.mark.parametrize(("body", "named"), BAD)
def test_bodies_that_are_none(running: Running, body: Any, named: str) -> None:
    answer = running.client.post(INFER, json=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "hint"}
    assert named in answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"null",
        b"[" * 5000,
        b'{"inputs":' * 2000,
        b"[" + b"[]," * 20_000 + b"[]]",
        b'{"inputs": 1e999999}',
        b'{"id": ' + b"9" * 50_000 + b"}",
        b'{"inputs": [NaN]}',
        b'{"a": 1, "a": 2}',
    ],
)
def test_bodies_that_are_no_json_for_it(running: Running, content: bytes) -> None:
    assert running.client.post(INFER, content=content).status_code == 400


def test_photos_that_are_none_are_named_by_their_place(running: Running, good: Path) -> None:
    cut = base64.b64encode(good.read_bytes()[:200]).decode()
    answer = running.client.post(INFER, json={"inputs": [tensor("image", [text(good), cut])]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("image[1]: ")
    page = base64.b64encode(b"<html>").decode()
    assert running.client.post(INFER, json={"inputs": [tensor("image", [page])]}).status_code == 415
    strange = {"inputs": [tensor("image", [text(good)]), tensor("product", ["none of them"])]}
    assert running.client.post(INFER, json=strange).status_code == 422
    assert running.client.post("/v2/models/other/infer", json={}).status_code == 404
    gate = running.service.gate
    assert (gate.photos, gate.held, gate.coming) == (0, 0, 0)


def test_photos_of_one_request_have_places_too(serve: Serve, good: Path) -> None:
    body = {"inputs": [tensor("image", [text(good)] * 3)], "outputs": [{"name": "ok"}]}
    with serve(queue=2) as running:
        answer = running.client.post(INFER, json=body)  # never has room for them: no "try again"
        assert (answer.status_code, "1 to 2 in a request" in answer.json()["error"]) == (400, True)
    with serve(queue=3) as running:
        assert running.client.post(INFER, json=body).json()["outputs"][0]["data"] == [True] * 3
        assert running.service.gate.photos == 0


def test_large_bodies_are_refused(serve: Serve) -> None:
    with serve(max_bytes=30_000, held_bytes=60_000) as running:
        body = {"inputs": [tensor("image", ["a" * 200_000])]}
        assert running.client.post(INFER, content=json.dumps(body)).status_code == 413
        body = {"inputs": [tensor("image", ["aaaa" * 12_000])]}  # 36,000 bytes unpacked
        answer = running.client.post(INFER, content=json.dumps(body))
        assert answer.status_code == 400
        assert "30000" in answer.json()["error"]
