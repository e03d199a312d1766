"""The page of `voxelopt report` in Chromium, from disk, with no network; skipped where it is not.

WebGL2 comes from Chromium's own software renderer, so that no graphics card is needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser import axial_greys, choose, open_page, picture, requests, set_value, wait_for
from command_line import LABELS, QUICK
from reports import Page
from voxelopt_train import outputs
from voxelopt_train.cli import main
from voxelopt_train.images import write_nifti
from voxelopt_train.phantom import Pair

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not CHROMIUM or not CHROMEDRIVER, reason="needs chromium and chromedriver"
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=860,700",
)  # fmt: skip
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
EVIL = "<img src=x onerror=window.evil=1>"


@pytest.fixture(scope="module")
def pages(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `one.html` of a single registration, and `cohort.html` of three."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        picture = np.random.default_rng(0).random((20, 40, 3))
        patch.setattr(outputs, "registration_picture", lambda path, *_, **__: imsave(path, picture))
        for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
            image = getattr(pair, name)
            write_nifti(folder / f"{name}.nii.gz", image.data, image.grid.affine)
        register = ["register", "fixed.nii.gz", "moving.nii.gz", *QUICK]
        assert main([*register, *LABELS, "--entropy", "-o", f"c/{EVIL}/"]) == 0
        assert main([*register, "-o", "c/plain/", "--layer.adaptive", "false"]) == 0
        shutil.copytree(f"c/{EVIL}", "c/worse")
        path = Path("c/worse/Report.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "sd_log_jacobian": 0.9}))
        Path("names.json").write_text(json.dumps({"6": EVIL}))
        assert main(["report", f"c/{EVIL}", "--label-names", "names.json", "-o", "one.html"]) == 0
        assert main(["report", "c", "-o", "cohort.html"]) == 0
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Callable[..., WebDriver]]:
    """Return a function that starts a browser; all are closed in the end."""
    browsers = []

    def start(*flags: str) -> WebDriver:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (*FLAGS, *flags, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browsers.append(webdriver.Chrome(options=options, service=Service(CHROMEDRIVER)))
        return browsers[-1]

    yield start
    for browser in browsers:
        browser.quit()


@pytest.fixture(scope="module")
def browser(start) -> WebDriver:
    return start(*SOFTWARE)


def test_three_slices_and_nothing_asked_for(browser, pages):
    open_page(browser, pages / "one.html", fresh=True)
    assert requests(browser) == [(pages / "one.html").as_uri()]
    assert browser.get_log("browser") == []
    script = "return viewer.nv.screenSlices.map((tile) => tile.leftTopWidthHeight)"
    tiles = browser.execute_script(script)
    assert len(tiles) == 3
    shown = picture(browser)
    for left, top, width, height in np.array(tiles).round().astype(int):
        tile = shown[top : top + height, left : left + width]
        assert tile.std() > 0.1 and len(np.unique(tile.mean(axis=-1).round(2))) > 20
    assert "mm RAS" in browser.find_element(By.ID, "readout").text


def test_greys_are_those_of_the_volumes_where_they_belong(browser, pages):
    open_page(browser, pages / "one.html")
    page = Page(pages / "one.html")
    shape = page.layer("fixed").shape
    z = browser.execute_script("return viewer.voxel")[2]
    voxels = np.stack(np.meshgrid(*(range(3, n - 3, 3) for n in shape[:2])), -1).reshape(-1, 2)

    def expected(name: str) -> np.ndarray:
        return page.layer(name)[voxels[:, 0], voxels[:, 1], z].astype(float)

    # Linear between voxels: greys near edges differ where the pixel is not quite the voxel.
    def close(greys: np.ndarray, to: np.ndarray) -> bool:
        return float(np.median(np.abs(greys - to))) < 2 and np.corrcoef(greys, to)[0, 1] > 0.98

    for pair, (first, second) in {
        "fixed warped": ("fixed", "warped"), "fixed moving": ("fixed", "moving"),
    }.items():  # fmt: skip
        choose(browser, pair)
        for share in (0, 0.5, 1):
            set_value(browser, "fade", 100 * share)
            picture(browser)
            mixed = (1 - share) * expected(first) + share * expected(second)
            assert close(axial_greys(browser, voxels), mixed)
    assert not close(axial_greys(browser, voxels), expected("fixed"))
    set_value(browser, "convention", "neurological")
    picture(browser)
    assert close(axial_greys(browser, voxels, mirrored=False), expected("moving"))


def test_fader_checkerboard_and_difference_change_the_picture(browser, pages):
    open_page(browser, pages / "one.html")
    choose(browser, "fixed moving")
    seen = []
    for share in (0, 100):
        set_value(browser, "fade", share)
        seen.append(picture(browser))
    for mode in ("checkerboard", "difference"):
        choose(browser, mode)
        seen.append(picture(browser))
    for n, one in enumerate(seen):
        for other in seen[:n]:
            assert np.abs(one - other).mean() > 0.01
    assert not browser.find_element(By.ID, "fader").is_displayed()
    choose(browser, "fade")
    np.testing.assert_allclose(picture(browser), seen[1])
    browser.find_element(By.TAG_NAME, "body").send_keys("f")
    np.testing.assert_allclose(picture(browser), seen[0])


def test_a_checkerboard_takes_its_squares_from_both_images(browser, pages):
    open_page(browser, pages / "one.html")
    fixed, moving = (Page(pages / "one.html").layer(name) for name in ("fixed", "moving"))
    choose(browser, "fixed moving")
    choose(browser, "checkerboard")
    set_value(browser, "size", 24)  # 3 voxels of 8 mm
    picture(browser)
    mixed = np.array(browser.execute_script("return Array.from(viewer.mixed)"))
    mixed = mixed.reshape(fixed.shape, order="F")
    odd = (np.indices(fixed.shape) // 3).sum(axis=0) % 2
    np.testing.assert_array_equal(mixed, np.where(odd, moving, fixed))


def test_maps_grid_and_outlines_are_drawn_with_their_legends(browser, pages):
    open_page(browser, pages / "one.html")
    set_value(browser, "fade", 0)
    plain = picture(browser)

    def legend() -> str:
        return browser.find_element(By.ID, "legend").text

    assert "fixed" in legend() and "warped" in legend()
    for action, words in (
        (lambda: browser.find_element(By.ID, "outlines").click(), ""),
        (lambda: browser.find_element(By.ID, "grid").click(), "displacement (mm)"),
        (lambda: set_value(browser, "map", "entropy"), "entropy (nat)"),
        (lambda: set_value(browser, "map", "jacobian"), "Jacobian determinant"),
        (lambda: set_value(browser, "zoom", 3), "Jacobian determinant"),
    ):
        action()
        shown = picture(browser)
        assert np.abs(shown - plain).mean() > 0.002 and words in legend()
        plain = shown
    assert browser.get_log("browser") == []


def test_yellow_is_what_folds_and_nothing_else(browser, pages):
    """Even beside the brightest colour of the map."""
    open_page(browser, pages / "one.html")
    browser.execute_script("viewer.settings.outlines = false; viewer.settings.opacity = 1")

    def yellow(byte: str) -> float:
        browser.execute_script(f"viewer.arrays.jacobian.fill(data.bytes.{byte})")
        set_value(browser, "map", "jacobian")
        shown = picture(browser)
        return float(
            ((shown[..., 0] > 0.9) & (shown[..., 1] > 0.85) & (shown[..., 2] < 0.3)).mean()
        )

    browser.execute_script("viewer.kept = viewer.arrays.jacobian.slice()")
    last, fold = yellow("last"), yellow("fold")
    browser.execute_script("viewer.arrays.jacobian.set(viewer.kept)")
    assert last == 0 and fold > 0.3


def test_slices_follow_sliders_and_mouse(browser, pages):
    open_page(browser, pages / "one.html")
    first = picture(browser)
    set_value(browser, "slice2", 5)
    assert browser.execute_script("return viewer.voxel")[2] == 5
    assert np.abs(picture(browser) - first).mean() > 0.01
    browser.find_element(By.ID, "slice2").send_keys(Keys.ARROW_RIGHT)
    assert browser.execute_script("return viewer.voxel")[2] == 6
    before = browser.find_element(By.ID, "readout").text
    stage = browser.find_element(By.ID, "slices")
    ActionChains(browser).move_to_element_with_offset(stage, 20, 30).click().perform()
    assert browser.find_element(By.ID, "readout").text != before


def test_an_organ_is_shown_where_it_is(browser, pages):
    open_page(browser, pages / "one.html")
    labels = Page(pages / "one.html").layer("fixed_labels")
    buttons = browser.find_elements(By.CSS_SELECTOR, "#organs tbody button")
    numbers = [n for n in np.unique(labels) if n]
    for button, label in list(zip(buttons, numbers, strict=True))[:4]:
        button.click()
        assert labels[tuple(browser.execute_script("return viewer.voxel"))] == label


def test_names_from_files_are_text(browser, pages):
    open_page(browser, pages / "one.html")
    assert browser.find_element(By.ID, "title").text == EVIL
    assert EVIL in browser.find_element(By.ID, "organs").text
    open_page(browser, pages / "cohort.html")
    assert EVIL in browser.find_element(By.ID, "cases").text
    assert browser.execute_script("return window.evil") is None
    assert browser.find_elements(By.CSS_SELECTOR, "img[src='x']") == []


def test_a_cohort_is_sorted_and_browsed(browser, pages):
    open_page(browser, pages / "cohort.html")

    def order() -> list[str]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#cases tbody th")
        return [row.text for row in rows]

    def shown() -> object:
        return browser.execute_script("return document.getElementById('viewer').dataset.ready")

    assert order() == sorted(order()) == [EVIL, "plain", "worse"] and shown() == EVIL
    headings = browser.find_elements(By.CSS_SELECTOR, "#cases thead button")
    heading = next(h for h in headings if h.text.startswith("SDlogJ"))
    heading.click()
    assert order()[-1] == "worse" and len(order()) == 3
    rising = order()
    heading.click()
    assert order() == rising[::-1]
    assert heading.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    # Dice of a case without labels comes last in either order.
    dice = next(h for h in headings if h.text.startswith("Dice after"))
    for _ in range(2):
        dice.click()
        assert order()[-1] == "plain"
    before = picture(browser)
    rows = browser.find_elements(By.CSS_SELECTOR, "#cases tbody th button")
    next(row for row in rows if row.text == "plain").click()
    wait_for(lambda: shown() == "plain")
    assert np.abs(picture(browser) - before).mean() > 0.001
    assert not browser.find_element(By.ID, "organs").is_displayed()
    assert len(browser.find_elements(By.CSS_SELECTOR, "#plots circle")) == 2 + 2 + 3
    assert browser.get_log("browser") == []
    assert requests(browser) == [(pages / "cohort.html").as_uri()]


def test_without_webgl2_the_picture_and_the_numbers_are_shown(start, pages):
    browser = start("--disable-3d-apis")
    open_page(browser, pages / "one.html")
    assert "no WebGL2" in browser.find_element(By.ID, "trouble").text
    assert not browser.find_element(By.ID, "viewer").is_displayed()
    image = browser.find_element(By.CSS_SELECTOR, "#picture img")
    wait_for(lambda: browser.execute_script("return arguments[0].naturalWidth", image) == 40)
    assert image.is_displayed() and "0." in browser.find_element(By.ID, "organs").text
