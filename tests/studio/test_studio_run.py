"""The command in a process of its own: the lines of docs/studio.md, the event stream, and how it stops."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "studio.md"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("unias ")]


def test_the_page_of_the_docs_has_commands() -> None:
    assert len(commands()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("line", commands() or [""])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_answers_and_stops(
    line: str, number: signal.Signals, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    """Also while a page listens to events."""
    (tmp_path / "token").write_text("a-secret-of-some-length\n", encoding="ascii")
    arguments = [sys.executable, "-m", *shlex.split(line), "--no-open", "--port", "0"]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=clean_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("studio: "), said
        assert str(tmp_path) in said
        port = urlsplit(said.rpartition(" at ")[2].strip()).port
        headers = {"Authorization": "Bearer a-secret-of-some-length"} if "token" in line else {}
        base = f"http://127.0.0.1:{port}/studio/api"
        with httpx.Client(headers=headers, timeout=30, trust_env=False) as client:
            assert client.get(f"{base}/state").json()["models"] == []
            with client.stream("GET", f"{base}/events") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert next(answer.iter_lines()).startswith("retry:")
                process.send_signal(number)
                err = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (0 if number == signal.SIGTERM else 130), err
    assert "Traceback" not in err
    assert (number == signal.SIGTERM) is (err == "")
