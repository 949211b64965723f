"""The figures as Markdown tables, which read well in a terminal too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lora_scratch.commands.benchmarks.figures import Figures

from lora_scratch.evaluation import Table, markdown_table

MIB = 2**20
Cell = Callable[[float], str]
COLUMNS: dict[str, tuple[tuple[str, str, Cell], ...]] = {
    "training": (
        ("tokens/s", "tokens_per_second", lambda v: f"{v:,.0f}"),
        ("peak MiB above the model", "peak_memory_above_model_bytes", lambda v: f"{v / MIB:,.0f}"),
    ),
    "floor": (
        ("tokens/s at the floor", "tokens_per_second", lambda v: f"{v:,.0f}"),
        ("GFLOP/s", "gigaflops_per_second", lambda v: f"{v:,.0f}"),
        ("MFLOP a token", "megaflops_per_token", lambda v: f"{v:,.0f}"),
    ),
    "prediction": (("texts/s", "texts_per_second", lambda v: f"{v:,.0f}"),),
    "start-up": (("ms", "seconds", lambda v: f"{1e3 * v:,.0f}"),),
    "growth": (
        ("MiB, few rows", "few_bytes", lambda v: f"{v / MIB:,.0f}"),
        ("MiB, 100 times as many", "many_bytes", lambda v: f"{v / MIB:,.0f}"),
        ("ratio", "ratio", lambda v: f"{v:.3f}"),
    ),
    "peak": (("MiB", "peak_bytes", lambda v: f"{v / MIB:,.0f}"),),
    "race": (("seconds to the goal", "seconds_to_goal", lambda v: f"{v:,.1f}"), ("steps", "steps", lambda v: f"{v:,.0f}")),
    "job": (
        ("training s", "seconds", lambda v: f"{v:,.1f}"),
        ("tokens/s", "tokens_per_second", lambda v: f"{v:,.0f}"),
        ("accuracy", "accuracy", lambda v: f"{v:.4f}"),
        ("macro-F1", "macro_f1", lambda v: f"{v:.4f}"),
    ),
}


def render_figures(figures: Figures) -> str:
    """A table for each measure: median, and minimum to maximum of several rounds. `*`: the machine was not idle."""
    measured = [name for name in COLUMNS if figures.contenders(name)]
    return "\n\n".join(markdown_table(_table(figures, name)) for name in measured)


def render_targets(targets: Sequence[Mapping[str, Any]]) -> str:
    """What was set out to be reached, and what was."""
    rows = [[each["row"], each["target"], _number(each["measured"]), _verdict(each)] for each in targets]
    return markdown_table(Table(["row", "target", "measured", "met"], rows))


def _table(figures: Figures, measure: str) -> Table:
    rows = [[name, *_cells(figures, measure, name)] for name in figures.contenders(measure)]
    return Table([measure, *(title for title, _, _ in COLUMNS[measure]), "against the first"], rows)


def _cells(figures: Figures, measure: str, contender: str) -> Iterator[str]:
    mark = "" if all(each.machine.idle for each in figures.of(measure, contender)) else "*"
    for _, name, show in COLUMNS[measure]:
        values = figures.values(measure, contender, name)
        middle = figures.median(measure, contender, name)
        spread = f" ({show(min(values))} to {show(max(values))})" if len(values) > 1 else ""
        yield "-" if middle is None else f"{show(middle)}{mark}{spread}"
    ratio = figures.ratio(measure, COLUMNS[measure][0][1], contender, figures.contenders(measure)[0])
    yield "-" if ratio is None else f"{ratio:.2f}"


def _verdict(target: Mapping[str, Any]) -> str:
    if target["met"] is None:
        return "not measured" if target["measured"] is None else "set for other work"
    return "yes" if target["met"] else "no"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
