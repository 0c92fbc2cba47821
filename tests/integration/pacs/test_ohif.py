"""OHIF as the wheel ships it, in headless Chromium, on the hospital of test_exchange.

Screenshots are kept in `test-artifacts/ohif/`; docs/ohif.md shows two of them.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from uncol.dicom.segmentation import read_segmentation
from uncol.settings import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.browser]

SHOTS = REPOSITORY / "test-artifacts" / "ohif"
SOFTWARE_WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--ignore-gpu-blocklist", *SOFTWARE_WEBGL]
SLICE = r"text=/\(\d+\/\d+\)/"  # as in `I: 5 (5/19)`
LOWEST_COLOUR = 0.2  # values below it have the same blue
SLOW_MS = 90_000  # software rendering on two cores, beside a server


@pytest.fixture(scope="module")
def browser(need: Any) -> Iterator[Any]:
    need("" if shutil.which("chromium") else "Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    made = browser.new_page(viewport={"width": 1600, "height": 950})
    made.set_default_timeout(SLOW_MS)
    said: list[str] = []
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda error: said.append(f"page error: {error}"))
    yield made
    (SHOTS / f"{request.node.name}.txt").write_text("\n".join(said))
    made.screenshot(path=SHOTS / f"{request.node.name}.png")
    made.close()


@pytest.fixture
def unlabeled(trained_hospital: Any) -> str:
    """A case without a label, its student's results in the PACS."""
    end = time.monotonic() + 300
    while True:
        objects = requests.get(f"{trained_hospital.url}/datastore/?output=all", timeout=60).json()[
            "objects"
        ]
        for name, one in objects.items():
            if "final" not in one["labels"] and one["image"]["info"].get("results"):
                return str(name)
        assert time.monotonic() < end
        time.sleep(2)


def study_of(hospital: Any, case: str) -> str:
    return hospital.series[case].study_uid


def open_study(page: Any, hospital: Any, mode: str, case: str) -> None:
    page.goto(f"{hospital.url}/ohif/{mode}?StudyInstanceUIDs={study_of(hospital, case)}")
    page.get_by_role("button", name="Confirm and Hide").click()


def open_panel(page: Any, hospital: Any, case: str) -> None:
    """Open a case in the MONAI Label mode and connect the panel."""
    page.context.add_cookies(
        [{"name": "MONAILABEL_SERVER_URL", "value": f"{hospital.url}/", "url": hospital.url}]
    )
    open_study(page, hospital, "monai-label", case)
    page.wait_for_selector("#monailabelServerURL")
    page.wait_for_selector("canvas")
    page.wait_for_timeout(4000)  # until the three views are drawn
    page.click("button.actionButton")
    page.wait_for_selector("text=uncol_overlay", state="attached")


def run_model(page: Any, model: str) -> Any:
    """Choose a model under Auto-Segmentation, run it, wait until it is drawn."""
    page.locator("select:visible", has_text="uncol_overlay").first.select_option(label=model)
    with page.expect_response(re.compile(f"/infer/{model}\\?")) as answer:
        page.locator("button:visible", has_text=re.compile("^Run$")).first.click()
    assert answer.value.ok
    page.wait_for_timeout(4000)
    return answer.value


def ask_to_export(page: Any) -> None:
    """Open the dialog that exports a segmentation, by keys: a menu follows the mouse too slowly."""
    title = page.get_by_role("combobox").filter(has_text="UnCoL label").last.bounding_box()
    page.mouse.click(title["x"] - 20, title["y"] + title["height"] / 2)  # the dots before it
    page.get_by_role("menuitem", name="Export & Download").press("ArrowRight")
    page.get_by_role("menuitem", name="Export DICOM SEG").press("Enter")
    page.locator("input[type=text]").last.wait_for()


def views(page: Any, name: str) -> np.ndarray:
    """Keep a screenshot; return the colour (largest channel difference) of the views."""
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path)
    rgb = pixels(path)[110:900, 300:1290]
    return rgb.max(axis=2) - rgb.min(axis=2)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_study_list_finds_what_is_searched(trained_hospital: Any, page: Any) -> None:
    page.goto(f"{trained_hospital.url}/ohif/")
    page.wait_for_selector("text=BRAIN005")
    listed = set(page.locator("text=/^BRAIN00/").all_inner_texts())
    assert len(listed) == len(trained_hospital.series)
    views(page, "study-list")
    found = requests.get(
        f"{trained_hospital.url}/proxy/dicom/qido/studies",
        params={"PatientID": "BRAIN002"},
        timeout=60,
    ).json()
    assert len(found) == 1  # MONAI Label's own proxy drops the question and finds all


def test_auto_segmentation_and_overlay_are_drawn(
    trained_hospital: Any, page: Any, unlabeled: str
) -> None:
    open_panel(page, trained_hospital, unlabeled)
    page.get_by_text("Auto-Segmentation").first.click()
    before = views(page, "panel")
    run_model(page, "uncol")
    mask = views(page, "uncol")
    run_model(page, "uncol_overlay")
    both = views(page, "overlay")
    drawn = (mask > 30) & (before <= 30)
    assert 0.02 < drawn.mean() < 0.6
    changed = np.abs(both - mask) > 10
    assert changed.mean() > 0.005  # the bands lie on top
    assert ((both > 30) & drawn).sum() > 0.3 * drawn.sum()  # and the anatomy is still there


def test_next_sample_is_answered_by_the_strategy_uncol(
    trained_hospital: Any, page: Any, unlabeled: str
) -> None:
    open_panel(page, trained_hospital, unlabeled)
    page.locator("label.tab-label", has_text="Active Learning").first.click()
    with page.expect_response(re.compile("/activelearning/")) as answer:
        page.locator("button:visible", has_text="Next Sample").first.click()
    told = answer.value.json()
    assert answer.value.url.endswith("/activelearning/random")  # whatever the user chose
    assert told["SeriesInstanceUID"] == told["id"]
    assert told["id"] not in trained_hospital.labeled()
    assert "at random" not in told["reason"].lower()
    views(page, "next-sample")


def test_training_starts_from_the_panel(trained_hospital: Any, page: Any, unlabeled: str) -> None:
    open_panel(page, trained_hospital, unlabeled)
    page.locator("label.tab-label", has_text="Active Learning").first.click()
    with page.expect_response(re.compile("/train/")) as answer:
        page.locator("button:visible", has_text="Update Model").first.click()
    try:
        assert answer.value.ok
        end = time.monotonic() + 90
        while "total_time" in trained_hospital.train_stats():
            assert time.monotonic() < end
            time.sleep(1)
        views(page, "training")
    finally:
        requests.delete(f"{trained_hospital.url}/train/", timeout=60)


def test_the_map_is_an_overlay_in_the_basic_viewer(
    trained_hospital: Any, page: Any, unlabeled: str
) -> None:
    open_study(page, trained_hospital, "viewer", unlabeled)
    page.wait_for_selector("text=UnCoL uncertainty")
    page.wait_for_timeout(4000)
    before = views(page, "viewer")
    page.locator("text=UnCoL uncertainty").first.dblclick()
    end = time.monotonic() + 90
    while True:  # a message says for a moment that the map is loading
        page.wait_for_timeout(4000)
        after = views(page, "uncertainty")
        if (after > 60).mean() > (before > 60).mean() + 0.1:
            break
        assert time.monotonic() < end, "the map was not drawn"
    page.wait_for_timeout(4000)
    views(page, "uncertainty")  # the messages are gone
    assert_on_anatomy(trained_hospital, unlabeled, page)


def assert_on_anatomy(hospital: Any, case: str, page: Any) -> None:
    """The colours on the screen, blue to red, are those of the map in this slice, in place.

    The overlay is half transparent: the grey of the anatomy below changes a colour's brightness and
    saturation, its hue stays.
    """
    box = page.locator("canvas").first.bounding_box()
    number = int(re.search(r"\((\d+)/", page.locator(SLICE).first.inner_text()).group(1))
    series = hospital.series[case]
    (k,) = [k for k, one in enumerate(series.headers) if int(one.InstanceNumber) == number]
    values = hospital.download("label", {"label": case, "tag": "uncertainty"})
    size = np.array(values.shape[1::-1]) * series.grid.spacing_mm[1::-1]  # rows, columns, in mm
    middle = np.array([box["y"] + box["height"] / 2, box["x"] + box["width"] / 2])
    hue = rgb_to_hsv(pixels(SHOTS / "uncertainty.png") / 255)[..., 0]
    shown = 1 - np.clip(1.5 * hue, 0, 1)  # blue (2/3) is 0, red (0) is 1

    def fit(wanted: np.ndarray) -> float:
        """The best correlation over all magnifications around the middle of the view."""
        return max(correlation(wanted, size * scale) for scale in np.linspace(2, 6, 81))

    def correlation(wanted: np.ndarray, shape: np.ndarray) -> float:
        low, high = (middle - shape / 2).astype(int), (middle + shape / 2).astype(int)
        if low[0] < 60 or high[0] > shown.shape[0]:
            return 0.0
        part = shown[low[0] : high[0], low[1] : high[1]]
        large = Image.fromarray(wanted.T.astype(np.float32)).resize(part.shape[::-1])
        return float(np.corrcoef(part.ravel(), np.asarray(large).ravel())[0, 1])

    values = np.clip(values, LOWEST_COLOUR, 1)
    right = fit(values[..., k])
    assert right > 0.9
    for wrong in (values[::-1, :, k], values[:, ::-1, k], values[..., k - 2], values[..., k + 2]):
        assert fit(wrong) < right - 0.03


def test_a_label_corrected_and_stored_in_ohif_is_what_was_drawn(
    trained_hospital: Any, page: Any, unlabeled: str
) -> None:
    """The student's label is opened in the Segmentation mode, painted in one slice, exported."""
    hospital = trained_hospital
    grid = hospital.series[unlabeled].grid
    students = [
        s
        for s in hospital.instances("SEG")
        if s.get("ContentLabel") == "STUDENT"
        and s.ReferencedSeriesSequence[0].SeriesInstanceUID == unlabeled
    ]
    before, names = read_segmentation(students[-1], grid)
    done = len(hospital.labeled())

    open_study(page, hospital, "segmentation", unlabeled)
    page.wait_for_selector("text=UnCoL label")
    page.wait_for_timeout(4000)
    page.locator("text=UnCoL label").last.dblclick()
    page.get_by_role("button", name="Yes").click()
    page.wait_for_timeout(4000)
    page.mouse.move(800, 475)
    for _ in range(4):
        page.mouse.wheel(0, 100)
        page.wait_for_timeout(300)
    page.locator('[data-cy="data-row"]', has_text="brainstem").click()
    page.locator('[data-cy="Brush"]').click()
    page.wait_for_timeout(1000)
    page.mouse.move(860, 330)
    page.mouse.down()
    page.mouse.move(960, 330, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)
    views(page, "corrected")
    shown = page.locator(SLICE).first.inner_text()  # choosing a segment goes to its slices
    painted = int(re.search(r"\((\d+)/", shown).group(1))

    ask_to_export(page)
    page.locator("input[type=text]").last.fill("corrected")
    with page.expect_response(re.compile("/proxy/dicom/wado/studies")) as stored:
        page.get_by_role("button", name="Save").click()
    assert stored.value.ok
    assert len(hospital.labeled()) == done + 1  # counted at once

    label = hospital.final(unlabeled)
    expected = np.zeros_like(label)
    for name, value in (("cerebellum", 1), ("brainstem", 2)):
        expected[before == names.get(name, -1)] = value
    slices = np.unique(np.argwhere(label != expected)[:, 2])
    headers = hospital.series[unlabeled].headers
    assert [int(headers[k].InstanceNumber) for k in slices] == [painted]
    assert set(np.unique(label[label != expected])) == {2}
