"""The page in a real headless browser. Skipped where there is none, as tests/reporting/test_browser.py."""

import os
import re
import shutil
import threading

import pytest
import uvicorn

from lora_scratch.play.server import listen, make_app
from lora_scratch.play.state import State

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `browser`)")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("LORA_SCRATCH_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: CONTRIBUTING.md says how to get one")
CHECKED = "e => e.getAttribute('aria-checked')"


@pytest.fixture(scope="module")
def address(playground):
    """The address of a server in a thread."""
    with listen() as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(make_app(playground, port=port), lifespan="off", ws="none", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def tab(address):
    """One tab, and all that it complained of or asked for elsewhere."""
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--single-process", "--no-zygote", "--disable-gpu"]  # for containers
        browser = driver.chromium.launch(executable_path=BROWSER, args=flags)
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        yield page, said
        browser.close()


@pytest.fixture
def page(tab, address):
    """The page, freshly loaded and answered. It asks no other server, and the console has a line for a wrong text alone."""
    page, said = tab
    said.clear()
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(address)
    page.locator("#status", has_text="answered").wait_for()
    yield page
    allowed = (address, "data:", "Failed to load resource: the server responded with a status of 400")
    assert [line for line in said if not line.startswith(allowed)] == []


def shown(page):
    """Label -> number of the adapted model, as the page shows it."""
    rows = page.locator("#scores tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").nth(2).inner_text().removesuffix(" ✓") for row in rows}


def until(page, playground, state):
    """Wait until the page shows the numbers of this state, and check all of them."""
    answer = playground.answer(state)
    expected = {label: f"{score:.4f}" for label, score in answer["adapted"]["scores"].items()}
    page.locator("#code", has_text=answer["code"].strip().splitlines()[-2]).wait_for()
    for label, score in expected.items():
        row = page.locator("#scores tbody tr", has=page.locator("th", has_text=re.compile(f"^{label}$")))
        playwright.expect(row.locator("td").nth(2)).to_have_text(score)
    assert shown(page) == expected
    playwright.expect(page.locator("#code")).to_have_text(answer["code"])


def typed(page, **changes):
    """The state that the page starts in, with changes."""
    return State(
        "single", page.locator("#text").input_value(), **{"module": page.locator("#module").input_value()} | changes
    )


def test_page_shows_the_numbers_of_the_server(page, playground):
    """At the start: the first fixed row, as trained."""
    until(page, playground, typed(page))


def test_strength_moves_by_arrow_keys_from_end_to_end(page, playground):
    """From -0.5 to 2 in steps of 0.05."""
    dial = page.locator("#strength")
    dial.focus()
    page.keyboard.press("ArrowRight")
    until(page, playground, typed(page, strength=1.05))
    page.keyboard.press("Home")
    until(page, playground, typed(page, strength=-0.5))
    page.keyboard.press("End")
    until(page, playground, typed(page, strength=2))


def test_rank_dial_and_reset(page, playground):
    """The lowest rank, and as trained again."""
    page.locator("#rank").focus()
    page.keyboard.press("Home")
    until(page, playground, typed(page, rank=1))
    page.get_by_role("button", name="As trained").click()
    until(page, playground, typed(page))


def test_switches_work_by_keyboard(page, playground):
    """Arrow keys move, space switches one module, a heading its whole projection; one stop of Tab."""
    names = [row.name for row in playground.adapters["single"].summaries]
    switches = page.locator("#grid [role=switch]")
    assert page.locator("#grid [tabindex='0']").count() == 1
    switches.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    until(page, playground, typed(page, off=(names[1],)))
    assert [switch.evaluate(CHECKED) for switch in switches.all()[:3]] == ["true", "false", "true"]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    kind = names[1].rpartition(".")[2]
    others = [name for name in names if name.endswith(kind) and name != names[1]]
    until(page, playground, typed(page, off=(names[1], *others)))


def test_token_and_module_choose_the_numbers_inside(page, playground):
    """By keyboard for tokens; the steps are those of the server."""
    name = playground.adapters["single"].summaries[2].name
    page.locator("#module").select_option(name)
    until(page, playground, typed(page, module=name))
    page.locator("#tokens [tabindex='0']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    until(page, playground, typed(page, module=name, row=0))
    steps = playground.answer(typed(page, module=name, row=0))["steps"]
    rows = page.locator("#steps tbody tr").all()
    assert [row.locator("th").inner_text() for row in rows] == [step["symbol"] for step in steps]
    cells = [[cell.inner_text().replace("−", "-") for cell in row.locator("td").all()[3:]] for row in rows]
    assert cells == [[f"{value:+.4f}" for value in step["numbers"]] for step in steps]
    assert page.evaluate("document.activeElement.parentElement.id") == "tokens"


def test_text_that_is_wrong_says_so_and_the_next_is_answered(page, playground):
    """The last numbers stay meanwhile."""
    page.locator("#text").fill("")
    page.locator("#status.wrong", has_text="the text").wait_for()
    page.locator("#text").fill("i am so happy")
    page.locator("#status:not(.wrong)", has_text="answered").wait_for()
    until(page, playground, typed(page))


@pytest.mark.parametrize("kind", ["several", "number", "pair"])
def test_every_task_is_shown_in_its_way(kind, page, playground):
    """Bars with thresholds, a scale, or a second text; a row of the run is chosen by arrow keys."""
    page.locator("#adapter").select_option(kind)
    page.locator("#about", has_text=str(playground.adapters[kind].saved.folder)).wait_for()
    page.locator("#code", has_text=str(playground.adapters[kind].saved.folder)).wait_for()
    assert page.locator("#scale").is_visible() == (kind == "number")
    assert page.locator(".track u").count() == (6 if kind == "several" else 0) // 2
    assert page.locator("#pair").is_visible() == (kind == "pair")
    lists = playground.adapters[kind].description(kind)["changed"]["lists"]
    rows = lists[0] or lists[1]
    page.locator("#rows").select_option(index=0)
    first, second = (*rows[0]["texts"], None)[:2]
    answer = playground.answer(State(kind, first, second, module=page.locator("#module").input_value()))
    playwright.expect(page.locator("#code")).to_have_text(answer["code"])
    assert list(shown(page).values()) == [f"{score:.4f}" for score in answer["adapted"]["scores"].values()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1000, 390])
def test_page_fits_the_screen(width, scheme, page):
    """Nothing wider than the screen; ink differs from paper; every field has a name."""
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (sum(map(int, paper[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))) == (scheme == "light")
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter(e => !e.labels.length).map(e => e.id)"
    assert page.evaluate(unnamed) == []


def test_what_is_focused_has_an_outline(page):
    """Wherever Tab stops."""
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
