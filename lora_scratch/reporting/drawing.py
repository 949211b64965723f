"""Drawings by matplotlib as inline SVG, with ink in the page's color (light or dark theme)."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

INK = "#010203"  # replaced by the page's color when the drawing is done
COLOURS = ("#3b8ad9", "#e07b28", "#2fa36b", "#b45fc9", "#8a8f98", "#d94f6b", "#9c8a1f", "#1aa3a8")  # on white and on black
HEAT = "#3b8ad9"
WIDTH = 7.0  # inches, with letters of 10 points: readable on a phone
PANEL = 4.2  # of a panel that is an <svg> of its own


@dataclass(frozen=True)
class Line:
    """A curve and its name; `quiet` for a line of reference."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    quiet: bool = False


@contextmanager
def _style() -> Iterator[None]:
    """Draw in the page's colors and letters."""
    import matplotlib as mpl  # slow to import
    from matplotlib.rcsetup import cycler

    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    # parse_math: a dollar in a label is a dollar
    settings = dict.fromkeys(inks, INK) | {"svg.fonttype": "none", "text.parse_math": False}
    quiet = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    sizes = {"font.size": 10, "axes.titlesize": 10, "axes.prop_cycle": cycler(color=COLOURS)}
    with mpl.rc_context({**settings, **quiet, **sizes}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has its own fonts
        yield


def svg(draw: Callable[[list[Any]], object], *, words: str, panels: int = 1, height: float = 3.2) -> str:
    """Return what `draw` draws as an <svg> element; `words` is its label for screen readers."""
    with _style():
        figure = _figure(WIDTH, height)
        draw(list(figure.subplots(1, panels, squeeze=False)[0]))
        return f'<svg role="img" aria-label={quoteattr(words)}{_element(figure, words)}'


def panels_svg(draw: Callable[[list[Any]], object], *, words: str, panels: int, height: float = 3.2) -> str:
    """Return a drawing as `svg` does, but each panel as an <svg> of its own, which a phone shows one below the other."""
    with _style():
        figures = [_figure(PANEL, height) for _ in range(panels)]
        draw([figure.subplots() for figure in figures])
        elements = [_element(figure, f"{number} {words}") for number, figure in enumerate(figures)]
    drawn = "".join(f'<svg aria-hidden="true"{element}' for element in elements)
    return f'<div class="panels" role="img" aria-label={quoteattr(words)}>{drawn}</div>'


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _element(figure: Any, salt: str) -> str:
    """Return the figure's <svg> element without `<svg`, in the page's color.

    Args:
        salt: what its ids are made of: the same for the same drawing, another for each drawing of a page.
    """
    import matplotlib as mpl

    content = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = content.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    drawn = re.sub(r"<style[^>]*>.*?</style>", "", drawn, flags=re.DOTALL)  # it would style the whole page
    drawn = re.sub(r"<g id=\"[^\"]*\"", "<g", drawn)  # names of parts, the same in every drawing of a page
    return drawn[len("<svg") :].replace(INK, "currentColor")


def line_panel(axes: Any, lines: Sequence[Line], *, title: str, x: str, y: str) -> None:
    """Draw curves over a common axis; with dots if there are few points."""
    for line, colour in zip(lines, _colours(len(lines)), strict=True):
        style = {"linestyle": "--", "color": INK, "alpha": 0.6} if line.quiet else {"color": colour}
        axes.plot(line.x, line.y, marker="." if len(line.x) < 25 and not line.quiet else "", label=line.name, **style)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.15, color=INK)
    if len(lines) > 1:
        axes.legend(fontsize=8)


def heat_panel(
    axes: Any,
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    x: str = "",
    y: str = "",
    number: str | None = None,
    full: float | None = None,
) -> None:
    """Draw a grid: the larger the value, the bluer the cell; None is blank.

    Args:
        number: the format of the number in each cell; no numbers if None.
        full: the value of the darkest blue; the largest in the grid if None.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    grid = np.array([[np.nan if value is None else value for value in row] for row in values], dtype=float)
    shades = LinearSegmentedColormap.from_list("shades", [HEAT + "00", HEAT + "e0"])
    top = full or (float(np.nanmax(grid)) if np.isfinite(grid).any() else 0.0)
    extent = (0, grid.shape[1], grid.shape[0], 0)  # a bitmap inside the SVG: small for any number of cells
    axes.imshow(grid, cmap=shades, vmin=0, vmax=top or 1.0, extent=extent, aspect="auto", interpolation="none")
    axes.set(title=title, xlabel=x, ylabel=y)
    places, names = _ticks(columns)
    turned = {"rotation": 90} if len(names) > 14 else {"rotation": 35, "ha": "right"}
    axes.set_xticks(places, names, **(turned if sum(map(len, names)) > 30 else {}))
    axes.set_yticks(*_ticks(rows))
    axes.tick_params(length=0, labelsize=8)
    if number is not None:
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                axes.text(j + 0.5, i + 0.5, format(value, number), ha="center", va="center", fontsize=8)


def bar_panel(axes: Any, values: Mapping[str, float], *, x: str, errors: Sequence[float] | None = None) -> None:
    """Draw horizontal bars, the first on top."""
    axes.barh([short(name) for name in values], list(values.values()), xerr=errors, color=COLOURS[0], ecolor=INK)
    axes.set(xlabel=x)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.invert_yaxis()


def grouped_bars(axes: Any, names: Sequence[str], values: Mapping[str, Sequence[float]], *, x: str) -> None:
    """Draw for every name one horizontal bar of each kind, the first name on top."""
    thickness = 0.8 / len(values)
    for place, (kind, lengths) in enumerate(values.items()):
        y = [row + (place + 0.5) * thickness - 0.4 for row in range(len(names))]
        axes.barh(y, lengths, height=thickness, label=kind, color=COLOURS[place])
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set(xlabel=x)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=8)


def short(name: str, width: int = 24) -> str:
    """Return the name; the middle of a long one is cut out."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def sentence_case(name: str) -> str:
    """Return the name with a large first letter, and the others as they are."""
    return name[:1].upper() + name[1:]


def _ticks(names: Sequence[str], most: int = 30) -> tuple[list[float], list[str]]:
    """Return the places and names of the ticks, at most `most` of them."""
    every = -(-len(names) // most)
    return [i + 0.5 for i in range(0, len(names), every)], [short(names[i]) for i in range(0, len(names), every)]


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
