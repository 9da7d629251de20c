"""The studio's answers: photos, cuts, inspection, reviews, downloads."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio_running import MODEL, Open, Running

import unias
from unias.calibration.ranks import promise_at
from unias.studio.workspace import Workspace

PRODUCT = "Dichtung groß"


def test_state_and_what_was_understood(running: Running) -> None:
    state = running.get("/state")
    assert state["products"] == ["Dichtung groß", "plaque gravée"]
    assert state["chosen_model"] == MODEL
    assert state["models"][0]["products"] == state["products"]
    understood = running.get("/photos")
    row = understood["products"][0]
    assert (row["good"], row["test_good"], row["defects"]) == (8, 3, {"scratch": 1, "hole": 2})
    assert row["sizes"] == [[96, 96, 14]]
    assert any("10 at the least" in line for line in row["warnings"])
    assert understood["unreadable"] == []


def test_dropped_moved_and_removed_photos(running: Running, tiny_data: Path) -> None:
    photo = next(tiny_data.glob("*/test/hole/*.png")).read_bytes()
    taken = running.upload({"bolt/1.png": photo, "bolt/2.png": photo[:99], "Thumbs.db": b"x"}, kind="hole")
    assert (taken["taken"], taken["skipped"], [row["name"] for row in taken["refused"]]) == (1, 1, ["bolt/2.png"])
    (row,) = running.get("/photos/list", product="bolt", kind="hole")
    assert (row["id"], row["width"], row["height"]) == ("photos/bolt/test/hole/1.png", 96, 96)
    moved = running.post("/photos/move", {"ids": [row["id"]], "product": "bolt", "kind": "good"})
    assert moved["ids"] == ["photos/bolt/train/good/1.png"]
    assert running.post("/photos/remove", moved) == {"removed": 1}
    assert running.get("/photos/list", product="bolt") == []
    kept = list((running.studio.workspace / "removed").rglob("*.png"))
    assert [path.read_bytes() for path in kept] == [photo]


def test_masks_go_where_their_photos_go(running: Running) -> None:
    number = f"photos/{PRODUCT}/test/scratch/000.png"
    (moved,) = running.post("/photos/move", {"ids": [number], "product": PRODUCT, "kind": "dent"})["ids"]
    root = running.studio.workspace.root
    assert moved == f"photos/{PRODUCT}/test/dent/000.png"
    assert (root / f"photos/{PRODUCT}/ground_truth/dent/000_mask.png").is_file()
    assert not (root / f"photos/{PRODUCT}/ground_truth/scratch/000_mask.png").exists()


def test_photos_and_thumbs(running: Running, tmp_path: Path) -> None:
    number = f"photos/{PRODUCT}/train/good/000.png"
    answer = running.client.get("/studio/api/photo", params={"id": number})
    own = np.asarray(Image.open(running.studio.workspace.root / number))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), own)
    thumb = running.client.get("/studio/api/thumb", params={"id": number, "side": 48})
    assert Image.open(io.BytesIO(thumb.content)).size == (48, 48)
    tiff = io.BytesIO()
    Image.fromarray(own).save(tiff, "TIFF")
    (new,) = running.upload({"a.tif": tiff.getvalue()}, kind="new")["ids"]
    shown = running.client.get("/studio/api/photo", params={"id": new})
    assert shown.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.content))), own)


@pytest.mark.parametrize(
    "number",
    [
        "../x.png",
        "/etc/passwd",
        "photos/../models/tiny/manifest.json",
        "models/tiny/card.md",
        "photos/out.png",
        "photos",
        "",
    ],
)
def test_nothing_outside_is_shown(running: Running, tmp_path: Path, number: str) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.png")
    (running.studio.workspace / "photos" / "out.png").symlink_to(tmp_path / "secret.png")
    for path in ("/photo", "/thumb", f"/models/{MODEL}/inspect"):
        answer = running.client.get(f"/studio/api{path}", params={"id": number})
        assert answer.status_code == 404, (path, answer.text)
        assert set(answer.json()) == {"error", "hint"}
    assert running.client.post("/studio/api/photos/remove", json={"ids": [number]}).status_code == 404


def test_scores_let_the_page_move_the_line(judged: Running, model: unias.Model) -> None:
    info = next(info for info in model.products if info.name == PRODUCT)
    found = judged.get(f"/models/{MODEL}/scores", product=PRODUCT)
    assert found["good"] == sorted(info.held_out_scores)
    count = len(found["good"])
    assert found["bounds"] == [promise_at(k, count, 0.5).bound for k in range(1, count + 1)]
    assert found["cut"] == found["good"][count - found["k"]]
    assert found["judged"] is True
    assert (len(found["test_good"]), len(found["defect"])) == (3, 3)
    photo = judged.studio.workspace.root / found["defect"][0]["id"]
    assert found["defect"][0]["score"] == pytest.approx(model.predict(photo, product=PRODUCT).raw_score, rel=1e-4)


def test_the_cut_moves_to_a_rank_and_stays(judged: Running) -> None:
    path = f"/models/{MODEL}"
    before = judged.get(f"{path}/scores", product=PRODUCT)
    moved = judged.post(f"{path}/cut", {"product": PRODUCT, "k": 2})
    assert moved["before"]["cut"] == before["cut"]
    assert moved["after"]["k"] == 2
    assert moved["after"]["cut"] == before["good"][-2]
    assert judged.get(f"{path}/scores", product=PRODUCT)["cut"] == before["good"][-2]
    read_again = unias.load(judged.studio.workspace / "models" / MODEL, device="cpu")
    cuts = {info.name: info.cut.value for info in read_again.products}
    assert cuts[PRODUCT] == before["good"][-2]
    rows = judged.get(f"{path}/list", product=PRODUCT)
    assert rows, "what was judged before is still known"
    assert all(row["ok"] is (row["score"] <= before["good"][-2]) for row in rows)
    refused = judged.client.post(f"/studio/api{path}/cut", json={"product": PRODUCT, "k": 99})
    assert refused.status_code == 422


def test_inspection_is_the_models_answer(running: Running, model: unias.Model) -> None:
    number = f"photos/{PRODUCT}/test/hole/001.png"
    found = running.get(f"/models/{MODEL}/inspect", id=number)
    own = model.predict(running.studio.workspace.root / number, product=PRODUCT, levels=True)
    assert (found["ok"], found["product"]) == (own.ok, PRODUCT)
    assert found["raw_score"] == pytest.approx(own.raw_score, rel=1e-5)
    assert (found["width"], found["height"], found["levels"]) == (96, 96, ["4", "3", "2", "1"])
    assert len(found["regions"]) == len(own.regions)
    for layer in ("map", "mask", "1"):
        answer = running.client.get(f"/studio/api/models/{MODEL}/layer.png", params={"id": number, "layer": layer})
        picture = Image.open(io.BytesIO(answer.content))
        assert (picture.size, picture.mode) == ((96, 96), "RGBA")
        if layer == "mask":
            assert np.array_equal(np.asarray(picture)[..., 3] > 0, own.pred_mask)
    none = running.client.get(f"/studio/api/models/{MODEL}/layer.png", params={"id": number, "layer": "9"})
    assert none.status_code == 404


def test_reviews_are_kept_taken_back_and_move_the_cut(judged: Running) -> None:
    path = f"/models/{MODEL}"
    rows = judged.get(f"{path}/review", product=PRODUCT)
    away = [abs(row["pred_score"] - 0.5) for row in rows]
    assert len(rows) == 6
    assert away == sorted(away)
    assert {row["label"] for row in rows} == {None}
    nothing = judged.client.post(f"/studio/api{path}/recalibrate", json={})
    assert nothing.status_code == 422
    good = [row for row in rows if row["kind"] == "good"]
    for row in good:
        judged.post(f"{path}/review", {"id": row["id"], "label": "good"})
    judged.post(f"{path}/review", {"id": good[0]["id"], "label": None})
    labels = {row["id"]: row["label"] for row in judged.get(f"{path}/review", product=PRODUCT)}
    assert [labels[row["id"]] for row in good] == [None, "good", "good"]
    before = judged.get(f"{path}/scores", product=PRODUCT)
    moved = judged.post(f"{path}/recalibrate", {"product": PRODUCT})
    (price,) = moved["products"]
    assert price["before"]["cut"] == before["cut"]
    after = judged.get(f"{path}/scores", product=PRODUCT)
    assert len(after["good"]) == len(before["good"]) + 2
    assert price["after"]["cut"] == after["cut"]
    again = judged.post(f"{path}/recalibrate", {"product": PRODUCT})
    assert {**judged.get(f"{path}/scores", product=PRODUCT)} == after, "the same photos count once"
    assert again["products"][0]["before"]["cut"] == again["products"][0]["after"]["cut"]


def test_a_wrong_verdict_leaves_nothing_behind(judged: Running) -> None:
    """A defect called good may become the cut; taken back or put right, and calibrated again, it is as if it had never been."""
    path = f"/models/{MODEL}"
    first = judged.get(f"{path}/scores", product=PRODUCT)
    defects = [row for row in judged.get(f"{path}/review", product=PRODUCT) if row["kind"] != "good"]
    for row in defects:
        judged.post(f"{path}/review", {"id": row["id"], "label": "good"})
    judged.post(f"{path}/recalibrate", {"product": PRODUCT})
    wrong = judged.get(f"{path}/scores", product=PRODUCT)
    assert len(wrong["good"]) == len(first["good"]) + len(defects)
    assert set(wrong["good"]) > set(first["good"])
    assert wrong["cut"] == wrong["good"][-wrong["k"]]
    judged.post(f"{path}/review", {"id": defects[0]["id"], "label": "defect"})
    for row in defects[1:]:
        judged.post(f"{path}/review", {"id": row["id"], "label": None})
    judged.post(f"{path}/recalibrate", {"product": PRODUCT})
    right = judged.get(f"{path}/scores", product=PRODUCT)
    assert right["good"] == first["good"]
    assert right["missed"] == [pytest.approx(defects[0]["score"], rel=1e-5)]
    judged.post(f"{path}/review", {"id": defects[0]["id"], "label": None})
    judged.post(f"{path}/recalibrate")  # of all products
    assert judged.get(f"{path}/scores", product=PRODUCT) == first
    assert judged.client.post(f"/studio/api{path}/recalibrate", json={}).status_code == 422


def test_a_cut_is_kept_below_reviewed_defects(judged: Running) -> None:
    """And the answer says so: the rank that it came to is not the one asked for."""
    path, shelf = f"/models/{MODEL}", judged.studio.shelf
    info = dataclasses.replace(
        shelf.info(MODEL, PRODUCT),
        held_out=tuple(f"added/{number}" for number in range(20)),
        held_out_scores=tuple((number + 1) / 100 for number in range(20)),
        missed_scores=(0.185,),
    )
    shelf.rewritten(MODEL, [info if one.name == PRODUCT else one for one in shelf.products(MODEL)])
    answer = judged.post(f"{path}/cut", {"product": PRODUCT, "k": 1})
    assert (answer["after"]["k"], answer["after"]["cut"]) == (3, 0.18)
    assert judged.get(f"{path}/scores", product=PRODUCT)["k"] == 3
    assert judged.post(f"{path}/cut", {"product": PRODUCT, "k": 5})["after"]["k"] == 5


def test_photos_that_are_still_there(running: Running) -> None:
    here = f"photos/{PRODUCT}/train/good/000.png"
    gone = f"photos/{PRODUCT}/train/good/999.png"
    assert running.post("/photos/present", {"ids": [gone, here, "../x.png"]}) == {"ids": [here]}


def test_a_photo_that_changed_is_not_reviewed(judged: Running) -> None:
    number = judged.get(f"/models/{MODEL}/review", product=PRODUCT)[0]["id"]
    judged.post(f"/models/{MODEL}/review", {"id": number, "label": "defect"})
    assert judged.studio.reviews.labels() == {number: "defect"}
    Image.new("RGB", (50, 50)).save(judged.studio.workspace.root / number)
    assert judged.studio.reviews.labels() == {}


def test_downloads(
    running: Running, tree: Callable[[Path], dict[str, str]], model_folder: Path, tmp_path: Path
) -> None:
    answer = running.client.get(f"/studio/api/models/{MODEL}/download")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path / "out")
    assert tree(tmp_path / "out" / MODEL) == tree(model_folder)
    assert list(running.studio.workspace.root.glob(".download*")) == []
    assert running.client.get("/studio/api/models/none/download").status_code == 404
    assert running.client.get("/studio/api/jobs/tiny/download").status_code == 404
    assert running.get("/exports") == []


def test_only_one_studio_in_a_folder(home: Path) -> None:
    import os

    from unias.errors import UsageError
    from unias.studio.processes import Process

    workspace = Workspace(home)
    lock = home / ".studio.json"
    lock.write_text(json.dumps(Process.of(os.getppid()).to_dict()), encoding="utf-8")
    with pytest.raises(UsageError, match="another studio"), workspace.claimed():
        pass
    lock.write_text(json.dumps({"pid": os.getppid(), "started": "long ago"}), encoding="utf-8")
    with workspace.claimed():
        assert lock.is_file()
    assert not lock.exists()


def test_with_a_token(open_studio: Open, home: Path) -> None:
    token = "a-secret-of-some-length"
    api = "/studio/api/state"
    with open_studio(home, token=token, still=True) as running:
        client = running.client
        assert client.get(api).status_code == 401
        assert client.get("/studio/api/login").json() == {"needed": True}
        assert client.post("/studio/api/login", json={"token": "wrong"}).status_code == 401
        assert client.post("/studio/api/login", json={"token": "x" * 5000}).status_code == 413
        many = client.post("/studio/api/login", content=(b"x" * 1000 for _ in range(9)))  # no length said
        assert many.status_code == 413
        assert client.get(api).status_code == 401
        assert client.get(api, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        signed_in = client.post("/studio/api/login", json={"token": token})
        cookie = signed_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert token not in cookie
        assert client.get(api).status_code == 200
        assert client.get(api, headers={"Origin": "http://elsewhere.example"}).status_code == 403


def test_without_a_token_only_this_machine_asks(running: Running) -> None:
    api = "/studio/api/state"
    assert running.client.get(api, headers={"Host": "factory.example"}).status_code == 403
    assert running.client.get(api, headers={"Origin": "http://elsewhere.example"}).status_code == 403
    own = running.client.base_url.netloc.decode()
    assert running.client.get(api, headers={"Origin": f"http://{own}", "Host": own}).status_code == 200
    # Another program's page on this machine, and pictures and links of any page, which carry no Origin.
    for origin in ("http://127.0.0.1:8123", "http://localhost", "null", "http://["):
        assert running.client.get(api, headers={"Origin": origin, "Host": own}).status_code == 403, origin
    for site in ("cross-site", "same-site"):
        assert running.client.get(api, headers={"Sec-Fetch-Site": site}).status_code == 403
        assert running.client.get("/", headers={"Sec-Fetch-Site": site}).status_code != 403  # a link to the page itself
    for site in ("same-origin", "none"):
        assert running.client.get(api, headers={"Sec-Fetch-Site": site}).status_code == 200


def test_every_answer_says_what_a_page_may_load(running: Running) -> None:
    for path in ("/studio/api/state", "/", "/nothing"):
        policy = running.client.get(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
