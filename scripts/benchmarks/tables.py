"""The figures as Markdown tables, which read well in a terminal too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean, stdev

from lora_scratch.evaluation import Table, markdown_table
from lora_scratch.tasks import TITLES

from .figures import Figures
from .rounds import JOB

Cell = Callable[[float], str]


def _number(decimals: int = 0) -> Cell:
    return lambda value: f"{value:,.{decimals}f}"


def _mib(value: float) -> str:
    return f"{value / 2**20:,.0f}"


def _milliseconds(value: float) -> str:
    return f"{1e3 * value:,.0f}"


# title, name of the value, how it is shown; the first column is also compared
COLUMNS: dict[str, tuple[tuple[str, str, Cell], ...]] = {
    "training": (
        ("tokens/s", "tokens_per_second", _number()),
        ("peak MiB above the model", "peak_memory_above_model_bytes", _mib),
    ),
    "floor": (
        ("tokens/s, weights warm", "tokens_per_second", _number()),
        ("weights cold", "cold_tokens_per_second", _number()),
        ("GFLOP/s", "gigaflops_per_second", _number()),
        ("MFLOP a token", "megaflops_per_token", _number()),
    ),
    "prediction": (("texts/s", "texts_per_second", _number()),),
    "start-up": (("ms", "seconds", _milliseconds),),
    "growth": (
        ("MiB, few rows", "few_bytes", _mib),
        ("MiB, 100 times as many", "many_bytes", _mib),
        ("ratio", "ratio", _number(3)),
    ),
    "peak": (("MiB", "peak_bytes", _mib),),
    "race": (
        ("seconds to the goal", "seconds_to_goal", _number(1)),
        ("steps", "steps", _number()),
    ),
    JOB: (
        ("training s", "seconds", _number(1)),
        ("tokens/s", "tokens_per_second", _number()),
    ),
}


def render_figures(figures: Figures, *, machine: str) -> str:
    """Return a table for each measure: the median, and the extremes of several rounds.

    Scores of a job are means and sample deviations over the rounds, which have different seeds.

    A `*` marks a contender that was measured while the machine was not idle.

    Args:
        machine: the kind of machine, which each table names.
    """
    measured = [name for name in COLUMNS if figures.contenders(name)]
    return "\n\n".join(markdown_table(_table(figures, name, machine)) for name in measured)


def idle_words(figures: Figures) -> str:
    """Say how many measurements shared the machine with other work."""
    busy = sum(not figure.machine.idle for figure in figures.all)
    if not busy:
        return "the machine was idle"
    return f"{busy} of {len(figures.all)} measurements on a machine that was not idle (*)"


def _table(figures: Figures, measure: str, machine: str) -> Table:
    titles = [title for title, _, _ in _columns(figures, measure)]
    agreement = ["equal labels"] if measure == "prediction" else []
    header = [f"{measure}, {machine}", *titles, "against the first", *agreement]
    rows = [[name, *_cells(figures, measure, name)] for name in figures.contenders(measure)]
    return Table(header, rows)


def _columns(figures: Figures, measure: str) -> list[tuple[str, str, Cell]]:
    """Return the columns of a measure; a job also has one for every score of its task.

    The loss of a regression is its mean error².
    """
    scores = [name for name in TITLES if measure == JOB and figures.has(JOB, name)]
    scores = [name for name in scores if name != "loss" or "mse" not in scores]
    return [*COLUMNS[measure], *((TITLES[name], name, _number(4)) for name in scores)]


def _cells(figures: Figures, measure: str, contender: str) -> Iterator[str]:
    first = figures.contenders(measure)[0]
    for _, name, show in _columns(figures, measure):
        yield _cell(figures, measure, contender, name, show)
    ratio = figures.ratio(measure, COLUMNS[measure][0][1], contender, first)
    yield "-" if ratio is None else f"{ratio:.2f}"
    if measure == "prediction":
        yield f"{figures.agreement(contender, first):.1%}"


def _cell(figures: Figures, measure: str, contender: str, name: str, show: Cell) -> str:
    mark = "" if all(figure.machine.idle for figure in figures.of(measure, contender)) else "*"
    values = figures.values(measure, contender, name)
    if name in TITLES and len(values) > 1:
        return f"{show(mean(values))}{mark} ± {show(stdev(values))}"
    middle = figures.median(measure, contender, name)
    spread = f" ({show(min(values))} to {show(max(values))})" if len(values) > 1 else ""
    return "-" if middle is None else f"{show(middle)}{mark}{spread}"
