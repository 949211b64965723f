"""Which columns of a table are read, and what the cells of several label columns say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cells import Fault, is_missing, is_number, listed, number_of, shown

WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Columns:
    """The names of the text column, the label column and, for pairs of texts, the second text column.

    Args:
        label: several names are columns of 0 and 1, one for every label.
    """

    text: str
    label: str | tuple[str, ...]
    pair: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of the labels."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def of_classes(self) -> str:
        """The column whose feature can declare class names; empty where every label has a column."""
        return self.label if isinstance(self.label, str) else ""

    @property
    def names(self) -> list[str]:
        """The columns that are read, those of the labels last."""
        return [self.text, *([self.pair] if self.pair is not None else []), *self.labels]

    @property
    def flags(self) -> list[tuple[str, str]]:
        """The flag that names a column, and the column, in the order of `names`."""
        pair = [("--pair_column", self.pair)] if self.pair is not None else []
        return [("--text_column", self.text), *pair, *(("--label_column", label) for label in self.labels)]


BY_DEFAULT = Columns("text", "label")


def applying_labels(fields: Mapping[str, object], labels: Sequence[str]) -> list[str] | Fault | None:
    """Return the labels whose columns say yes, what is wrong with a cell, or None if no cell says anything."""
    if all(is_missing(fields[label], ()) or number_of(str(fields[label]).strip()) == -1 for label in labels):
        return None
    says = {label: truth(fields[label]) for label in labels}
    for label, yes in says.items():
        if yes is None:
            cell = "empty" if is_missing(fields[label], ()) else shown(fields[label])
            return Fault(f"column {label!r} is {cell}", f"0 or 1, or true or false, in {listed(labels)}")
    return [label for label, yes in says.items() if yes]


def truth(cell: object) -> bool | None:
    """Return what a cell says: 1, 1.0 and true are yes, 0, 0.0 and false no; None for anything else."""
    if isinstance(cell, bool):
        return cell
    text = str(cell).strip() if isinstance(cell, str) or is_number(cell) else ""
    number = number_of(text)
    return bool(number) if number in (0, 1) else WORDS.get(text.casefold())
