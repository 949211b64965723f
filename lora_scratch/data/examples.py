"""What a data set is once it has come through the door: checked rows, a number for every label, a digest of every split."""

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
        source: the file, folder or hub name that the rows came from.
        skipped: the bad rows that were left out, each `path:line: why`.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...]
    source: str
    skipped: tuple[str, ...] = ()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the rows of every split. Computed, not stored, so that it stays true when rows are cut off."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows_digest(rows, self.labels) for name, rows in splits.items()}


def rows_digest(rows: Iterable[Example], labels: Sequence[str]) -> str:
    """SHA-256 over texts and label names in order: it depends on the rows, not on file format or label numbering."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.text, labels[row.label]]).encode() + b"\n")
    return digest.hexdigest()
