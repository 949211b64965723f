"""A checked data set: rows with label numbers, in three splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .columns import Columns

Label = int | tuple[int, ...] | float  # a class; the classes that apply; a number


@dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with its label.

    Args:
        label: an index into `Splits.labels`, or several, or a number, by the task of the splits.
    """

    text: str
    label: Label
    pair: str | None = None


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set.

    Args:
        labels: the label names; `Example.label` is an index into them. For numbers one name, the column's.
        source: the file, folder or hub name of the rows.
        skipped: bad rows that were left out, as `path:line: reason`.
        task: what is predicted, one of tasks/ (`single_label`, `multi_label` or `regression`).
        notes: what was decided about the rows, a line each; the commands print them.
        test_split: what the source calls the rows of `test`; empty if they were held out of its training rows.
        columns: those that were read; None for rows of no table.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...]
    source: str
    skipped: tuple[str, ...] = ()
    task: str = "single_label"
    notes: tuple[str, ...] = ()
    test_split: str = "test"
    columns: Columns | None = field(default=None, compare=False)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the rows of every split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows_digest(rows, self.labels) for name, rows in splits.items()}


def shown_text(row: Example) -> str:
    """Return the text of a row, or both texts of a pair, for a table."""
    return row.text if row.pair is None else f"{row.text} | {row.pair}"


def rows_digest(rows: Iterable[Example], labels: Sequence[str]) -> str:
    """Return the SHA-256 of texts and label names, for any file format and label numbers."""
    digest = hashlib.sha256()
    for row in rows:
        texts = [row.text] if row.pair is None else [row.text, row.pair]
        digest.update(json.dumps([*texts, named_label(row.label, labels)]).encode() + b"\n")
    return digest.hexdigest()


def named_label(label: Label, labels: Sequence[str]) -> str | list[str] | float:
    """Return the name of a label, the names of several, or the number itself."""
    if isinstance(label, tuple):
        return [labels[index] for index in label]
    return labels[label] if isinstance(label, int) else label
