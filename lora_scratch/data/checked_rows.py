"""Pass good rows on; raise bad ones, or list them. Tell a split whose labels are hidden from one with a bad row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import DataError
from .cells import listed, number_of, shown
from .examples import Example, Label
from .labels import MULTI_LABEL, REGRESSION, likeness, row_in_task
from .rows import Row, UnlabelledRow, bad_row

IN_TRAIN, IN_ADAPTER = "in the training rows", "in the labels of the adapter"
HIDDEN = -1  # what benchmarks write in place of the labels of their test rows


class CheckedRows:
    """Raises bad rows, or lists them in `skipped` if `skip_bad_rows`."""

    def __init__(self, *, skip_bad_rows: bool) -> None:
        self.skip_bad_rows = skip_bad_rows
        self.skipped: list[str] = []

    def labelled(self, rows: Iterable[Row | DataError], *, where: str) -> list[Row]:
        """Return the good rows; none if there are rows and all of them lack a label."""
        before, good, pending = len(self.skipped), list[Row](), list[DataError]()
        for row in rows:
            if isinstance(row, Row):
                self._refuse_all(pending)
                good.append(row)
            elif good:
                self._refuse(row)
            else:
                pending.append(row)
        if pending and all(isinstance(error, UnlabelledRow) for error in pending):
            return []
        self._refuse_all(pending)
        return good or self._no_rows(before, where=where)

    def usable(self, rows: Iterable[Row | DataError], *, where: str) -> list[Row]:
        """Return the good rows, at least one."""
        before, good = len(self.skipped), list[Row]()
        for row in rows:
            if isinstance(row, Row):
                good.append(row)
            else:
                self._refuse(row)
        return good or self._no_rows(before, where=where)

    def in_task(self, rows: Sequence[Row], task: str, *, where: str) -> list[Row]:
        """Return the rows with their labels as the task has them."""
        return self.usable((row_in_task(row, task) for row in rows), where=where)

    def numbered(self, rows: Sequence[Row], labels: Sequence[str], task: str, *, known: str) -> tuple[Example, ...]:
        """Return the rows as examples. A row with another label than `labels` is bad.

        Args:
            known: IN_TRAIN or IN_ADAPTER, which says where the labels come from.
        """
        numbers = {label: number for number, label in enumerate(labels)}
        examples = []
        for row in rows:
            unknown = [] if task == REGRESSION else [name for name in _names(row) if name not in numbers]
            if unknown:
                self._refuse(_unknown_label(row.place, unknown[0], labels, known))
            else:
                examples.append(Example(row.text, _label(row, numbers, task), row.pair))
        return tuple(examples)

    def _no_rows(self, before: int, *, where: str) -> list[Row]:
        bad, problem = self.skipped[before:], "the data set has no rows"
        if bad:
            problem = f"none of the {len(bad)} rows is usable: {bad[0]}"
        raise DataError(problem, where=where)

    def _refuse_all(self, errors: list[DataError]) -> None:
        for error in errors:
            self._refuse(error)
        errors.clear()

    def _refuse(self, error: DataError) -> None:
        if not self.skip_bad_rows:
            raise error
        self.skipped.append(f"{error.where}: {error.found}")


def are_hidden(rows: Sequence[Row], *, known: Iterable[str]) -> bool:
    """Return whether every label is -1, which is no label of the `known` ones."""
    numbers = {number_of(row.label) if isinstance(row.label, str) else None for row in rows}
    return numbers == {HIDDEN} and all(number_of(name) != HIDDEN for name in known)


def _names(row: Row) -> tuple[str, ...]:
    return row.label if isinstance(row.label, tuple) else (row.label,)


def _label(row: Row, numbers: dict[str, int], task: str) -> Label:
    if task == REGRESSION:
        return float(str(row.label))
    if task == MULTI_LABEL:
        return tuple(sorted(numbers[name] for name in _names(row)))
    return numbers[str(row.label)]


def _unknown_label(place: str, label: str, labels: Sequence[str], known: str) -> DataError:
    alike = [name for name in labels if likeness(name) == likeness(label)]
    other = "correct the label, or take the row out" if known == IN_ADAPTER else ""
    remedy = f"spell it {shown(alike[0])} as {known.removeprefix('in ')} do" if alike else other
    return bad_row(place, f"label {shown(label)} is not {known}", listed(labels), remedy)
