"""Every kind of page in a real headless browser. Skipped where there is none: the extra `browser`, and a Chromium, which is
looked for on the path and at $LORA_SCRATCH_BROWSER (CONTRIBUTING.md says how to get one)."""

import os
import shutil

import pytest
from support.every_page import pages

from lora_scratch.reporting import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `browser`)")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("LORA_SCRATCH_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: CONTRIBUTING.md says how to get one")
KINDS = {  # and its pictures
    "run": 7,
    "evaluation": 2,
    "several labels": 1,
    "number": 1,
    "comparison": 2,
    "anatomy": 2,
    "ablation": 3,
    "section 7": 9,
}
FOLDED = ("run", "evaluation", "several labels", "number")
OPEN = "document.querySelectorAll('details.fold').forEach(fold => fold.open = true)"
CLOSE = "document.querySelectorAll('details').forEach(fold => fold.open = false)"
HIDDEN = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0).length"
OUTLINE = "[document.activeElement.tagName, parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"


@pytest.fixture(scope="module")
def browser():
    """One for all pages."""
    with playwright.sync_playwright() as driver:
        # single-process: for containers, where a browser of several can't start
        flags = ["--no-sandbox", "--single-process", "--no-zygote", "--disable-gpu"]
        started = driver.chromium.launch(executable_path=BROWSER, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="module")
def tab(browser):
    """One tab, and all that it complained of since it was last emptied."""
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    return page, said


@pytest.fixture(scope="module", params=KINDS)
def opened(request, tab, tmp_path_factory):
    """The page of a kind in the browser."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, pages()[request.param])
    page, said = tab
    said.clear()
    page.goto(path.as_uri())
    page.evaluate(OPEN)
    return page, said, request.param


def test_every_kind_of_page_is_opened():
    """None is forgotten."""
    assert set(KINDS) == set(pages())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_page_renders_whole_in_a_browser(opened, scheme, width):
    """No complaint, no request, every picture drawn, nothing wider than the screen, ink that differs from paper."""
    page, said, kind = opened
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    boxes = [picture.bounding_box() for picture in page.locator("[role=img]").all()]
    assert len(boxes) == KINDS[kind]
    assert all(box["width"] > 300 and box["height"] > 60 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (sum(map(int, paper[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))) == (scheme == "light")
    assert said == []


def test_pictures_and_their_parts_are_drawn_and_have_words(opened):
    """Each <svg> says what it shows; each bitmap in one has pixels; there is no <img> without a text."""
    page, _, _ = opened
    assert all(len(svg.get_attribute("aria-label")) > 20 for svg in page.locator("[role=img]").all())
    assert page.locator("img:not([alt])").count() == 0
    sizes = "Promise.all([...document.querySelectorAll('svg image')].map(async part => { const i = new Image();"
    sizes += " i.src = part.href.baseVal; await i.decode(); return i.naturalWidth }))"
    assert all(width > 0 for width in page.evaluate(sizes))


def test_answer_is_the_first_that_is_read(opened):
    """On a phone too, all of it is on the first screen (below two drawings on the second); headings follow."""
    page, _, kind = opened
    page.set_viewport_size({"width": 360, "height": 800})
    answer = page.locator(".answer").bounding_box()
    assert answer["y"] + answer["height"] < (1400 if kind == "number" else 800)
    assert page.locator("h1").count() == 1
    assert page.locator("h2").count() == page.locator("section").count() > 0


def test_first_figures_of_wide_tables_are_seen_on_a_phone(opened):
    """A long name in the first column wraps instead of pushing every figure off the screen."""
    page, _, _ = opened
    page.set_viewport_size({"width": 360, "height": 800})
    page.evaluate("for (const each of document.querySelectorAll('.scroll')) each.scrollLeft = 0")
    cells = [cell.bounding_box() for cell in page.locator("section .scroll:not(.texts) tbody td:nth-child(2):visible").all()]
    assert cells
    assert all(box["x"] + box["width"] <= 360 for box in cells)


def test_tab_reaches_links_and_what_scrolls_and_shows_where_it_is(opened):
    """Every stop has an outline; links, summaries and whatever hides a part of itself are among the stops."""
    page, _, _ = opened
    page.set_viewport_size({"width": 360, "height": 800})
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    stops = []
    for _ in range(page.locator("a, summary, .scroll, select, input").count()):
        page.keyboard.press("Tab")
        stops.append(tuple(page.evaluate(OUTLINE)))
    links = {"A"} if page.locator("a").count() else set()
    assert {"SUMMARY", "DIV"} | links <= {name for name, _ in stops}
    assert all(outline >= 2 for name, outline in stops if name != "BODY")
    assert page.evaluate(HIDDEN) == 0


def test_page_opens_its_tables_by_keyboard(opened):
    """Enter on a summary shows the figures."""
    page, _, _ = opened
    page.evaluate(CLOSE)
    details = page.locator("details").first
    details.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert details.get_attribute("open") is not None
    assert details.locator("table").first.is_visible()
    page.evaluate(OPEN)


def test_page_in_print_shows_its_sections_and_nothing_to_click(opened):
    """What is folded on a screen is paper's to show; a picture's figures as a table are not printed a second time."""
    page, _, _ = opened
    page.evaluate(CLOSE)
    page.emulate_media(media="print")
    assert not page.locator("nav, .filter, figure details").locator("visible=true").count()
    assert all(table.bounding_box()["height"] > 20 for table in page.locator("section > details .scroll table").all()[:1])
    assert page.locator("section").last.locator("table").last.bounding_box()["height"] > 20
    page.emulate_media(media="screen")
    page.evaluate(OPEN)


def test_print_keeps_pictures_and_numbers_whole_and_fits_the_sheet(opened):
    """No page break within a picture, though there may be one in the table below it; no line break within a number."""
    page, _, _ = opened
    page.set_viewport_size({"width": 688, "height": 900})  # A4 less its margins, 182 mm
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('figure')).breakInside") == "auto"
    assert page.evaluate("getComputedStyle(document.querySelector('figure svg')).breakInside") == "avoid"
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll:not(.texts) td')).whiteSpace") == "nowrap"
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    page.emulate_media(media="screen")


@pytest.fixture
def folded(tab, tmp_path):
    """The page of a run as it opens, on a laptop."""
    page, _ = tab
    page.set_viewport_size({"width": 1440, "height": 900})
    write_page(tmp_path / "report.html", pages()["run"])
    page.goto((tmp_path / "report.html").as_uri())
    return page


@pytest.mark.parametrize("kind", FOLDED)
def test_the_first_fold_is_on_the_first_three_screens(tab, tmp_path, kind):
    """Picture, verdict, a few figures; everything else is closed."""
    page, _ = tab
    page.set_viewport_size({"width": 1440, "height": 900})
    write_page(tmp_path / "report.html", pages()[kind])
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("details").first.bounding_box()["y"] < 2700
    assert page.locator("details[open]").count() == 0
    assert page.locator(".opening").bounding_box()["y"] < page.locator(".answer").bounding_box()["y"]


def test_dots_are_where_the_figures_say(folded):
    """The full dot of `all rows` stands at its share of the track, right of the hollow one."""
    row = folded.locator(".tracks tbody tr").first
    rail, before, after = (row.locator(name).bounding_box() for name in (".rail", "circle.before", "circle.after"))
    share = float(row.locator(".new").inner_text().rstrip("%")) / 100
    assert (after["x"] + after["width"] / 2 - rail["x"]) / rail["width"] == pytest.approx(share, abs=0.02)
    assert before["x"] < after["x"]


def shown(page):
    """Return the cells of the rows that are shown."""
    return [row.locator("th, td").all_inner_texts() for row in page.locator(".filtered tbody tr:visible").all()]


def test_rows_are_filtered_by_kind_label_and_words(folded):
    """Each choice leaves the rows that have it, together those that have all; the count says how many."""
    folded.evaluate(OPEN)
    every = shown(folded)
    choices = folded.locator(".filter")
    assert choices.locator("output").inner_text() == f"{len(every)} of {len(every)} rows"
    choices.locator("select[name=kind]").select_option("broken")
    assert shown(folded) == [row for row in every if row[0] == "broken"]
    choices.locator("select[name=kind]").select_option("fixed")
    choices.locator("select[name=label]").select_option("joy")
    assert shown(folded) == [row for row in every if row[0] == "fixed" and row[2] == "joy"]
    choices.locator("select[name=label]").select_option("")
    choices.locator("input").fill("ROW 1")
    assert shown(folded) == [row for row in every if row[5].startswith("row 1")]
    assert choices.locator("output").inner_text() == f"{len(shown(folded))} of {len(every)} rows"
    choices.locator("input").press("Enter")
    assert folded.url.startswith("file:")
    assert "?" not in folded.url


def test_a_foreign_script_is_not_run(folded):
    """The policy of the page holds in the browser: a script that is added does nothing."""
    add = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    folded.evaluate(add)
    assert folded.evaluate("window.ran") is None


def test_page_without_scripts_shows_every_row_and_no_filter(browser, tmp_path):
    """A choice that does nothing is not offered."""
    path = tmp_path / "report.html"
    write_page(path, pages()["run"])
    html = path.read_text(encoding="utf-8")
    path.write_text(html.replace("<script>", "<script>;"), encoding="utf-8")  # another digest: the policy forbids it
    page = browser.contexts[0].pages[0]
    page.goto(path.as_uri())
    page.evaluate(OPEN)
    assert not page.locator(".filter").is_visible()
    assert page.locator(".filtered tbody tr:visible").count() > 20
