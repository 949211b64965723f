"""What an adapter learnt, as pictures: how far each module was moved, and along how many directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..adapter.targets import layer_index
from ..evaluation import Table
from .drawing import Line, heat_panel, line_panel, svg
from .page import Listing, Page, Picture, Section

FIGURES = {
    "rank": ("rank", "d"),
    "update_norm": ("‖ΔW‖", ".4f"),
    "relative_norm": ("‖ΔW‖/‖W‖", ".4f"),
    "stable_rank": ("stable rank", ".2f"),
    "effective_rank": ("effective rank", ".2f"),
    "alignment": ("aligned with W", ".4f"),
    "intruders": ("intruders", "d"),
}


def anatomy_page(rows: Sequence[Mapping[str, Any]], *, title: str, source: str = "") -> Page:
    """The page of an adapter's anatomy; `rows` are the modules' figures as `asdict` gives them."""
    most = max(rows, key=lambda row: row["relative_norm"])
    sentence = (
        f"{len(rows)} modules are adapted. The one moved most is {most['name']}: "
        f"its update has {most['relative_norm']:.2%} of the norm of its weight."
    )
    return Page(title, (f"Moved by up to {most['relative_norm']:.1%}", sentence), [anatomy_section(rows)], source)


def anatomy_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Heat map, spectra, and every figure of every module."""
    shown = {key: title for key, title in FIGURES.items() if key in rows[0]}
    cells = [[row["name"], *(format(row[key], title[1]) for key, title in shown.items())] for row in rows]
    listing = Listing("Every module", Table(["module", *(title for title, _ in shown.values())], cells))
    words = "Stable rank is ‖ΔW‖² over its largest singular value squared; effective rank is exp of the entropy of them all."
    return Section("What the adapter learnt", [words], [heat_map(rows), spectra(rows)], [listing])


def heat_map(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """‖ΔW‖/‖W‖ by layer and projection."""
    values = {row["name"]: row["relative_norm"] for row in rows}
    title = "How far each module was moved: ‖ΔW‖/‖W‖"
    return module_map(values, title=title, meaning="the norm of each update over the norm of its weight", number=".3f")


def module_map(values: Mapping[str, float], *, title: str, meaning: str, number: str) -> Picture:
    """A figure of every module as a grid, layers by projections.

    Args:
        meaning: what the figure is, in words.
        number: its format in the cells, if there is room.
    """
    named = projections(list(values))
    kinds, depths = list(dict.fromkeys(named.values())), list(dict.fromkeys(map(depth, values)))
    found = {(depth(name), named[name]): value for name, value in values.items()}
    grid = [[found.get((each, kind)) for kind in kinds] for each in depths]
    words = f"Heat map of {meaning}, {len(depths)} layers by {', '.join(kinds)}."
    room = len(kinds) <= 8 and len(depths) <= 40

    def draw(axes: list[Any]) -> None:
        """The grid as a heat map."""
        heat_panel(axes[0], grid, rows=depths, columns=kinds, x="projection", y="layer", number=number if room else None)

    table = Table(["layer", *kinds], [[each, *map(_figure, row)] for each, row in zip(depths, grid, strict=True)])
    height = min(9.0, 1.2 + 0.3 * len(depths))
    return Picture(title, svg(draw, words=words, height=height), words, table)


def spectra(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """The share of ‖ΔW‖² that the first k directions hold: the mean over the modules of each projection."""
    named = projections([row["name"] for row in rows])
    kinds: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        kinds.setdefault(named[row["name"]], []).append(row["energy"])
    means = {kind: _means(each) for kind, each in kinds.items()}
    words = "Curves of the share of ‖ΔW‖² within the first k singular directions, mean over the modules of each projection."
    lines = [Line(kind, range(1, len(mean) + 1), mean) for kind, mean in means.items()]

    def draw(axes: list[Any]) -> None:
        """A line for every projection."""
        line_panel(axes[0], lines, title="", x="directions k", y="share of ‖ΔW‖²")
        axes[0].set_ylim(0, 1.05)

    longest = max(map(len, means.values()))
    cells = [[str(k + 1), *(_figure(m[k] if k < len(m) else None) for m in means.values())] for k in range(longest)]
    return Picture("How many directions it uses", svg(draw, words=words), words, Table(["k", *means], cells))


def depth(name: str) -> str:
    """The number of the layer that a module is in, `-` if it is in none."""
    found = layer_index(name)
    return "-" if found is None else str(found)


def projections(names: Sequence[str]) -> dict[str, str]:
    """What each module is called within its layer: its last component, or all of them where that would name two alike."""
    inside = {name: _inside(name) for name in names}
    last = {path: path.rpartition(".")[2] for path in inside.values()}
    unique = len(set(last.values())) == len(last)
    return {name: last[path] if unique else path for name, path in inside.items()}


def _inside(name: str) -> str:
    """What stands after the number of the layer; the whole name if there is none."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit() and i < len(parts) - 1]
    return ".".join(parts[numbers[0] + 1 :]) if numbers else name


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Mean by position, over those long enough to have it."""
    longest = max(map(len, rows))
    columns = [[row[k] for row in rows if k < len(row)] for k in range(longest)]
    return [sum(column) / len(column) for column in columns]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
