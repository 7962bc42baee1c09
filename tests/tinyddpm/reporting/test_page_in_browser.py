"""The page in headless Chromium: pointer, keys, colours, widths, and not one error or request."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.tinyddpm.tiny_runs import QUICK, UNET_OPTIONS, succeed

driver = pytest.importorskip("playwright.sync_api", reason="no playwright; run: pip install -e '.[browser]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; install the system's package `chromium`")
# Root has no sandbox, and no test looks anything up
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
# Collects how far anything moved on its own
SHIFTS = """
globalThis.shifts = [];
new PerformanceObserver((list) => shifts.push(...list.getEntries().map((entry) => entry.value)))
  .observe({type: "layout-shift", buffered: true});
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run with curves, classes and measurements."""
    run = tmp_path_factory.mktemp("runs") / "labelled"
    succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 30, "--validate-every", 10, "--out", run)
    measure = ["-n", 20, "--steps", 2, "--levels", 3, "--bits", "--bits-images", 4, "--bits-terms", 6]
    succeed("evaluate", run, *measure, "--backend", "numpy")
    succeed("report", run, "--backend", "numpy", "--steps", 10)
    return (run / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driver.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """opened(**options) is the page in a window of its own, which must have logged and requested nothing at the end."""
    heard: list[str] = []
    contexts = []

    def open_page(width: int = 1400, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:") or heard.append(request.url))
        page.add_init_script(SHIFTS)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == [address] * len(contexts)


def test_the_slider_moves_every_picture(opened: Any) -> None:
    page = opened()
    strips = page.locator(".strip")
    before = [strips.nth(i).screenshot() for i in (0, 1, 5)]
    page.locator("#frame").focus()
    page.keyboard.press("Home")
    assert page.locator("#share").text_content() == "10 % of the steps"
    noise = [strips.nth(i).screenshot() for i in (0, 1, 5)]
    assert all(a != b for a, b in zip(before, noise, strict=True))
    page.keyboard.press("End")
    assert [strips.nth(i).screenshot() for i in (0, 1, 5)] == before
    page.keyboard.press("ArrowLeft")
    assert page.locator("#share").text_content() == "90 % of the steps"
    assert page.locator("#frame").get_attribute("aria-valuetext") == "90 % of the steps"


def test_it_plays_to_the_end_and_stops(opened: Any) -> None:
    page = opened()
    page.locator("#play").click()
    assert page.locator("#play").text_content() == "Stop"
    driver.expect(page.locator("#play")).to_have_text("Play", timeout=20_000)
    assert page.locator("#share").text_content() == "100 % of the steps"


def test_a_sample_is_shown_large(opened: Any) -> None:
    page = opened()
    button = page.locator("#strips button").nth(3)
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#strips [aria-pressed=true]").count() == 1
    assert page.locator("#large").get_attribute("aria-label") == "sample 4 on its way, 3, large"
    of = "e => getComputedStyle(e).backgroundImage"
    assert page.locator("#large").evaluate(of) == button.locator(".strip").evaluate(of)


def test_a_curve_tells_its_values(opened: Any) -> None:
    page = opened()
    logged = page.evaluate("JSON.parse(document.getElementById('values').textContent)[0].lines[0].y")
    canvas, readout = page.locator("#plot-0 .canvas"), page.locator("#plot-0 .readout")
    canvas.focus()
    for key, step in (("Home", 30), ("Home", 1), ("ArrowRight", 2), ("End", 30), ("ArrowLeft", 29)):
        page.keyboard.press(key)
        shown = readout.text_content()
        assert shown.startswith(f"step {step}: loss of a step {float(f'{logged[step - 1]:.4g}'):g}"), shown
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 9.1 / 29, box["y"] + 20)
    assert readout.text_content().startswith("step 10: ")
    assert "held-out images, averaged weights" in readout.text_content()


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_wider_than_the_window_or_moves(opened: Any, width: int) -> None:
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    height = page.evaluate("document.documentElement.scrollHeight")
    for i in range(page.locator(".plot").count()):
        page.locator(f"#plot-{i} .canvas").hover()
    page.locator("#frame").press("Home")
    assert page.evaluate("document.documentElement.scrollHeight") == height
    assert page.evaluate("shifts") == []


def test_light_and_dark(opened: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(color_scheme=scheme) for scheme in ("light", "dark"))
    white, black = light.evaluate(ground), dark.evaluate(ground)
    assert (white, black) == ("rgb(255, 255, 255)", "rgb(22, 24, 28)")
    light.locator("#theme").select_option("dark")
    assert light.evaluate(ground) == black
    dark.locator("#theme").select_option("light")
    assert dark.evaluate(ground) == white
    dark.locator("#theme").select_option("as the system")
    assert dark.evaluate(ground) == black


def test_the_page_says_all_without_scripts(opened: Any) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("#plot-0 svg path.line").count() == 3
    assert page.locator(".tiles img").count() > 16
