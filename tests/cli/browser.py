"""What the tests of the page of `voxelopt report` do in a browser, and see there."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.05)


def open_page(browser: WebDriver, path: Path, fresh: bool = False) -> None:
    """Open a page, or bring it back to its settings at the start where it is open already."""
    for log in ("browser", "performance"):
        browser.get_log(log)  # of the test before, forgotten
    if browser.current_url == path.as_uri() and not fresh:
        browser.execute_script(
            "Object.assign(viewer.settings, start.settings); showControls(); showOrgan(mainOrgan())"
        )
        return
    browser.get(path.as_uri())
    wait_for(lambda: browser.execute_script("return document.body.dataset.ready"))
    browser.execute_script("if (viewer) start.settings = structuredClone(viewer.settings)")


def requests(browser: WebDriver) -> list[str]:
    """Addresses that the page asked for, those in the page itself left out."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"].endswith("WillBeSent")]
    return [url for url in asked if not url.startswith("data:")]


def picture(browser: WebDriver) -> np.ndarray:
    """What the screen shows of the slices, drawn anew."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return imread(io.BytesIO(browser.find_element(By.ID, "stage").screenshot_as_png))[..., :3]


def set_value(browser: WebDriver, name: str, value: object) -> None:
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'))",
        name, str(value),
    )  # fmt: skip


def choose(browser: WebDriver, value: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"input[value='{value}'] + span").click()


def axial_greys(browser: WebDriver, voxels: np.ndarray, mirrored: bool = True) -> np.ndarray:
    """Grey (0 to 255) that NiiVue shows at voxels (x, y) of the axial slice.

    Found from the outline of the slice on the screen alone: the patient's right, where x is
    largest, is on its left where it is ``mirrored``, his front is up.
    """
    script = """
        const gl = viewer.nv.gl, [left, top, width, height] = viewer.nv.screenSlices
            .find((tile) => tile.axCorSag === 0).leftTopWidthHeight;
        viewer.nv.drawScene();
        return arguments[0].map(([x, y]) => {
            const pixel = new Uint8Array(4);
            gl.readPixels(left + x * width, gl.canvas.height - top - y * height, 1, 1,
                gl.RGBA, gl.UNSIGNED_BYTE, pixel);
            return pixel[0];
        });
    """
    nx, ny = browser.execute_script("return viewer.shape")[:2]
    right, up = ((voxels + 0.5) / [nx, ny]).T
    places = np.stack([1 - right if mirrored else right, 1 - up], axis=1)
    return np.array(browser.execute_script(script, places.tolist()))
