"""The whole journey in a browser: from a folder of photos to masks, a moved threshold and a download, without any network.

UNIAS_SCREENSHOTS = a folder that keeps pictures of every page, to look at; UNIAS_CHROMIUM = the browser, where it is not found
by its name.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from unias.config import Config, dump_config

STATIC = Path(__file__).resolve().parents[2] / "src" / "unias" / "studio" / "static"
CHROMIUM = os.environ.get("UNIAS_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 400_000  # milliseconds that a page may take to show what is waited for; it is there long before
PRODUCT = "Dichtung groß"

# What a drop brings: entries of folders, as the browser gives them. Built in the page, as a mouse cannot be made to carry files.
DROP = """
async ([zone, photos]) => {
  const entry = (name, node) => node instanceof File
    ? {name, isFile: true, isDirectory: false, file: (take) => take(node)}
    : {name, isFile: false, isDirectory: true, createReader: () => {
        const left = Object.entries(node).map(([n, child]) => entry(n, child));
        return {readEntries: (take) => take(left.splice(0, 2))};
      }};
  const root = {};
  for (const [path, data] of photos) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const parts = path.split("/");
    let at = root;
    for (const part of parts.slice(0, -1)) at = at[part] = at[part] || {};
    at[parts.at(-1)] = new File([bytes], parts.at(-1), {type: "image/png"});
  }
  const items = Object.entries(root).map(([name, node]) => ({webkitGetAsEntry: () => entry(name, node)}));
  const event = new Event("drop", {bubbles: true, cancelable: true});
  Object.defineProperty(event, "dataTransfer", {value: {items, files: []}});
  document.querySelector(zone).dispatchEvent(event);
}
"""

LEVEL_SHOWN = """
(() => {
  const image = document.querySelector("#layer-map");
  return image.src.includes("layer=4") && image.complete && image.naturalWidth > 0;
})()
"""
SHOWN = "document.querySelector('#place').textContent.endsWith(': ' + document.querySelector('#info').dataset.id)"


def test_the_pages_files_are_small_and_fetch_nothing_from_elsewhere() -> None:
    files = sorted(STATIC.iterdir())
    assert {"index.html", "studio.css", "app.js"} <= {file.name for file in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") < 400, file.name
        outside = set(re.findall(r"https?://[\w./-]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not outside, (file.name, outside)
        assert not re.search(r"\binnerHTML\b|\bouterHTML\b|insertAdjacentHTML|\beval\(|document\.write", text), (
            file.name
        )
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", page)


@pytest.fixture
def address(tmp_path: Path, tiny_config: Config, clean_environment: dict[str, str]) -> Iterator[str]:
    """A studio of its own process in an empty folder, with settings that train in seconds."""
    home = tmp_path / "studio"
    home.mkdir()
    (home / "settings.yaml").write_text(dump_config(tiny_config), encoding="utf-8")
    command = [sys.executable, "-m", "unias", "studio", str(home), "--no-open", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, env=clean_environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("studio: "), said
        yield said.rpartition(" at ")[2].strip()
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="the studio's journey needs playwright: pip install -e '.[dev]'"
    )
    if not CHROMIUM:
        pytest.skip("the studio's journey needs Chromium: apt-get install chromium, or set UNIAS_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class Visitor:
    """A page that may ask this machine alone, and what it asked and complained of."""

    def __init__(self, browser: Any, address: str, shots: Path) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
        self.context.set_default_timeout(PATIENCE)
        self.shots, self.number = shots, 0
        self.asked: list[tuple[str, str]] = []
        self.outside: list[str] = []
        self.complaints: list[str] = []
        home = urlsplit(address).netloc
        self.context.route("**/*", lambda route: self._route(route, home))
        self.page = self.context.new_page()
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def _route(self, route: Any, home: str) -> None:
        url = route.request.url
        if url.startswith(("blob:", "data:")) or urlsplit(url).netloc == home:
            self.asked.append((route.request.method, urlsplit(url).path))
            route.continue_()
        else:
            self.outside.append(url)
            route.abort()

    def shot(self, name: str) -> None:
        """A picture of the page."""
        self.number += 1
        self.page.screenshot(path=self.shots / f"{self.number:02}-{name}.png", full_page=True)

    def go(self, step: str) -> None:
        """Another page, by its link."""
        self.page.get_by_role("navigation").get_by_role("link", name=step).click()
        self.page.get_by_role("heading", level=1, name=step).wait_for()

    def until(self, expression: str, arg: Any = None) -> None:
        """Wait for what the page computes to be true. (Playwright's own way needs eval, which the studio's headers forbid.)"""
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end, f"never came true: {expression} of {arg!r}"
            self.page.wait_for_timeout(50)

    def say_nothing_wrong(self) -> None:
        """No request left this machine; the console is clean (refused inline code would stand there)."""
        assert self.outside == []
        assert self.complaints == []


@pytest.fixture
def visitor(browser: Any, address: str, tmp_path: Path) -> Iterator[Visitor]:
    shots = Path(os.environ.get("UNIAS_SCREENSHOTS") or tmp_path / "screenshots")
    shots.mkdir(parents=True, exist_ok=True)
    made = Visitor(browser, address, shots)
    yield made
    made.context.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_a_folder_to_a_mask_and_a_download(
    visitor: Visitor, make_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_data(tmp_path / "drawn", products=(PRODUCT,), train=24, good=4, defects=("hole", "scratch", "hole"))
    _photos(visitor, data)
    _train(visitor)
    _threshold(visitor)
    _inspect(visitor)
    _review(visitor)
    _export(visitor, tmp_path)
    visitor.say_nothing_wrong()


def _photos(visitor: Visitor, data: Path) -> None:
    import base64

    page = visitor.page
    page.get_by_text("No photos yet").wait_for()
    visitor.shot("photos-empty")
    files = sorted(file for file in data.rglob("*.png"))
    sent = [(file.relative_to(data).as_posix(), base64.b64encode(file.read_bytes()).decode("ascii")) for file in files]
    page.evaluate(DROP, ["#drop", sent])
    row = page.get_by_role("row").filter(has_text=PRODUCT)
    row.wait_for()
    cells = row.get_by_role("cell").all_inner_texts()
    assert cells[:2] == ["24", "4"]
    assert "hole: 2" in re.sub(r"\s+", " ", cells[2])
    page.get_by_text("What are these photos?").click()
    page.get_by_label("They are").select_option("new")
    page.locator("#pick-files").set_input_files(data / PRODUCT / "test" / "hole" / "000.png")
    page.get_by_text("New photos, only to be inspected: 1").wait_for()
    row.get_by_role("button", name="Show 24 photos").click()
    page.get_by_role("checkbox").first.wait_for()
    visitor.shot("photos")
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Take out").click()
    row.get_by_role("button", name="Show 23 photos").wait_for()
    page.get_by_role("button", name="Check the photos").click()
    page.locator("#findings").wait_for()
    visitor.shot("photos-checked")


def _train(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("Train")
    visitor.shot("train-form")
    page.get_by_label("Name").fill("first")
    page.get_by_label("Minutes").fill("0.4")
    page.get_by_role("button", name="Start training").click()
    card = page.get_by_role("region", name="Training first")
    card.get_by_text(re.compile(r"so far")).wait_for()
    page.reload()
    card.get_by_text(re.compile(r"so far")).wait_for()  # a reload loses no job
    card.get_by_text(re.compile(r"loss \d")).wait_for()
    visitor.shot("training")
    card.get_by_role("button", name="Show log").click()
    page.get_by_role("link", name="Next: set the threshold").wait_for()
    assert card.get_attribute("data-state") == "done"
    visitor.shot("trained")
    page.get_by_label("Name").fill("second")
    page.get_by_label("Minutes").fill("5")
    page.get_by_role("button", name="Start training").click()
    second = page.get_by_role("region", name="Training second")
    second.get_by_role("button", name="Cancel").click()
    second.get_by_text("cancelled").first.wait_for()
    assert second.get_attribute("data-state") == "cancelled"


def _threshold(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("Threshold")
    words = page.locator("#threshold-words")
    words.wait_for()
    before = words.inner_text()
    assert re.match(r"0 of \d+ held-out good photos would fail; at most \d+% of all good parts \(95% sure\)\.", before)
    assert "Of 3 photos with a defect," in page.locator("#threshold-misses").inner_text()
    visitor.shot("threshold")
    visitor.asked.clear()
    page.locator("#threshold-slider").focus()
    page.keyboard.press("ArrowLeft")
    assert words.inner_text().startswith("1 of ")
    box = page.locator("#histogram").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    most = words.inner_text()
    assert int(most.split()[0]) > 1
    assert visitor.asked == []  # all of it in the browser
    visitor.shot("threshold-moved")
    page.locator("#threshold-slider").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Apply").click()
    page.locator("#threshold-price").get_by_text("Applied").wait_for()
    assert [path for method, path in visitor.asked if method == "POST"] == ["/studio/api/models/first/cut"]
    assert words.inner_text().startswith("1 of ")  # what was applied is the present one now, without a reload
    assert page.get_by_role("button", name="Apply").is_disabled()
    assert not page.get_by_role("button", name="Back to the present one").is_visible()
    assert page.locator("#threshold-kept").count() == 0
    page.keyboard.press("End")  # the line has the keys still
    assert words.inner_text() == before
    page.get_by_role("button", name="Back to the present one").click()
    assert words.inner_text().startswith("1 of ")
    page.reload()
    words.wait_for()
    assert words.inner_text().startswith("1 of ")
    visitor.shot("threshold-applied")


def _inspect(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("Inspect")
    page.locator("#info .badge").wait_for()
    total = int(re.search(r"of (\d+):", page.locator("#place").inner_text()).group(1))  # type: ignore[union-attr]
    assert total == 8
    for at in range(total):  # by key, to the first photo with a mask
        visitor.until("(n) => document.querySelector('#place').textContent.startsWith(n)", arg=f"{at + 1} of")
        visitor.until(SHOWN)
        page.wait_for_timeout(400)
        if page.locator("#contours polygon").count():
            break
        page.keyboard.press("ArrowRight")
    assert page.locator("#contours polygon").count() > 0
    page.get_by_label("Mask").check()
    visitor.until("() => document.querySelector('#layer-mask').naturalWidth > 0")
    visitor.until("document.querySelector('#layer-map').naturalWidth > 0")
    fitted = page.locator("#zoom").inner_text()
    frame = page.locator("#viewer").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    page.mouse.wheel(0, -300)
    visitor.until("(text) => document.querySelector('#zoom').textContent !== text", arg=fitted)
    visitor.shot("inspect-zoomed")
    page.get_by_role("button", name="Fit").click()
    page.get_by_label("Map opacity").fill("0.3")
    assert page.locator("#layer-map").evaluate("image => image.style.opacity") == "0.3"
    page.get_by_label("Contours").uncheck()
    assert not page.locator("#contours").is_visible()
    page.get_by_label("Contours").check()
    page.locator("#level").select_option(index=1)
    visitor.until(LEVEL_SHOWN)
    page.locator("#info").get_by_text("Smallest defect").wait_for()
    visitor.shot("inspect")
    now = page.locator("#place").inner_text()
    page.locator("h1").click()
    page.keyboard.press("ArrowLeft" if now.startswith("8 ") else "ArrowRight")
    visitor.until("(text) => document.querySelector('#place').textContent !== text", arg=now)


def _review(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("Review")
    place = page.locator("#review-place")
    place.wait_for()
    total = int(re.match(r"\d+ of (\d+)", place.inner_text()).group(1))  # type: ignore[union-attr]
    visitor.shot("review")
    names = []
    for done in range(1, total + 1):
        names.append(page.locator(".info .name").inner_text())
        source = page.locator(".still .base").get_attribute("src")
        assert source is not None
        key = "g" if "good" in source else "d"
        page.keyboard.down(key)
        page.keyboard.down(key)  # held down: it repeats, and says nothing of the next photo
        page.keyboard.up(key)
        visitor.until("(n) => document.querySelector('#review-place').textContent.includes(n)", arg=f" {done} reviewed")
        assert place.inner_text().startswith(f"{min(done + 1, total)} of ")
    assert len(set(names)) > 1
    verdicts = [path for method, path in visitor.asked if method == "POST" and path.endswith("/review")]
    assert len(verdicts) == total
    page.get_by_role("button", name="Recalibrate").click()
    page.locator("#review-price").get_by_role("cell").first.wait_for()
    visitor.shot("recalibrated")


def _export(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    visitor.go("Export")
    page.get_by_label("Format").select_option("onnx")
    page.get_by_role("button", name="Export", exact=True).click()
    link = page.get_by_role("row").filter(has_text="first, onnx").get_by_role("link", name="Download")
    link.wait_for()
    visitor.shot("export")
    with page.expect_download() as waited:
        link.click()
    target = tmp_path / "export.zip"
    waited.value.save_as(target)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert any(name.endswith(".onnx") for name in archive.namelist())
