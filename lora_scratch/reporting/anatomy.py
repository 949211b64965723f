"""The page of an adapter's anatomy: the size of each module's update, and its directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..adapter.factors import AdapterSummary
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


def anatomy_page(rows: Sequence[AdapterSummary], *, title: str, source: str = "") -> Page:
    """Return the page of an adapter's anatomy; `rows` are the adapted modules."""
    most = max(rows, key=lambda row: row.relative_norm)
    sentence = (
        f"{len(rows)} modules are adapted. The one moved most is {most.name}: "
        f"its update has {most.relative_norm:.2%} of the norm of its weight."
    )
    return Page(title, (f"Moved by up to {most.relative_norm:.1%}", sentence), [anatomy_section(rows)], source)


def anatomy_section(rows: Sequence[AdapterSummary]) -> Section:
    """Return heat map, spectra, and every figure of every module."""
    shown = {name: column for name, column in FIGURES.items() if hasattr(rows[0], name)}
    cells = [[row.name, *(format(getattr(row, name), style) for name, (_, style) in shown.items())] for row in rows]
    listing = Listing("Every module", Table(["module", *(title for title, _ in shown.values())], cells))
    words = "Stable rank is ‖ΔW‖² over its largest singular value squared; effective rank is exp of the entropy of them all."
    return Section("What the adapter learnt", [words], [heat_map(rows), spectra(rows)], [listing])


def heat_map(rows: Sequence[AdapterSummary]) -> Picture:
    """Draw ‖ΔW‖/‖W‖ by layer and projection."""
    values = {row.name: row.relative_norm for row in rows}
    title = "How far each module was moved: ‖ΔW‖/‖W‖"
    return module_map(values, title=title, meaning="the norm of each update over the norm of its weight", number=".3f")


def module_map(values: Mapping[str, float], *, title: str, meaning: str, number: str) -> Picture:
    """Draw one figure of every module as a grid, layers by projections.

    Args:
        meaning: the figure in words.
        number: its format in the cells of a small grid.
    """
    named = projections(list(values))
    kinds, depths = list(dict.fromkeys(named.values())), list(dict.fromkeys(map(depth, values)))
    by_place = {(depth(name), named[name]): value for name, value in values.items()}
    grid = [[by_place.get((layer, kind)) for kind in kinds] for layer in depths]
    words = f"Heat map of {meaning}, {len(depths)} layers by {', '.join(kinds)}."
    style = number if len(kinds) <= 8 and len(depths) <= 40 else None

    def draw(axes: list[Any]) -> None:
        """Draw the panel."""
        heat_panel(axes[0], grid, rows=depths, columns=kinds, x="projection", y="layer", number=style)

    table = Table(["layer", *kinds], [[layer, *map(_figure, row)] for layer, row in zip(depths, grid, strict=True)])
    height = min(9.0, 1.2 + 0.3 * len(depths))
    return Picture(title, svg(draw, words=words, height=height), words, table)


def spectra(rows: Sequence[AdapterSummary]) -> Picture:
    """Draw the share of ‖ΔW‖² in the first k directions, mean over the modules of a projection."""
    named = projections([row.name for row in rows])
    kinds: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        kinds.setdefault(named[row.name], []).append(row.energy)
    means = {kind: _means(energies) for kind, energies in kinds.items()}
    words = "Curves of the share of ‖ΔW‖² within the first k singular directions, mean over the modules of each projection."
    lines = [Line(kind, range(1, len(mean) + 1), mean) for kind, mean in means.items()]

    def draw(axes: list[Any]) -> None:
        """Draw the panel."""
        line_panel(axes[0], lines, title="", x="directions k", y="share of ‖ΔW‖²")
        axes[0].set_ylim(0, 1.05)

    longest = max(map(len, means.values()))
    cells = [[str(k + 1), *(_figure(m[k] if k < len(m) else None) for m in means.values())] for k in range(longest)]
    return Picture("How many directions it uses", svg(draw, words=words), words, Table(["k", *means], cells))


def depth(name: str) -> str:
    """Return the number of the layer that a module is in, `-` if it is in none."""
    index = layer_index(name)
    return "-" if index is None else str(index)


def projections(names: Sequence[str]) -> dict[str, str]:
    """Return each module's name in its layer: the last component, or all if two would be equal."""
    inside = {name: _inside(name) for name in names}
    last = {path: path.rpartition(".")[2] for path in inside.values()}
    unique = len(set(last.values())) == len(last)
    return {name: last[path] if unique else path for name, path in inside.items()}


def _inside(name: str) -> str:
    """Return the name after the number of the layer; the whole name if there is none."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit() and i < len(parts) - 1]
    return ".".join(parts[numbers[0] + 1 :]) if numbers else name


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean at every position, over the rows that are long enough."""
    longest = max(map(len, rows))
    columns = [[row[k] for row in rows if k < len(row)] for k in range(longest)]
    return [sum(column) / len(column) for column in columns]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
