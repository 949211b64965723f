"""The page of a run in a real headless browser. Skipped where there is none: the extra `browser`, and a Chromium, which is
looked for on the path and at $LORA_SCRATCH_BROWSER."""

import os
import shutil

import pytest
from report_pages import events, module, report

from lora_scratch.reporting import run_page, write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `browser`)")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("LORA_SCRATCH_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The page in a browser, and all that the browser complained of."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, run_page(report(anatomy=[module("e.layer.0.q"), module("e.layer.1.q")]), events()))
    with playwright.sync_playwright() as driver:
        # single-process: for containers, where a browser of several can't start
        flags = ["--no-sandbox", "--single-process", "--no-zygote", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path=BROWSER, args=flags)
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None
        )
        page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        page.goto(path.as_uri())
        yield page, said
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 375])
def test_page_renders_whole_in_a_browser(opened, scheme, width):
    """No complaint, no request, every picture drawn, nothing wider than the screen, ink that differs from paper."""
    page, said = opened
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    boxes = [picture.bounding_box() for picture in page.locator("svg[role=img]").all()]
    assert len(boxes) == 7
    assert all(box["width"] > 300 and box["height"] > 60 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (sum(map(int, paper[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))) == (scheme == "light")
    assert said == []


def test_page_opens_its_tables_by_keyboard(opened):
    """Enter on a summary shows the figures."""
    page, _ = opened
    details = page.locator("details").first
    details.locator("summary").focus()
    page.keyboard.press("Enter")
    assert details.get_attribute("open") is not None
    assert details.locator("table").is_visible()


def test_page_in_print_shows_its_tables_and_no_links(opened):
    """What is folded on a screen is paper's to show."""
    page, _ = opened
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("details").last.locator("table").bounding_box()["height"] > 20
    page.emulate_media(media="screen")
