"""A page: sections of sentences, pictures and tables, filled into page.html. Every text is escaped there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..evaluation import Table
from ..runtime.atomic import write_text
from ..runtime.extras import missing, remedy

REMEDY = remedy("report")
TEMPLATE = "page.html"


@dataclass(frozen=True)
class Picture:
    """A drawing, what it shows in words, and the figures in it.

    Args:
        svg: an <svg> element. It is put into the page as it stands: only `drawing.svg` makes one.
    """

    title: str
    svg: str
    words: str
    table: Table


@dataclass(frozen=True)
class Listing:
    """A table under a heading; `texts` if its cells are words rather than figures."""

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
    """A title, the answer (a word and a sentence), the sections, and a last line that says where it all comes from."""

    title: str
    answer: tuple[str, str]
    sections: Sequence[Section]
    source: str = ""


def missing_packages() -> list[str]:
    """What has to be installed before a page can be made."""
    return missing("report")


def check_installed(flag: str) -> None:
    """Refuse `flag` before the work whose page could not be made.

    Raises:
        ConfigError: a package of the extra `report` is not installed.
    """
    if absent := missing_packages():
        raise ConfigError(f"{' and '.join(absent)} not installed", where=flag, remedy=REMEDY)


def page_html(page: Page) -> str:
    """The page as one HTML document: no script, nothing from anywhere else."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: an extra

    environment = Environment(
        loader=PackageLoader("lora_scratch", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(page=page)


def write_page(path: Path, page: Page) -> None:
    """Write the page to `path`, whole or not at all."""
    write_text(path, page_html(page))


def write_page_if_possible(path: Path, make: Callable[[], Page]) -> str:
    """Write the page if its packages are there; either way a line that says what came of it."""
    if absent := missing_packages():
        return f"{path} was not written: {' and '.join(absent)} not installed; {REMEDY}"
    write_page(path, make())
    return f"page: {path}"
