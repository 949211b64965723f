"""How the adapter moved during training, from the lines of metrics.jsonl with `modules`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ..evaluation import Table
from .anatomy import depth, projections
from .drawing import Line, heat_panel, line_panel, panels_svg, short, svg
from .page import Picture, Section

COLUMNS = 40  # measurements in the heat map, at most
TITLES = {"gradient": "gradient norm", "update": "update / weight"}


def dynamics_section(steps: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the section, in a list; an empty list if the run measured no modules."""
    measured = [event for event in steps if event.get("modules")]
    if not measured:
        return []
    sentence = "Gradients are those after clipping; an update is the distance of a step over the norm of the factor."
    return [Section("How the adapter moved", [sentence], [_growth(measured), _medians(measured)])]


def _growth(measured: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw ‖ΔW‖ of every module over the steps."""
    every = -(-len(measured) // COLUMNS)
    kept = measured[::-1][::every][::-1]  # the last one included
    names, steps = list(kept[-1]["modules"]), [f"{event['step']:,}" for event in kept]
    grid = [[_number(event["modules"].get(name, {}).get("delta_weight")) for event in kept] for name in names]
    words = f"Heat map of ‖ΔW‖ of each of {len(names)} modules, at {len(kept)} steps up to step {steps[-1]}."

    def draw(axes: list[Any]) -> None:
        heat_panel(axes[0], grid, rows=_places(names), columns=_thinned(steps), x="step")

    cells = [[name, *("" if v is None else f"{v:.4g}" for v in row)] for name, row in zip(names, grid, strict=True)]
    height = min(9.0, 1.2 + 0.22 * min(len(names), 30))
    return Picture("‖ΔW‖ by module and step", svg(draw, words=words, height=height), words, Table(["module", *steps], cells))


def _medians(measured: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw the medians over the modules of gradient norm and update-to-weight ratio of A and B."""
    at = [event["step"] for event in measured]
    curves = {
        f"{kind}_{factor}": [_median(event["modules"].values(), f"{kind}_{factor}") for event in measured]
        for kind in TITLES
        for factor in "AB"
    }
    words = "Curves over the steps, of A and of B: median over the modules of the gradient norm and of update / weight."

    def draw(axes: list[Any]) -> None:
        for panel, (kind, title) in zip(axes, TITLES.items(), strict=True):
            line_panel(panel, [Line(f, at, curves[f"{kind}_{f}"]) for f in "AB"], title=title, x="step", y="")
            panel.set_yscale("log", nonpositive="mask")
            panel.yaxis.set_major_formatter("{x:g}")  # the usual labels are formulas
            panel.minorticks_off()  # slow to place

    header = ["step", *(f"{title} of {factor}" for title in TITLES.values() for factor in "AB")]
    cells = [[f"{step:,}", *(f"{curves[key][i]:.3g}" for key in curves)] for i, step in enumerate(at)]
    return Picture("Gradients and updates", panels_svg(draw, words=words, panels=2), words, Table(header, cells))


def _median(modules: Any, key: str) -> float:
    values = [value for module in modules if (value := _number(module.get(key))) is not None]
    return median(values) if values else math.nan


def _number(value: Any) -> float | None:
    """Return the figure, or None if it is not finite: the log then holds text."""
    return float(value) if isinstance(value, float | int) else None


def _places(names: Sequence[str]) -> list[str]:
    """Return `3 q_lin` for each module: the number of its layer and its name there."""
    return [f"{depth(name)} {kind}" for name, kind in projections(names).items()]


def _thinned(names: Sequence[str], most: int = 12) -> list[str]:
    """Keep at most `most` names, evenly spaced; the others become empty."""
    every = -(-len(names) // most)
    return [short(name) if i % every == 0 else "" for i, name in enumerate(names)]
