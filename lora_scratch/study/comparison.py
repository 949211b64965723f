"""Who stands where: the tables of a comparison, and the paired test of every run against that of one rung."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ..errors import ConfigError, DataError
from ..evaluation import McNemar, Paired, Table, holm, paired, word_of
from .methods import RunResult, Step

NONE = "-"


@dataclass(frozen=True)
class PairedTest:
    """A step against the same seed and rows on another rung, on the same test rows.

    Args:
        p_holm: McNemar's exact p by Holm's correction over all duels of the comparison.
        word: `better`, `worse` or `not shown`, by that p.
    """

    step: Step
    against: str
    found: Paired
    p_holm: float
    word: str

    def as_json(self) -> dict[str, Any]:
        """Flat."""
        found = {name: value for name, value in asdict(self.found).items() if name != "word"}
        return {**asdict(self.step), "against": self.against, **found, "p_holm": self.p_holm, "word": self.word}


Stepped = TypeVar("Stepped", RunResult, PairedTest)


def duels(climbs: Sequence[RunResult], against: str) -> list[PairedTest]:
    """Every other climb against the one of the rung `against` with its seed and rows.

    Raises:
        ConfigError: there is none. DataError: they were measured on different rows.
    """
    others = [each for each in climbs if each.step.rung != against]
    found = [_pair(_twin(each, climbs, against), each) for each in others]
    corrected = holm([each.p_value for each in found])
    return [
        PairedTest(climb.step, against, each, p, word_of(McNemar(each.fixed, each.broken, p)))
        for climb, each, p in zip(others, found, corrected, strict=True)
    ]


def _twin(climb: RunResult, climbs: Sequence[RunResult], against: str) -> RunResult:
    wanted = Step(against, climb.step.seed, climb.step.rows)
    for each in climbs:
        if each.step == wanted:
            return each
    raise ConfigError(f"no run with seed {wanted.seed}", where=f"--against {against}", expected="a rung of the comparison")


def _pair(before: RunResult, after: RunResult) -> Paired:
    if before.labels.tolist() != after.labels.tolist():
        raise DataError(
            f"{before.step} and {after.step} were measured on different rows", where="compare", remedy="choose a new folder"
        )
    return paired(before.logits, after.logits, after.labels)


def summarize(climbs: Sequence[RunResult]) -> Table:
    """A row for each rung: mean and sample standard deviation over the seeds, medians of time and memory."""
    header = ["rung", "seeds", "accuracy", "macro-F1", "trained", "file", "training", "CPU time", "memory"]
    by_rows = len({each.step.rows for each in climbs}) > 1
    rows = [[*([_count(rows)] if by_rows else []), *_row(rung, each)] for (rows, rung), each in _groups(climbs).items()]
    return Table([*(["rows"] if by_rows else []), *header], rows)


def _row(rung: str, climbs: Sequence[RunResult]) -> list[str]:
    return [
        rung,
        str(len(climbs)),
        mean_and_spread(each.metrics.accuracy for each in climbs),
        mean_and_spread(each.metrics.macro_f1 for each in climbs),
        f"{climbs[0].trained:,}",
        _median([each.file_bytes for each in climbs], lambda found: f"{found / 1e6:.2f} MB"),
        _median([each.seconds for each in climbs], lambda found: f"{found:,.0f} s"),
        _median([each.cpu_seconds for each in climbs], lambda found: f"{found:,.0f} s"),
        _median([each.memory_bytes for each in climbs], lambda found: f"{found / 2**20:,.0f} MiB"),
    ]


def duel_table(found: Sequence[PairedTest]) -> Table:
    """A row for each rung: by how much it differs, on how many rows, and in how many seeds that is more than luck."""
    header = ["rung", f"accuracy - {found[0].against}", "rows fixed, broken", "better", "not shown", "worse", "largest p"]
    groups = _groups(found)
    by_rows = len({rows for rows, _ in groups}) > 1
    rows = [[*([_count(n)] if by_rows else []), rung, *_duel_row(each)] for (n, rung), each in groups.items()]
    return Table([*(["rows"] if by_rows else []), *header], rows)


def _duel_row(found: Sequence[PairedTest]) -> list[str]:
    words = [each.word for each in found]
    return [
        mean_and_spread((each.found.change for each in found), sign="+"),
        "; ".join(f"{each.found.fixed}, {each.found.broken}" for each in found),
        *(str(words.count(word)) for word in ("better", "not shown", "worse")),
        f"{max(each.p_holm for each in found):.2g}",
    ]


def curve_table(climbs: Sequence[RunResult]) -> Table:
    """Mean accuracy: a row for each number of training rows, a column for each rung."""
    groups = _groups(climbs)
    counts, rungs = dict.fromkeys(n for n, _ in groups), dict.fromkeys(rung for _, rung in groups)
    cells = {key: mean_and_spread(each.metrics.accuracy for each in found) for key, found in groups.items()}
    return Table(["rows", *rungs], [[_count(n), *(cells.get((n, rung), NONE) for rung in rungs)] for n in counts])


def mean_and_spread(values: Iterable[float], *, sign: str = "") -> str:
    """`0.9157 ± 0.0035`: mean and sample standard deviation, the latter from two values on."""
    found = list(values)
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):{sign}.4f}{spread}"


def _groups(found: Sequence[Stepped]) -> dict[tuple[int | None, str], list[Stepped]]:
    """By number of rows and rung, in the order of first appearance."""
    groups: dict[tuple[int | None, str], list[Stepped]] = {}
    for each in found:
        groups.setdefault((each.step.rows, each.step.rung), []).append(each)
    return groups


def _median(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return form(statistics.median(known)) if known else NONE


def _count(rows: int | None) -> str:
    return "all" if rows is None else f"{rows:,}"
