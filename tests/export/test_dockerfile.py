"""The Dockerfile was never built (no container engine here): what it copies is there, and its steps run as a script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def of(kind: str) -> list[str]:
    return [rest for word, rest in instructions() if word == kind]


def settings(kind: str) -> dict[str, str]:
    return dict(part.split("=", 1) for line in of(kind) for part in line.split())


def test_says_that_it_was_never_built() -> None:
    assert "NEVER BUILT" in FILE.read_text(encoding="utf-8")
    assert "never built" in (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def test_known_instructions_in_order() -> None:
    words = [word for word, _ in instructions()]
    assert words[0] == "FROM"
    assert set(words) <= {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    (base,) = of("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert version is not None
    assert "# What CI installs (Python " + version.group(1) in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r'"\.\[([\w,]+)\]"', FILE.read_text(encoding="utf-8"))[0].split(","):
        assert re.search(rf"^{extra} = \[", pyproject, flags=re.MULTILINE)


def test_runs_without_rights_and_without_fetching() -> None:
    (user,) = of("USER")
    assert user not in ("root", "0")
    assert any(line.startswith("useradd ") and line.endswith(f" {user}") for line in of("RUN"))
    words = [word for word, _ in instructions()]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert settings("ENV")["HF_HUB_OFFLINE"] == "1"
    assert of("ENTRYPOINT") == ['["unias"]']
    assert "--network none" in FILE.read_text(encoding="utf-8")


def test_what_is_copied_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in of("COPY"):
        *sources, _target = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_a_special_index_is_not_the_only_one() -> None:
    """PyTorch's own need not hold all that constraints.txt names."""
    steps = [step for step in of("RUN") if "--index-url" in step]
    assert steps
    assert all("--extra-index-url https://pypi.org/simple" in step for step in steps)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("step", of("RUN"))
def test_steps_are_shell(step: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", step], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_steps_run_as_a_script(tmp_path: Path) -> None:
    """In an environment of its own that sees the packages installed here, so that none is fetched again; no user is made."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    venv = tmp_path / "venv"
    site = Path(
        subprocess.run(
            [venv / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.strip()
    )
    (site / "here.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n", encoding="utf-8"
    )
    for line in of("COPY"):
        *sources, _target = line.split()
        for source in sources:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, tmp_path / source)
    environment = os.environ | settings("ENV") | settings("ARG")
    environment |= {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "TORCH_INDEX": "https://pypi.org/simple"}
    script = "\n".join(["set -e", 'useradd() { echo "useradd $*"; }', *of("RUN")])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^unias \d", done.stdout, flags=re.MULTILINE)
    assert "useradd --create-home" in done.stdout
