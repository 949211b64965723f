"""Decide from the labels what is predicted, and name the labels. (checked_rows.py numbers them.)

The name of a label is what the file says: `01` and `1` are two labels. Text cells can hold several
labels as a JSON list (`["joy", "love"]`), as Python prints a list, or as names with commas between.
"""

from __future__ import annotations

import ast
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from ..errors import DataError
from .cells import NUMBER, is_blank, label_fault, listed, number_of, shown, spelled_label
from .rows import Row, bad_row

SINGLE_LABEL, MULTI_LABEL, REGRESSION = TASKS = ("single_label", "multi_label", "regression")
AUTO = "auto"
NEARLY_ALL = 0.9  # of the labels are numbers: the others are faults of rows, not classes
MANY_LABELS = 20
ENOUGH_ROWS = 5  # a row a label: with fewer on average, the column is most often no label

NO_NUMBER = "--task single_label, if these are classes; else mend the row, or leave such rows out (--skip_bad_rows)"
NO_LIST = 'write one label, or pass --task multi_label for lists of labels (["a", "b"], or a, b)'


class Decision(NamedTuple):
    """What is predicted, and a line that says why, empty where nothing could surprise."""

    task: str
    note: str = ""


def decide_task(rows: Sequence[Row], task: str = AUTO) -> Decision:
    """Return the task that the labels stand for, or `task` if it is not `auto`."""
    if task != AUTO:
        return Decision(task)
    if _are_lists(rows):
        return Decision(MULTI_LABEL, "task: multi_label, since the labels are lists")
    labels = [row.label for row in rows if isinstance(row.label, str)]
    if score := _fractional_score(labels):
        classes = "--task single_label makes every number a class"
        return Decision(REGRESSION, f"task: regression, since the labels are numbers such as {score} ({classes})")
    return Decision(SINGLE_LABEL, _lists_note(labels) or _many_labels_note(labels))


def row_in_task(row: Row, task: str) -> Row | DataError:
    """Return the row with its label as the task has it, or an error: one name, a tuple of names, a number's name."""
    if task == MULTI_LABEL:
        return _several(row)
    if isinstance(row.label, tuple):
        return bad_row(row.place, f"the label is a list, {listed([list(row.label)])}", f"one label ({task})", NO_LIST)
    if task == REGRESSION and number_of(row.label) is None:
        return bad_row(row.place, f"label {shown(row.label)} is no number", "a finite number", NO_NUMBER)
    return row


def label_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return the different labels, in numerical order if all are numbers, else alphabetical."""
    names = set(values)
    if all(NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (Decimal(name), name)))
    return tuple(sorted(names))


def lookalikes_note(labels: Sequence[str]) -> str:
    """Return a line that names labels that differ in spelling alone, such as 01 and 1; empty if none do."""
    groups: dict[Decimal | str, list[str]] = defaultdict(list)
    for name in labels:
        groups[likeness(name)].append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return ""
    some = "; ".join(listed(group) for group in alike[:5])
    return f"labels that differ in spelling alone are different labels: {some}"


def likeness(name: str) -> Decimal | str:
    """Return what is the same for names that differ in spelling alone.

    Case, the digits of one number, characters that show nothing, and accents that are characters of their own.
    """
    seen = "".join(letter for letter in unicodedata.normalize("NFKC", name) if letter.isspace() or not is_blank(letter))
    return Decimal(name) if NUMBER.fullmatch(name) else " ".join(seen.casefold().split())


def _are_lists(rows: Sequence[Row]) -> bool:
    """Return whether a label is a list, or every one is the text of a list."""
    if any(isinstance(row.label, tuple) for row in rows):
        return True
    return all(str(row.label).startswith("[") and _listed_text(str(row.label)) is not None for row in rows)


def _fractional_score(labels: Sequence[str]) -> str:
    """Return the first number that is not whole, if nearly all labels but NaN are numbers; else nothing."""
    labels = [label for label in labels if label.casefold() != "nan"]
    numbers = [(number, label) for label in labels if (number := number_of(label)) is not None]
    if len(numbers) < NEARLY_ALL * len(labels):
        return ""
    return next((label for number, label in numbers if not number.is_integer()), "")


def _lists_note(labels: Sequence[str]) -> str:
    """Return a line that names a label that is the text of a list, beside others that are not."""
    lists = [label for label in labels if _listed_text(label) is not None]
    return f"the label {shown(lists[0])} is one class here; --task multi_label makes it a list" if lists else ""


def _many_labels_note(labels: Sequence[str]) -> str:
    names = set(labels)
    if len(names) <= MANY_LABELS:
        return ""
    start = f"task: single_label with {len(names):,} different labels in {len(labels):,} rows"
    if all(number_of(name) is not None for name in names):
        return f"{start}, which are whole numbers (--task regression predicts a number)"
    few = len(names) * ENOUGH_ROWS > len(labels)
    return f"{start} (--label_column names another column)" if few else ""


def _several(row: Row) -> Row | DataError:
    if isinstance(row.label, tuple):
        return row
    names = _listed_text(row.label)
    if names is None:
        names = [name.strip() for name in row.label.split(",")]
    if fault := label_fault(names, ()):
        return bad_row(row.place, *fault)
    return replace(row, label=tuple(spelled_label(names, ())))


def _listed_text(text: str) -> list[object] | None:
    """Return the list that a text cell spells in JSON or Python, None if it spells none."""
    if not text.startswith("["):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            entries = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return entries if isinstance(entries, list) else None
    return None
