"""lora_scratch/reporting/page.py: escaping, the one script, and the line about the file."""

import base64
import hashlib
import re
import subprocess
import sys
from urllib.parse import unquote

from support.report_pages import EVIL, Outline, report

from lora_scratch.evaluation import Table
from lora_scratch.reporting import Page, Section, page_html, run_page, write_page
from lora_scratch.reporting.opening import Opening, Track
from lora_scratch.reporting.page import Filter, Listing

TEXT = "<b>&\"'</b>"


def everywhere(text):
    table = Listing(text, Table([text, text], [[text, text]]), texts=True, filter=Filter([text], [text], [(0, [0])]))
    tracks = Opening(text, text, [(text, [Track(text, text, 0.1, 0.2, (text, text))])])
    sections = [Section(text, [text], (), [table, table])]
    return Page(text, (text, text), sections, text, opening=tracks, facts=[(text, text)])


def test_page_escapes_every_text():
    """Title, answer, sentences, headings, cells, footer: what goes in comes out as text."""
    outline = Outline(page_html(everywhere(TEXT)))
    assert outline.all("b") == []
    assert sum(words.count(TEXT) for words in outline.words) == 32


def test_page_runs_the_script_of_the_package_and_no_other():
    """The policy allows one script by its digest; a page that filters nothing has none, and allows none."""
    html = page_html(run_page(report()))
    (script,) = re.findall("<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html.replace("&#39;", "'")
    assert EVIL not in script
    plain = page_html(Page("a", ("b", "c"), [Section("d")]))
    assert "<script" not in plain
    assert "script-src 'none';" in plain.replace("&#39;", "'")


def test_write_page_says_where_a_browser_finds_it(tmp_path):
    """One line with an address that can be clicked; the file is whole."""
    path = tmp_path / "ä b.html"
    line = write_page(path, everywhere("x"))
    assert line.startswith("page: file:///")
    assert " " not in line.removeprefix("page: ")
    assert unquote(line).endswith(str(path))
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_drawing_is_imported_where_it_is_used():
    """matplotlib and jinja2 cost nothing until a page is made."""
    names = "import lora_scratch.reporting, sys; print({'matplotlib', 'jinja2'} & set(sys.modules) - before)"
    command = f"import torch, sys, lora_scratch.evaluation; before = set(sys.modules); {names}"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
