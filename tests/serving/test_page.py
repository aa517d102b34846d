"""The page in a headless Chromium, where there is one, and Playwright to drive it.

apt-get install chromium && pip install playwright
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
from mlx_rcnn.outputs.draw import class_color
from mlx_rcnn.serving.limits import Limits
from serving_kit import NAMES, TellingModel, live, png, save_model
from small import PHOTOS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")

PIXEL = """([x, y]) => {
    const canvas = document.getElementById("canvas");
    const at = [x * canvas.width, y * canvas.height].map(Math.floor);
    return [...canvas.getContext("2d").getImageData(...at, 1, 1).data].slice(0, 3);
}"""
FOCUSED = "document.activeElement.id || document.activeElement.textContent"
KINDS = "all => all.map(button => button.dataset.kind)"
DROP = """text => {
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
    document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def browser() -> Any:
    with playwright.sync_playwright() as driver:
        # The tests' containers run as root, where Chromium has no sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def is_error(message: Any) -> bool:
    """Of the console; that a request was refused is none."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


@pytest.fixture
def opened(browser: Any) -> Any:
    """Opens the page of a running server; what breaks in it, or its policy, fails the test."""
    pages: list[tuple[Any, list[str]]] = []

    def get(running: Any, **options: Any) -> Any:
        page = browser.new_context(**options).new_page()
        said: list[str] = []
        page.on("console", lambda m: said.append(m.text) if is_error(m) else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto("http://{}:{}/".format(*running.address))
        page.wait_for_selector("#downloads button", state="attached")
        pages.append((page, said))
        return page

    yield get
    for page, said in pages:
        page.context.close()
        assert said == []


def choose(page: Any, name: str, data: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    # Not by a function that polls: the page's policy forbids what Playwright makes of it.
    playwright.expect(page.locator("#status")).to_have_text(re.compile(f"{re.escape(name)}, "))


def test_a_photo_is_looked_at(opened: Any) -> None:
    with live(TellingModel) as running:
        page = opened(running)
        assert page.title() == page.inner_text("h1") == "m"
        assert page.is_hidden("#side") and page.is_hidden("#canvas")
        choose(page, "grey.png", png(40, 30, 204))  # a "çat" of 0.80 in the top left half
        assert page.inner_text("#status") == "grey.png, 40 × 30"
        assert page.inner_text("#count") == "1 detection"
        assert page.inner_text("#list button").split() == ["çat", "0.80"]
        assert page.get_attribute("#canvas", "aria-label") == "grey.png: 1 çat"
        assert page.evaluate(PIXEL, [0.5, 0.25]) == list(class_color(3))  # its right side
        assert page.evaluate(PIXEL, [0.8, 0.8]) == [204] * 3
        # The slider, by keys: 0.80 is 204 / 255, and a step further there is nothing.
        page.focus("#threshold")
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        assert page.inner_text("#shown") == "0.80" and page.inner_text("#count") == "1 detection"
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#count") == "0 detections"
        assert page.evaluate(PIXEL, [0.5, 0.25]) == [204] * 3
        assert page.get_attribute("#canvas", "aria-label") == "grey.png: nothing found"


def test_it_works_by_keys_alone(opened: Any) -> None:
    with live(TellingModel) as running:
        page = opened(running)
        choose(page, "grey.png", png(40, 30, 204))
        met = []
        page.evaluate("document.activeElement.blur()")
        for _ in range(6):
            page.keyboard.press("Tab")
            met.append(
                page.evaluate("document.activeElement.id || document.activeElement.textContent")
            )
        assert met[:4] == ["file", "threshold", "çat0.80", "Picture"]
        page.focus("#list button")
        page.keyboard.press("Enter")
        assert page.get_attribute("#list button", "aria-pressed") == "true"
        assert len(running.model.calls) == 1  # the slider and the list ask for nothing


def test_dropped_wrong_and_again(opened: Any) -> None:
    with live(TellingModel, Limits(max_pixels=10_000)) as running:
        page = opened(running)
        page.evaluate(DROP, base64.b64encode(png(40, 30, 153)).decode())
        page.wait_for_selector("#list li")
        assert page.inner_text("#status") == "dropped.png, 40 × 30"
        page.set_input_files(
            "#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"}
        )
        page.wait_for_selector("#status.error")
        assert "not an image" in page.inner_text("#status")
        big = {"name": "big.png", "mimeType": "image/png", "buffer": png(200, 100)}
        page.set_input_files("#file", big)
        playwright.expect(page.locator("#status")).to_contain_text("200 x 100")
        tiff = io.BytesIO()  # which the server reads and Chromium does not
        Image.new("RGB", (40, 30), (153,) * 3).save(tiff, "TIFF")
        choose(page, "a.tif", tiff.getvalue())
        assert page.evaluate(PIXEL, [0.8, 0.8]) == [153] * 3


def test_downloads(opened: Any, tmp_path: Path) -> None:
    with live(TellingModel) as running:
        page = opened(running, accept_downloads=True)
        choose(page, "grey ü.png", png(40, 30, 204))
        names = {}
        for kind in page.eval_on_selector_all(
            "#downloads button", "all => all.map(b => b.dataset.kind)"
        ):
            with page.expect_download() as waiting:
                page.click(f"[data-kind={kind}]")
            names[kind] = waiting.value.suggested_filename
            waiting.value.save_as(tmp_path / names[kind])
    zips = {
        kind: f"grey ü_{kind}.zip" for kind in ("voc", "coco", "yolo", "labelme", "cvat", "crops")
    }
    assert names == {"picture": "grey ü.png", "json": "grey ü.json", "csv": "grey ü.csv", **zips}
    content = json.loads((tmp_path / "grey ü.json").read_text())
    assert [row["name"] for row in content["detections"]] == ["çat"]


@pytest.mark.parametrize("kind", ["mask_rcnn", "keypoint_rcnn"])
def test_masks_and_keypoints_are_drawn(kind: str, opened: Any, tmp_path: Path) -> None:
    folder = save_model(kind, tmp_path / "model")
    photo = PHOTOS / "stop.jpg"
    with live(lambda: mlx_rcnn.load(folder)) as running:
        page = opened(running)
        choose(page, "stop.jpg", photo.read_bytes())
        shown = page.eval_on_selector_all("#list .name", "all => all.map(name => name.textContent)")
        text = page.evaluate("document.getElementById('canvas').toDataURL('image/png')")
    [found] = mlx_rcnn.load(folder).predict(str(photo))
    sure = found[found["scores"] >= 0.5]
    assert shown == sure.names and len(sure)
    drawn = Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))).convert("RGB")
    plain = Image.open(photo).resize(drawn.size, Image.Resampling.NEAREST)
    changed = np.abs(np.asarray(drawn, int) - np.asarray(plain, int)).max(axis=2) > 12
    if kind == "mask_rcnn":
        inside = Image.fromarray(sure["masks"].any(axis=0)).resize(drawn.size)
        assert changed[np.asarray(inside)].mean() > 0.9
        assert set(Counter(sure.names)) <= set(NAMES)
    else:
        scale = drawn.width / found.size[1]
        points = sure["keypoints"][sure["keypoints_scores"] >= 2.0][:, :2] * scale
        columns, rows = np.clip(points.astype(int), 0, np.array(drawn.size) - 1).T
        assert len(points) and changed[rows, columns].mean() > 0.9


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_it_fits_a_phone_in_both_colours(scheme: str, dark: bool, opened: Any) -> None:
    with live(TellingModel) as running:
        view = {"width": 320, "height": 640}
        page = opened(running, viewport=view, color_scheme=scheme)
        choose(page, "a_name_that_is_long_and_goes_on_and_on_and_on.png", png(400, 30, 204))
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        back = Image.open(io.BytesIO(page.screenshot())).convert("L").getpixel((3, 3))
        assert (back < 60) == dark and (back > 220) == (not dark)
