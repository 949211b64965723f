"""The built documentation: without a warning, light, and whole in a real browser. Skipped without the extra `docs`."""

import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("mkdocs_jupyter", reason="mkdocs is not installed (extra `docs`)")
pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocs is not installed (extra `docs`)")
ROOT = Path(__file__).parent.parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("LORA_SCRATCH_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: CONTRIBUTING.md says how to get one")
PAGES = ["", "inside/", "gallery/", "study/", "how-to/own-data/", "results/study/", "results/benchmark/"]
SCROLLED = """[...document.querySelectorAll('.md-content *')].filter(part => part.scrollWidth > part.clientWidth + 2
    && part.clientWidth > 0 && ['auto', 'scroll'].includes(getComputedStyle(part).overflowX)).length"""
DRAWN = "[...document.querySelectorAll('.md-content img')].every(picture => picture.naturalWidth > 0)"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages, built with --strict."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    built = subprocess.run(mkdocs, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@contextmanager
def served(folder):
    """Serve a folder on loopback; yield the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    """A tab, the address of the pages, and all that the tab fetched or complained of since it was last emptied."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `browser`)")
    fetched, said = [], []
    with served(site) as address, playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--single-process", "--no-zygote", "--disable-gpu"]
        started = driver.chromium.launch(executable_path=BROWSER, args=flags)
        tab = started.new_page()
        tab.on("request", lambda request: fetched.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        yield tab, address, fetched, said
        started.close()


def test_documentation_builds_without_a_warning(site):
    """`mkdocs build --strict`; the reference is made from the docstrings."""
    assert "LoRALinear" in (site / "reference" / "layers" / "index.html").read_text(encoding="utf-8")


@needs_browser
@pytest.mark.parametrize("page", PAGES)
def test_page_is_whole_in_a_browser(browser, page):
    """Formulas and pictures are drawn, nothing comes from another site, nothing scrolls sideways at 1,300 pixels."""
    tab, address, fetched, said = browser
    fetched.clear()
    said.clear()
    tab.set_viewport_size({"width": 1300, "height": 900})
    tab.goto(address + page, wait_until="networkidle")
    assert tab.evaluate(SCROLLED) == 0
    assert tab.evaluate(DRAWN)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1300
    assert tab.locator(".katex-error").count() == 0
    assert tab.locator(".arithmatex").count() == tab.locator(".arithmatex .katex-html").count()
    assert all(url.startswith((address, "data:")) for url in fetched)
    assert said == []


@needs_browser
def test_home_is_light(browser, site):
    """All that the first page fetches is under 1 MB, the search index and what a cache holds included."""
    tab, address, _, _ = browser
    tab.goto(address, wait_until="networkidle")
    urls = set(tab.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)"))
    worker = f"assets/javascripts/workers/{next((site / 'assets/javascripts/workers').glob('*.js')).name}"
    names = {url.removeprefix(address) for url in urls} | {"index.html", "search/search_index.json", worker}
    assert {"assets/katex/katex.min.js", "assets/confusion.svg"} <= names
    assert sum((site / name).stat().st_size for name in names) < 1_000_000


def test_links_between_built_pages_lead_somewhere(site):
    """In pages and in notebooks; a folder has its index.html."""
    for page in site.rglob("index.html"):
        html = page.read_text(encoding="utf-8")
        for link in re.findall(r'<(?:a|img)\b[^>]*?(?:href|src)="([^"#?:]+)(?:#[^"]*)?"', html):
            target = (page.parent / link).resolve()
            assert target.is_file() or (target / "index.html").is_file(), f"{page.relative_to(site)}: {link}"
