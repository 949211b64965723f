"""The tables of a comparison, and the paired test of every run against the run of one method."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from ..errors import ConfigError, DataError
from ..evaluation import Table
from ..tasks import TITLES, Paired, holm, word_of
from .methods import Run, RunResult

NONE = "-"


@dataclass(frozen=True)
class PairedTest:
    """A run against the run of another method with the same seed, on the same test rows.

    Args:
        test: the task's paired test; its word is by `p_holm`.
        p_holm: the p-value by Holm's correction over all tests of the comparison.
    """

    run: Run
    against: str
    test: Paired
    p_holm: float

    def as_json(self) -> dict[str, Any]:
        """Return its entry in comparison.json."""
        figures = {**asdict(self.test), "p_holm": self.p_holm}
        return {**self.run.as_json(), "against": self.against, **figures}


Kind = TypeVar("Kind", RunResult, PairedTest)
Key = tuple[int | None, str]  # number of training rows, and method


def paired_tests(results: Sequence[RunResult], against: str) -> list[PairedTest]:
    """Test every result of another method against that of `against` with its seed and rows.

    Raises:
        ConfigError: there is no such run. DataError: the test rows differ.
    """
    others = [result for result in results if result.run.method != against]
    tests = [_test(_partner(result, results, against), result) for result in others]
    corrected = zip(others, correct_tests(tests), strict=True)
    return [PairedTest(result.run, against, test, p) for result, (test, p) in corrected]


def correct_tests(tests: Sequence[Paired]) -> list[tuple[Paired, float]]:
    """Return every test with its word by Holm's correction over all of them, and that p-value."""
    p_values = holm([test.p_value for test in tests])
    return [(replace(test, word=word_of(test.direction, p)), p) for test, p in zip(tests, p_values, strict=True)]


def _partner(result: RunResult, results: Sequence[RunResult], against: str) -> RunResult:
    partner = replace(result.run, method=against)
    for other in results:
        if other.run == partner:
            return other
    where, expected = f"--against {against}", "a rung of the comparison"
    raise ConfigError(f"no run with seed {partner.seed}", where=where, expected=expected)


def _test(before: RunResult, after: RunResult) -> Paired:
    if before.labels.tolist() != after.labels.tolist():
        methods = f"{before.run.method} and {after.run.method}, seed {after.run.seed}"
        problem = f"{methods} were measured on different rows"
        raise DataError(problem, where="compare", remedy="choose a new folder")
    return after.task.paired(before.logits, after.logits, after.labels)


def summarize(results: Sequence[RunResult]) -> Table:
    """Return mean and sample deviation over the seeds, and medians of time and memory."""
    names = [TITLES[name] for name in results[0].shown_scores]
    header = ["seeds", *names, "trained", "file", "training", "CPU time", "memory"]
    return _table(header, {key: _summary_cells(runs) for key, runs in _groups(results).items()})


def _summary_cells(results: Sequence[RunResult]) -> list[str]:
    return [
        str(len(results)),
        *(mean_and_spread(r.shown_scores[name] for r in results) for name in results[0].shown_scores),
        f"{results[0].trained:,}",
        _median([result.file_bytes for result in results], lambda size: f"{size / 1e6:.2f} MB"),
        _median([result.seconds for result in results], lambda seconds: f"{seconds:,.0f} s"),
        _median([result.cpu_seconds for result in results], lambda seconds: f"{seconds:,.0f} s"),
        _median([result.memory_bytes for result in results], lambda n: f"{n / 2**20:,.0f} MiB"),
    ]


def paired_table(tests: Sequence[PairedTest]) -> Table:
    """Return the change of the headline score, the rows that changed, and the number of each verdict."""
    against = f"change from {tests[0].against}"
    header = [against, "rows fixed, broken", "better", "not shown", "worse", "largest p"]
    return _table(header, {key: _paired_cells(runs) for key, runs in _groups(tests).items()})


def _paired_cells(tests: Sequence[PairedTest]) -> list[str]:
    words = [result.test.word for result in tests]
    return [
        mean_and_spread((result.test.change for result in tests), sign="+"),
        "; ".join(f"{result.test.fixed}, {result.test.broken}" for result in tests),
        *(str(words.count(word)) for word in ("better", "not shown", "worse")),
        f"{max(result.p_holm for result in tests):.2g}",
    ]


def curve_table(results: Sequence[RunResult]) -> Table:
    """Return mean headline scores: a row for each number of training rows, a column for each method."""
    groups = _groups(results)
    counts, methods = (list(dict.fromkeys(column)) for column in zip(*groups, strict=True))
    cells = {key: mean_and_spread(r.metrics.headline for r in g) for key, g in groups.items()}
    rows = [[_count(n), *(cells.get((n, method), NONE) for method in methods)] for n in counts]
    return Table(["rows", *methods], rows)


def mean_and_spread(values: Iterable[float], *, sign: str = "") -> str:
    """Return `0.9157 ± 0.0035`, mean and sample deviation; the mean alone for one value."""
    known = list(values)
    spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):{sign}.4f}{spread}"


def _groups(items: Sequence[Kind]) -> dict[Key, list[Kind]]:
    """Group by number of rows and method, in the order of first appearance."""
    groups: dict[Key, list[Kind]] = {}
    for item in items:
        groups.setdefault((item.run.rows, item.run.method), []).append(item)
    return groups


def _table(header: list[str], cells: dict[Key, list[str]]) -> Table:
    """Return a row for each key; the number of rows is a column if there are several numbers."""
    first = 0 if len({n for n, _ in cells}) > 1 else 1
    rows = [[_count(n), method, *figures] for (n, method), figures in cells.items()]
    return Table(["rows", "rung", *header][first:], [row[first:] for row in rows])


def _median(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return form(statistics.median(known)) if known else NONE


def _count(rows: int | None) -> str:
    return "all" if rows is None else f"{rows:,}"
