"""A page of sentences, pictures and tables; the template page.html escapes every text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluation import Table
from ..runtime import extras
from ..runtime.atomic import write_text

TEMPLATE = "page.html"


@dataclass(frozen=True)
class Picture:
    """A drawing, the same in words, and its figures as a table.

    Args:
        svg: an <svg> element, not escaped: only `drawing.svg` may make one.
    """

    title: str
    svg: str
    words: str
    table: Table


@dataclass(frozen=True)
class Listing:
    """A table under a heading; `texts` if its cells hold text, not figures."""

    title: str
    table: Table
    texts: bool = False


@dataclass(frozen=True)
class Section:
    """Sentences, pictures and tables, shown in this order."""

    title: str
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    listings: Sequence[Listing] = ()


@dataclass(frozen=True)
class Page:
    """Title, answer (a word and a sentence), sections, and a last line with the source."""

    title: str
    answer: tuple[str, str]
    sections: Sequence[Section]
    source: str = ""


def missing_packages() -> list[str]:
    """Return the packages that a page needs and that are not installed."""
    return extras.missing_packages("report")


def check_installed(flag: str) -> None:
    """Raise a ConfigError about `flag` if a package of the extra `report` is not installed."""
    extras.check_extra("report", flag=flag)


def page_html(page: Page) -> str:
    """Return the page as one HTML document: no script, no outside resources."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # an extra

    loader = PackageLoader("lora_scratch", "reporting")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE).render(page=page)


def write_page(path: Path, page: Page) -> None:
    """Write the page to `path` atomically."""
    write_text(path, page_html(page))


def write_page_if_possible(path: Path, make: Callable[[], Page]) -> str:
    """Write the page if its packages are installed. Return a line that says whether it was."""
    if absent := missing_packages():
        remedy = extras.install_command("report")
        return f"{path} was not written: {' and '.join(absent)} not installed; {remedy}"
    write_page(path, make())
    return f"page: {path}"
