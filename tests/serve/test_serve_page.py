"""/docs and /openapi.json: all that the page needs comes from this server."""

from __future__ import annotations

import re
from typing import Any

from serving import Running, Serve

PATHS = ("/v1/inspect", "/v1/products", "/healthz", "/readyz", "/metrics", "/v2", "/v2/models/{model}/infer")


def test_page_loads_nothing_from_elsewhere(running: Running) -> None:
    page = running.client.get("/docs").text
    loaded = re.findall(r'(?:src|href|url)\s*[=:]\s*["\']([^"\']+)', page)
    assert {"/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/openapi.json"} <= set(loaded)
    assert all(target.startswith("/") for target in loaded)
    assert "http" not in page.replace("http-equiv", "")
    for target in loaded:
        answer = running.client.get(target)
        assert answer.status_code == 200
        assert answer.content


def test_style_and_script_bring_their_own_pictures(running: Running) -> None:
    style = running.client.get("/docs/assets/swagger-ui.css").text
    assert all(target.strip("\"'").startswith("data:") for target in re.findall(r"url\(([^)]{1,40})", style))
    assert "@import" not in style


def test_description_names_every_path_and_answer(running: Running) -> None:
    document = running.client.get("/openapi.json").json()
    assert set(PATHS) <= set(document["paths"])
    inspect = document["paths"]["/v1/inspect"]["post"]
    assert {one["name"] for one in inspect["parameters"]} == {"product", "mask", "map"}
    assert set(inspect["requestBody"]["content"]) >= {"multipart/form-data", "image/png", "image/jpeg"}
    assert {"200", "400", "413", "415", "422", "429", "503", "504"} <= set(inspect["responses"])
    for reference in _references(document):
        name = reference.removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"], reference
    assert "securitySchemes" not in document["components"]


def test_page_has_a_field_for_the_token(serve: Serve) -> None:
    with serve(token="a-token-of-32-characters-or-more") as running:
        schemes = running.client.get("/openapi.json").json()["components"]["securitySchemes"]
        assert schemes == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [one for item in value.values() for one in _references(item)]
    return [one for item in value for one in _references(item)] if isinstance(value, list) else []
