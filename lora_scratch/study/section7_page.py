"""Section 7 of the paper replayed: its tables, its heat maps of φ as it draws them, and the page of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from ..evaluation import Table
from ..reporting.drawing import Line, bar_panel, heat_panel, line_panel, svg
from ..reporting.page import Listing, Page, Picture, Section

Figures = Mapping[str, Any]
Grid = Sequence[Sequence[float]]
SIDES = {"A": "A", "update": "ΔW"}
ZOOM = 8  # the columns that the paper draws once more, larger
LISTED = (1, 2, 4, 8, 16, 32, 64)  # the i and j whose φ a picture's table holds


def section7_tables(found: Figures) -> dict[str, Table]:
    """The tables by title; they need no package that draws."""
    return {
        "Which matrices, with as many parameters (the paper's table 5)": _accuracies(found["budget"]),
        "Which rank (table 6)": _accuracies(found["ranks"]),
        "φ between two ranks, mean over the layers": _corners(found["between_ranks"]),
        "φ between two seeds, mean over the layers": _corners(found["between_seeds"]),
        "W in the directions of ΔW (table 7), every layer": _amplification(found["amplification"]),
    }


def section7_page(found: Figures, *, source: str = "") -> Page:
    """All of it: 7.1, 7.2 in two parts, 7.3."""
    tables = [Listing(title, table) for title, table in section7_tables(found).items()]
    best = max(found["budget"], key=lambda row: mean(row["accuracy"]))
    answer = (
        f"With {found['budget'][0]['parameters']:,} parameters in A and B, {_called(best)} has the highest test accuracy, "
        f"{mean(best['accuracy']):.4f}; one standard error of {best['n']:,} rows is "
        f"{(mean(best['accuracy']) * (1 - mean(best['accuracy'])) / best['n']) ** 0.5:.4f}."
    )
    small, large = len(found["between_ranks"][0]["grid"]), len(found["between_seeds"][0]["grid"])
    phi = "φ is 1 where the i first directions of one lie within the j first of the other, and 0 where they are orthogonal."
    ranks = [picture for side in SIDES for picture in _between_ranks(found, side)]
    sections = [
        Section("7.1 Which matrices?", pictures=[_bars(found["budget"])], listings=tables[:1]),
        Section("7.2 Which rank?", pictures=[_curves(found["ranks"])], listings=tables[1:2]),
        Section(f"7.2 Ranks {small} and {large} in one another (figure 3)", [phi], ranks, tables[2:3]),
        Section("7.2 Two seeds (figure 4)", [phi], [_between_seeds(found, side) for side in SIDES], tables[3:4]),
        Section("7.3 How ΔW relates to W", [_amplified(found)], [_factors(found["amplification"])], tables[4:]),
    ]
    return Page(
        "Section 7 of the LoRA paper, replayed", (f"{_called(best)}: {mean(best['accuracy']):.4f}", answer), sections, source
    )


def _called(row: Figures) -> str:
    return f"{'+'.join(row['kinds'])} at rank {row['rank']}"


def _accuracies(rows: Sequence[Figures]) -> Table:
    seeds = len(rows[0]["accuracy"])
    cells = [[_called(row), f"{row['parameters']:,}", _spread(row["accuracy"])] for row in rows]
    return Table(["adapted", "numbers in A and B", f"test accuracy, {seeds} seed{'s' if seeds > 1 else ''}"], cells)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _corners(rows: Sequence[Figures]) -> Table:
    names = list(rows[0]["corners"])
    header = ["of", *(f"φ({name})" for name in names)]
    cells = [
        [f"{SIDES[row['of']]} of {row['kind']}", *(f"{row['corners'][name]['mean']:.3f}" for name in names)] for row in rows
    ]
    return Table(header, [*cells, ["random", *(f"{rows[0]['corners'][name]['random']:.3f}" for name in names)]])


def _amplification(rows: Sequence[Figures]) -> Table:
    header = ["matrix", "rank", "W in ΔW", "W in W", "W in random", "‖W‖", "‖ΔW‖", "amplification"]
    names = ("in_update", "in_weight", "in_random", "weight_norm", "update_norm")
    cells = [
        [f"{row['kind']} {row['layer']}", str(row["rank"]), *(f"{row[name]:.3f}" for name in names), f"{row['factor']:.2f}"]
        for row in rows
    ]
    return Table(header, cells)


def _amplified(found: Figures) -> str:
    parts = [
        f"{row['kind']} at rank {row['rank']} {row['factor']:.1f}"
        for row in found["amplification"]
        if row["layer"] == found["layer"]
    ]
    return f"Amplification ‖ΔW‖/‖UᵀWV‖ in layer {found['layer']}: {', '.join(parts)}."


def _bars(rows: Sequence[Figures]) -> Picture:
    values = {_called(row): mean(row["accuracy"]) for row in rows}
    words = "Bars of the test accuracy: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())

    def draw(axes: list[Any]) -> None:
        bar_panel(axes[0], values, x="test accuracy")
        axes[0].set_xlim(0, 1)

    return Picture("Accuracy by adapted matrices", svg(draw, words=words), words, _accuracies(rows))


def _curves(rows: Sequence[Figures]) -> Picture:
    kinds = list(dict.fromkeys(row["kinds"] for row in rows))
    lines = [
        Line(
            "+".join(kind),
            [row["rank"] for row in rows if row["kinds"] == kind],
            [mean(row["accuracy"]) for row in rows if row["kinds"] == kind],
        )
        for kind in kinds
    ]
    words = "Curves of the test accuracy over the rank: " + "; ".join(
        f"{line.name} from {line.y[0]:.4f} to {line.y[-1]:.4f}" for line in lines
    )

    def draw(axes: list[Any]) -> None:
        line_panel(axes[0], lines, title="", x="rank", y="test accuracy")
        axes[0].set_xscale("log", base=2)
        axes[0].minorticks_off()
        axes[0].set_xticks(lines[0].x, [str(rank) for rank in lines[0].x])

    return Picture("Accuracy by rank", svg(draw, words=words), words, _accuracies(rows))


def _between_ranks(found: Figures, side: str) -> list[Picture]:
    """Figure 3: all of the larger rank's directions, and the first ones again, larger."""
    grids = {row["kind"]: row["grid"] for row in found["between_ranks"] if row["of"] == side}
    zoomed = {kind: [row[:ZOOM] for row in grid] for kind, grid in grids.items()}
    name = f"{SIDES[side]} of two ranks, layer {found['layer']}"
    return [_heat(name, grids), _heat(f"{name}, the first {ZOOM}", zoomed)]


def _between_seeds(found: Figures, side: str) -> Picture:
    """Figure 4, with what two random subspaces have."""
    grids = {row["kind"]: row["grid"] for row in found["between_seeds"] if row["of"] == side}
    return _heat(f"{SIDES[side]} of two seeds, layer {found['layer']}", {**grids, "random": found["random"]})


def _heat(title: str, grids: Mapping[str, Grid]) -> Picture:
    """φ of every i and j, from no colour for 0; one scale for all panels."""
    top = max(value for grid in grids.values() for row in grid for value in row)
    words = f"Heat maps of φ, the darkest is {top:.2f}. {title}: " + ", ".join(
        f"{name} φ(1,1) {grid[0][0]:.2f} and φ({len(grid)},{len(grid[0])}) {grid[-1][-1]:.2f}"
        for name, grid in grids.items()
    )

    def draw(axes: list[Any]) -> None:
        for panel, (name, grid) in zip(axes, grids.items(), strict=True):
            rows, columns = ([str(k + 1) for k in range(size)] for size in (len(grid), len(grid[0])))
            heat_panel(panel, grid, rows=rows, columns=columns, title=name, x="j", y="i", full=top)
            for axis, size in ((panel.xaxis, len(columns)), (panel.yaxis, len(rows))):
                shown = [k for k in LISTED if k <= size and (k == 1 or k >= size / 8)]
                axis.set_ticks([k - 0.5 for k in shown], [str(k) for k in shown], rotation=0)

    return Picture(f"{title}; darkest: {top:.2f}", svg(draw, words=words, panels=len(grids)), words, _listed(grids))


def _listed(grids: Mapping[str, Grid]) -> Table:
    """φ at some i and j."""
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
    """Amplification over the depth, a curve for each projection and rank."""
    names = list(dict.fromkeys((row["kind"], row["rank"]) for row in rows))
    lines = []
    for kind, rank in names:
        each = [row for row in rows if (row["kind"], row["rank"]) == (kind, rank)]
        lines.append(Line(f"{kind}, rank {rank}", [row["layer"] for row in each], [row["factor"] for row in each]))
    words = "Curves of the amplification over the layers: " + "; ".join(
        f"{line.name} from {min(line.y):.2f} to {max(line.y):.2f}" for line in lines
    )

    def draw(axes: list[Any]) -> None:
        line_panel(axes[0], lines, title="", x="layer", y="‖ΔW‖ / ‖UᵀWV‖")

    return Picture("Amplification", svg(draw, words=words), words, _amplification(rows))
