"""A page of sentences, pictures and tables; the template page.html escapes every text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from ..evaluation import Table
from ..runtime.atomic import write_text
from .opening import Opening

TEMPLATE = "page.html"


@dataclass(frozen=True)
class Picture:
    """A drawing, the same in words, and its figures as a table.

    Args:
        svg: an element, not escaped: only drawing.py may make one.
    """

    title: str
    svg: str
    words: str
    table: Table


@dataclass(frozen=True)
class Filter:
    """What a reader can choose the rows of a listing by.

    Args:
        kinds: the names of the kinds of rows; `labels` the names of the labels.
        rows: for every row the number of its kind, and the numbers of its labels.
    """

    kinds: Sequence[str]
    labels: Sequence[str]
    rows: Sequence[tuple[int, Sequence[int]]]


@dataclass(frozen=True)
class Listing:
    """A table under a heading; `texts` if its cells hold text, not figures."""

    title: str
    table: Table
    texts: bool = False
    filter: Filter | None = None


@dataclass(frozen=True)
class Section:
    """Sentences, pictures and tables, shown in this order."""

    title: str
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    listings: Sequence[Listing] = ()


@dataclass(frozen=True)
class Page:
    """Title, answer (a word and a sentence), sections, and a last line with the source.

    Args:
        opening: the picture above the answer. The sections of a page that has one are folded.
        facts: a few figures below the answer, each with its name.
    """

    title: str
    answer: tuple[str, str]
    sections: Sequence[Section]
    source: str = ""
    opening: Opening | None = None
    facts: Sequence[tuple[str, str]] = ()


def page_html(page: Page) -> str:
    """Return the page as one HTML document. Nothing outside it is loaded, and its one script is in the package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # slow to import

    loader = PackageLoader("lora_scratch", "reporting")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    styles, script = _resource("page.css"), _resource("filter.js")
    filtered = any(listing.filter for section in page.sections for listing in section.listings)
    template = environment.get_template(TEMPLATE)
    return template.render(page=page, styles=styles, script=script if filtered else "", digest=_digest(script))


def write_page(path: Path, page: Page) -> str:
    """Write the page to `path` atomically. Return a line with its address for a browser."""
    write_text(path, page_html(page))
    return f"page: {path.resolve().as_uri()}"


@cache
def _resource(name: str) -> str:
    return (files("lora_scratch.reporting") / name).read_text(encoding="utf-8").strip()


def _digest(script: str) -> str:
    """Return the digest by which the page's content security policy allows this script and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
