"""A checked data set: rows with label numbers, in three splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Example:
    """A text and the index of its label in `Splits.labels`."""

    text: str
    label: int


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set.

    Args:
        labels: the label names; `Example.label` is an index into them.
        source: the file, folder or hub name of the rows.
        skipped: bad rows that were left out, as `path:line: reason`.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...]
    source: str
    skipped: tuple[str, ...] = ()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the rows of every split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows_digest(rows, self.labels) for name, rows in splits.items()}


def rows_digest(rows: Iterable[Example], labels: Sequence[str]) -> str:
    """Return the SHA-256 of texts and label names, for any file format and label numbers."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.text, labels[row.label]]).encode() + b"\n")
    return digest.hexdigest()
