"""docs/serve.md: its commands run against real servers of the tiny model, and its tables are those of the code."""

from __future__ import annotations

import ast
import base64
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import typer
import yaml
from serving import Running, product_of
from serving_process import serving

from unias.cli import app
from unias.serve import refusals

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
HERE = "127.0.0.1:8000"  # as the page says; the test's servers take any free port
SERVE = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


def rows(head: str) -> list[list[str]]:
    """The cells of the table that begins so."""
    (table,) = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[ |:-]+\|\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_commands_are_of_a_known_kind_and_the_extra_exists() -> None:
    kinds = ("curl ", "unias serve ", "pip install ", "openssl rand ", "printf ")
    assert all(line.startswith(kinds) for line in commands())
    (extra,) = {name for line in commands() for name in re.findall(r"unias\[(\w+)\]", line)}
    assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_path_is_asked(running: Running) -> None:
    """Of the server's description; what is named by a word in braces is asked for by the model's name."""
    asked = {re.sub(r"\?.*", "", path).replace("/models/model", "/models/{model}") for path in paths()}
    assert set(running.client.get("/openapi.json").json()["paths"]) == asked


def paths() -> list[str]:
    return [found for line in commands() for found in re.findall(rf"http://{re.escape(HERE)}(/[^\s\"]*)", line)]


def test_options_and_defaults_are_those_of_the_command() -> None:
    options = {name: one.default for one in SERVE.params for name in one.opts}
    for option, default, *_ in rows("option"):
        assert float(options[option.strip("`")]) == float(default), option
    for option in re.findall(r"`(--[a-z-]+)", TEXT):
        assert option in options or option == "--help", option


def refused_in_the_code() -> dict[str, set[str]]:
    """{reason: statuses} of every ``Refusal(status, reason, ...)`` below unias.serve, and those that handlers note by hand."""
    found: dict[str, set[str]] = {}
    for file in Path(inspect.getfile(refusals)).parent.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        found |= {reason: set() for reason in re.findall(r'\.refused = "(\w+)"', text)}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                status, reason = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(reason, ast.Constant):
                    found.setdefault(str(reason.value), set()).add(str(status.value))
    return found


def test_every_refusal_is_described() -> None:
    described: dict[str, set[str]] = {}
    for status, reasons, _ in rows("status"):
        for reason in re.findall(r"`(\w+)`", reasons):
            described.setdefault(reason, set()).add(status)
    # "http" and "parameters" are the framework's own, see below; who hung up reads no answer
    in_code = refused_in_the_code() | {"http": {"400", "404", "405"}, "parameters": {"422"}}
    assert in_code.pop("disconnected") == set()
    assert "`disconnected`" in TEXT
    assert len(in_code) > 10
    assert described == in_code


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/none", 404, "http"),
        ("GET", "/v1/inspect", 405, "http"),
        ("POST", "/v1/inspect?x=1", 422, "parameters"),
    ],
)
def test_refusals_of_the_framework(running: Running, method: str, path: str, status: int, reason: str) -> None:
    before = running.metric("unias_rejected_total", reason=reason)
    answer = running.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "hint"}
    assert running.metric("unias_rejected_total", reason=reason) == before + 1


def test_every_metric_is_described(running: Running) -> None:
    running.inspect(next(iter(sorted((ROOT / "docs" / "images").glob("*.jpg")))))
    named = set(re.findall(r"`(unias_\w+)`", TEXT))
    page = running.client.get("/metrics").text
    given = {name for name in re.findall(r"^# TYPE (unias_\w+) ", page, flags=re.MULTILINE) if "_created" not in name}
    assert {name.removesuffix("_total") for name in given} == {name.removesuffix("_total") for name in named}


def test_example_answer_has_the_fields_of_an_answer(running: Running, good: Path) -> None:
    (example,) = map(json.loads, blocks("json"))
    found = running.inspect(good, mask="rle")
    assert list(example) == list(found)
    for key in ("model", "timings", "mask"):
        assert set(example[key]) == set(found[key])
    for name in re.findall(r"`(\w+)`", re.findall(r"A region has (.*?)\. ", TEXT, flags=re.DOTALL)[0]):
        assert name in ("box", "area", "score", "contour")


def test_service_starts_what_there_is_and_outlives_its_own_time_out() -> None:
    (unit,) = blocks("ini")
    words = shlex.split(re.findall(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE)[0])
    assert words[1] == "serve"
    with SERVE.make_context("serve", words[2:]) as context:
        wanted = context.params
    stop = int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, flags=re.MULTILINE)[0])
    assert stop > wanted["grace"] + wanted["timeout"] + 5  # the last answer's reader has 5 s


def test_dockerfile_is_as_the_page_says() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "NEVER BUILT" in text
    assert "serve" not in re.findall(r'"\.\[([\w,]+)\]"', text)[0].split(",")


@pytest.fixture
def home(model_folder: Path, defective: Path, tmp_path: Path) -> Path:
    """A place with ``model`` and ``photo.png``, and a curl that fails where the server refuses."""
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copy(defective, tmp_path / "photo.png")
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nfail\n", encoding="utf-8")
    return tmp_path


def run(line: str, home: Path) -> bytes:
    environment = os.environ | {"CURL_HOME": str(home), "no_proxy": "127.0.0.1"}
    shell = shutil.which("bash") or "sh"
    done = subprocess.run([shell, "-c", line], cwd=home, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, f"{line}\n{done.stderr.decode()}"
    return done.stdout


def servers() -> Iterator[tuple[list[str], list[str]]]:
    """(what is given to unias serve, the commands between it and the next one)."""
    lines = [line for line in commands() if not line.startswith("pip ")]
    starts = [place for place, line in enumerate(lines) if line.startswith("unias serve ")]
    for place, until in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield shlex.split(lines[place])[2:], lines[place + 1 : until]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the page's commands are for a Unix shell")
def test_commands_run_in_order(
    home: Path, defective: Path, clean_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's first server has no token, its second one has; what follows about health is asked of the first one too."""
    assert shutil.which("curl"), "curl is needed to run docs/serve.md"
    monkeypatch.chdir(home)
    monkeypatch.delenv("UNIAS_TOKEN", raising=False)
    product = product_of(defective)
    (first, plain), (second, guarded) = servers()
    guarded, health = guarded[:1], guarded[1:]
    answers: dict[str, bytes] = {}
    assert first[0] == second[0] == "model"
    for words, lines in ((first, [*plain, *health]), (second, guarded)):
        with serving(Path("model"), clean_environment, *words[1:]) as server:
            for line in lines:
                here = line.replace(HERE, f"127.0.0.1:{server.port}").replace(
                    "product=screw", f"product={quote(product)}"
                )
                answers[line] = run(here, home)
            if words is second:
                run(f"! curl http://127.0.0.1:{server.port}/v1/products", home)
                _scraped(server.port, home)
            server.process.terminate()
            assert server.end() == (0, "")
    check(answers, product)


def _scraped(port: int, home: Path) -> None:
    """What the page's Prometheus would ask."""
    (one,) = yaml.safe_load(blocks("yaml")[0])["scrape_configs"]
    assert one["static_configs"] == [{"targets": [HERE]}]
    assert list(one["authorization"]) == ["credentials_file"]  # its type is Bearer where nothing else is said
    page = run(f'curl -H "Authorization: Bearer $(cat token)" http://127.0.0.1:{port}/metrics', home)
    assert b"unias_model_info" in page


def check(answers: dict[str, bytes], product: str) -> None:
    """The answers are what the page says of them."""
    inspected = {line: json.loads(text) for line, text in answers.items() if "/v1/inspect" in line}
    form, raw, told, rle, polygon, bare = inspected.values()
    same = ("verdict", "product", "raw_score", "cut", "mask")
    assert {key: form[key] for key in same} == {key: raw[key] for key in same}
    assert (told["verdict"], told["product"], told["mask"]["format"]) == ("defect", product, "png")
    assert base64.b64decode(told["mask"]["data"]).startswith(b"\x89PNG")
    assert sum(rle["mask"]["counts"]) == rle["size"][0] * rle["size"][1]
    assert (polygon["mask"]["format"], polygon["map"]["bits"]) == ("polygon", 16)
    assert bare["mask"] is bare["map"] is None
    products: list[Any] = [text for line, text in answers.items() if line.endswith("/v1/products")]
    assert len(products) == 2
    assert product in [one["name"] for one in json.loads(products[0])["products"]]
    (inferred,) = [json.loads(text) for line, text in answers.items() if line.endswith("/infer")]
    assert [one["name"] for one in inferred["outputs"]] == ["verdict", "pred_score"]
    assert inferred["outputs"][1]["data"] == [pytest.approx(form["pred_score"], rel=1e-4)]
    said = {line.rsplit("/", 1)[1]: text for line, text in answers.items() if "/" in line}
    assert json.loads(said["healthz"]) == {"status": "alive"}
    assert json.loads(said["readyz"]) == {"status": "ready"}
    assert b"unias_verdicts_total" in said["metrics"]
