"""lora_scratch/reporting/page.py: escaping, and what happens without the extra."""

import subprocess
import sys

import pytest
from support.report_pages import Outline

from lora_scratch.errors import ConfigError
from lora_scratch.evaluation import Table
from lora_scratch.reporting import Page, Section, check_installed, page_html, write_page_if_possible
from lora_scratch.reporting.page import Listing
from lora_scratch.runtime import extras

TEXT = "<b>&\"'</b>"


def everywhere(text):
    table = Listing(text, Table([text, text], [[text, text]]), texts=True)
    return Page(text, (text, text), [Section(text, [text], (), [table])], text)


def test_page_escapes_every_text():
    """Title, answer, sentences, headings, cells, footer: what goes in comes out as text."""
    outline = Outline(page_html(everywhere(TEXT)))
    assert outline.all("b") == []
    assert sum(words.count(TEXT) for words in outline.words) == 13


def test_page_is_not_offered_without_its_packages(monkeypatch, tmp_path):
    """Training does not fail for want of a picture: one line says what to install, and nothing is written."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "matplotlib" else object())
    said = write_page_if_possible(tmp_path / "report.html", lambda: pytest.fail("made"))
    assert said == f'{tmp_path}/report.html was not written: matplotlib not installed; pip install "lora-scratch[report]"'
    assert list(tmp_path.iterdir()) == []


def test_check_installed_refuses_a_flag_without_its_packages(monkeypatch):
    """A page that was asked for is an error before the work."""
    check_installed("--html")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"--html: jinja2 and matplotlib not installed; pip install .lora-scratch\[report\]"
    ):
        check_installed("--html")


def test_offer_page_writes_it_whole(tmp_path):
    """And says where."""
    assert write_page_if_possible(tmp_path / "report.html", lambda: everywhere("x")) == f"page: {tmp_path}/report.html"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_drawing_is_imported_where_it_is_used():
    """The room can be imported without the extra, and costs nothing until a page is made."""
    names = "import lora_scratch.reporting, sys; print({'matplotlib', 'jinja2'} & set(sys.modules) - before)"
    command = f"import torch, sys, lora_scratch.evaluation; before = set(sys.modules); {names}"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
