"""Section 7 of the paper replayed: its tables, its heat maps of φ, and the page of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from statistics import mean
from typing import Any

from ..evaluation import Table
from ..reporting.drawing import Line, bar_panel, heat_panel, line_panel, svg
from ..reporting.page import Listing, Page, Picture, Section
from ..tasks import TITLES
from .comparison import mean_and_spread

Figures = Mapping[str, Any]
Value = Callable[[Figures], float]
Grid = Sequence[Sequence[float]]
SIDES = {"A": "A", "update": "ΔW"}
ZOOM = 8  # the columns that the paper draws again, larger
LISTED = (1, 2, 4, 8, 16, 32, 64)  # the i and j in the table of a heat map


def section7_tables(figures: Figures) -> dict[str, Table]:
    """Return the tables by title; they need no drawing package."""
    budget, rows = figures["budget"], figures["amplification"]
    return {
        "Which matrices, with as many parameters (the paper's table 5)": _accuracies(budget),
        "Which rank (table 6)": _accuracies(figures["ranks"]),
        "φ between two ranks, mean over the layers": _corners(figures["between_ranks"]),
        "φ between two seeds, mean over the layers": _corners(figures["between_seeds"]),
        "W in the directions of ΔW (table 7), every layer": _amplification(rows),
    }


def section7_page(figures: Figures, *, source: str = "") -> Page:
    """Return the page: 7.1, 7.2 in three sections, 7.3."""
    tables = [Listing(title, table) for title, table in section7_tables(figures).items()]
    budget, ranked = figures["budget"], figures["ranks"]
    best = max(budget, key=lambda row: mean(row["accuracy"]))
    answer = (
        f"With {budget[0]['parameters']:,} parameters in A and B, {_label(best)} has the highest "
        f"{_score(budget)}, {mean(best['accuracy']):.4f}{_error(best)}."
    )
    small, large = (len(figures[name][0]["grid"]) for name in ("between_ranks", "between_seeds"))
    inside = f"7.2 Ranks {small} and {large} in one another (figure 3)"
    phi = "φ is 1 where the i first directions of one lie within the j first of the other"
    phi = f"{phi}, and 0 where they are orthogonal."
    ranks = [picture for side in SIDES for picture in _between_ranks(figures, side)]
    seeds = [_between_seeds(figures, side) for side in SIDES]
    factors = [_factors(figures["amplification"])]
    sections = [
        Section("7.1 Which matrices?", pictures=[_bars(budget)], listings=tables[:1]),
        Section("7.2 Which rank?", pictures=[_curves(ranked)], listings=tables[1:2]),
        Section(inside, [phi], ranks, tables[2:3]),
        Section("7.2 Two seeds (figure 4)", [phi], seeds, tables[3:4]),
        Section("7.3 How ΔW relates to W", [_amplified(figures)], factors, tables[4:]),
    ]
    title = "Section 7 of the LoRA paper, replayed"
    return Page(title, (f"{_label(best)}: {mean(best['accuracy']):.4f}", answer), sections, source)


def _label(row: Figures) -> str:
    return f"{'+'.join(row['kinds'])} at rank {row['rank']}"


def _score(rows: Sequence[Figures]) -> str:
    """Return the name of the score; the key `accuracy` holds the headline score of every task."""
    return f"test {rows[0]['score']}"


def _error(row: Figures) -> str:
    """Return the standard error of a share of right rows; nothing for a score that is no share."""
    if row["score"] != TITLES["accuracy"]:
        return ""
    accuracy = mean(row["accuracy"])
    return f"; one standard error of {row['n']:,} rows is {(accuracy * (1 - accuracy) / row['n']) ** 0.5:.4f}"


def _accuracies(rows: Sequence[Figures]) -> Table:
    seeds = len(rows[0]["accuracy"])
    accuracy = f"{_score(rows)}, {seeds} seed{'s' if seeds > 1 else ''}"
    cells = [[_label(r), f"{r['parameters']:,}", mean_and_spread(r["accuracy"])] for r in rows]
    return Table(["adapted", "numbers in A and B", accuracy], cells)


def _corners(rows: Sequence[Figures]) -> Table:
    names = list(rows[0]["corners"])
    titles = [f"{SIDES[row['of']]} of {row['kind']}" for row in rows]
    cells = [[t, *_numbers(row["corners"], "mean")] for t, row in zip(titles, rows, strict=True)]
    cells.append(["random", *_numbers(rows[0]["corners"], "random")])
    return Table(["of", *(f"φ({name})" for name in names)], cells)


def _numbers(corners: Figures, kind: str) -> list[str]:
    return [f"{corner[kind]:.3f}" for corner in corners.values()]


def _amplification(rows: Sequence[Figures]) -> Table:
    header = ["matrix", "rank", "W in ΔW", "W in W", "W in random", "‖W‖", "‖ΔW‖", "amplification"]
    names = ("in_update", "in_weight", "in_random", "weight_norm", "update_norm")
    cells = []
    for row in rows:
        norms = [f"{row[name]:.3f}" for name in names]
        matrix, rank = f"{row['kind']} {row['layer']}", str(row["rank"])
        cells.append([matrix, rank, *norms, f"{row['factor']:.2f}"])
    return Table(header, cells)


def _amplified(figures: Figures) -> str:
    parts = [
        f"{row['kind']} at rank {row['rank']} {row['factor']:.1f}"
        for row in figures["amplification"]
        if row["layer"] == figures["layer"]
    ]
    return f"Amplification ‖ΔW‖/‖UᵀWV‖ in layer {figures['layer']}: {', '.join(parts)}."


def _bars(rows: Sequence[Figures]) -> Picture:
    values = {_label(row): mean(row["accuracy"]) for row in rows}
    listed = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    words = f"Bars of the {_score(rows)}: {listed}"

    def draw(axes: list[Any]) -> None:
        bar_panel(axes[0], values, x=_score(rows))
        axes[0].set_xlim(min(0.0, *values.values()), 1)

    return Picture("By adapted matrices", svg(draw, words=words), words, _accuracies(rows))


def _lines(rows: Sequence[Figures], name: Callable[[Figures], str], x: str, y: Value) -> list[Line]:
    groups: dict[str, list[Figures]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return [Line(key, [row[x] for row in g], [y(row) for row in g]) for key, g in groups.items()]


def _curves(rows: Sequence[Figures]) -> Picture:
    """Draw the score over the rank, a curve for every choice of projections."""
    lines = _lines(rows, lambda r: "+".join(r["kinds"]), "rank", lambda r: mean(r["accuracy"]))
    words = f"Curves of the {_score(rows)} over the rank: " + "; ".join(
        f"{line.name} from {line.y[0]:.4f} to {line.y[-1]:.4f}" for line in lines
    )

    def draw(axes: list[Any]) -> None:
        line_panel(axes[0], lines, title="", x="rank", y=_score(rows))
        axes[0].set_xscale("log", base=2)
        axes[0].minorticks_off()
        axes[0].set_xticks(lines[0].x, [str(rank) for rank in lines[0].x])

    return Picture("By rank", svg(draw, words=words), words, _accuracies(rows))


def _between_ranks(figures: Figures, side: str) -> list[Picture]:
    """Draw figure 3: all directions of the larger rank, and the first ones again, larger."""
    grids = {row["kind"]: row["grid"] for row in figures["between_ranks"] if row["of"] == side}
    zoomed = {kind: [row[:ZOOM] for row in grid] for kind, grid in grids.items()}
    name = f"{SIDES[side]} of two ranks, layer {figures['layer']}"
    return [_heat(name, grids), _heat(f"{name}, the first {ZOOM}", zoomed)]


def _between_seeds(figures: Figures, side: str) -> Picture:
    """Draw figure 4, with two random subspaces for comparison."""
    grids = {row["kind"]: row["grid"] for row in figures["between_seeds"] if row["of"] == side}
    title = f"{SIDES[side]} of two seeds, layer {figures['layer']}"
    return _heat(title, {**grids, "random": figures["random"]})


def _heat(title: str, grids: Mapping[str, Grid]) -> Picture:
    """Draw φ of every i and j, with one scale for all panels."""
    top = max(value for grid in grids.values() for row in grid for value in row)
    words = f"Heat maps of φ, the darkest is {top:.2f}. {title}: " + ", ".join(
        f"{name} φ(1,1) {grid[0][0]:.2f} and φ({len(grid)},{len(grid[0])}) {grid[-1][-1]:.2f}"
        for name, grid in grids.items()
    )

    def draw(axes: list[Any]) -> None:
        for panel, (name, grid) in zip(axes, grids.items(), strict=True):
            sizes = (len(grid), len(grid[0]))
            rows, columns = ([str(k + 1) for k in range(size)] for size in sizes)
            heat_panel(panel, grid, rows=rows, columns=columns, title=name, x="j", y="i", full=top)
            for axis, size in zip((panel.yaxis, panel.xaxis), sizes, strict=True):
                shown = [k for k in LISTED if k <= size and (k == 1 or k >= size / 8)]
                axis.set_ticks([k - 0.5 for k in shown], [str(k) for k in shown], rotation=0)

    drawn = svg(draw, words=words, panels=len(grids))
    return Picture(f"{title}; darkest: {top:.2f}", drawn, words, _listed(grids))


def _listed(grids: Mapping[str, Grid]) -> Table:
    """Return φ at some i and j."""
    wide = max(len(grid[0]) for grid in grids.values())
    columns = [j for j in LISTED if j <= wide]
    rows = [
        [f"{name}, i = {i}", *(f"{grid[i - 1][j - 1]:.3f}" for j in columns)]
        for name, grid in grids.items()
        for i in LISTED
        if i <= len(grid)
    ]
    return Table(["φ", *(f"j = {j}" for j in columns)], rows)


def _factors(rows: Sequence[Figures]) -> Picture:
    """Draw the amplification over the layers, a curve for each projection and rank."""
    lines = _lines(rows, lambda r: f"{r['kind']}, rank {r['rank']}", "layer", itemgetter("factor"))
    words = "Curves of the amplification over the layers: " + "; ".join(
        f"{line.name} from {min(line.y):.2f} to {max(line.y):.2f}" for line in lines
    )

    def draw(axes: list[Any]) -> None:
        line_panel(axes[0], lines, title="", x="layer", y="‖ΔW‖ / ‖UᵀWV‖")

    return Picture("Amplification", svg(draw, words=words), words, _amplification(rows))
