"""The rows whose answer became better or worse, in one table that a reader can filter."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation import Report, Table
from ..evaluation.verdict import ChangedRow
from .page import Filter, Listing, Section

LISTED = 150  # rows of each kind, at most; report.json holds more
LETTERS = 400  # of a cell, at most


def changed_section(report: Report) -> Section:
    """Return the section of the rows fixed and broken. Rows with the same words can be chosen by label and by kind."""
    task, test = report.make_task(), report.test
    kinds = zip((report.changed.broken, report.changed.fixed), (test.broken, test.fixed), (1, 0), strict=True)
    cells, numbers, counts = [], [], []
    for rows, count, number in kinds:
        word, shown = task.row_words[number], rows[:LISTED]
        cells += [[word, str(row.row), *map(_cut, (row.label, row.before, row.after, row.text or ""))] for row in shown]
        numbers += [number] * len(shown)
        counts.append(f"{count:,} {word}" + (f" ({len(shown):,} of them here)" if len(shown) < count else ""))
    labels = [] if report.points else _labels([*report.changed.broken[:LISTED], *report.changed.fixed[:LISTED]], report)
    used = [name for name in report.labels if any(name in own for own in labels)] if labels else []
    places = {name: place for place, name in enumerate(used)}
    rows_of = [[places[name] for name in own] for own in labels] if labels else [[] for _ in cells]
    chosen = Filter(list(task.row_words), list(map(_cut, used)), list(zip(numbers, rows_of, strict=True)))
    meanings = "; ".join(f"{word}: {why}" for word, why in zip(task.row_words, task.row_meanings, strict=True))
    table = Table(["", "row", "truth", "before", "after", "text"], cells)
    sentence = f"{meanings.capitalize()}. Rows are counted from 0 in the order of the data set."
    listing = Listing("; ".join(reversed(counts)), table, texts=True, filter=chosen if cells else None)
    return Section(f"Rows {' and '.join(task.row_words)}", [sentence], listings=[listing])


def _labels(rows: Sequence[ChangedRow], report: Report) -> list[list[str]]:
    """Return the true labels of every row."""
    names = report.labels

    def of(truth: str) -> list[str]:
        """Return the label, or those whose names are between the commas."""
        return [truth] if truth in names else [name for name in names if f", {name}," in f", {truth},"]

    return [of(row.label) for row in rows]


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
