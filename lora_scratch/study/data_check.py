"""What check_data finds in the rows of a data set, as one object and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from ..data import Example, Splits
from ..data.examples import named_label
from ..data.near_copies import NearCopy
from ..data.overlap import NAMES, AllRows, Copies, Place
from ..data.shift import Shift, class_counts, class_shifts, number_shifts, scores, spread_of
from ..tasks import REGRESSION
from .suspects import Suspect

CROSSINGS = (("test", "train"), ("validation", "train"), ("test", "validation"))  # whose texts are not to be shared


@dataclass(frozen=True)
class Lengths:
    """The length of every row in words, or in tokens with a model.

    Args:
        rows: by split; tokens are counted after the cut.
        cut: how many rows were cut to `max_tokens`, by split; None without a model.
    """

    unit: str
    rows: Mapping[str, Sequence[int]]
    cut: Mapping[str, int] | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class HardRow:
    """A training row with its label and the mean margin of a training."""

    row: int
    label: str
    margin: float


@dataclass(frozen=True)
class DataCheck:
    """The findings.

    Args:
        near: None if near copies were not looked for.
        suspects: rows whose label may be wrong, counted through all splits; None without a model.
        hard: training rows by the margins of a run, the lowest first; None without a run.
    """

    splits: Splits
    copies: Copies
    lengths: Lengths
    near: Sequence[NearCopy] | None = None
    suspects: Sequence[Suspect] | None = None
    hard: Sequence[HardRow] | None = None

    @cached_property
    def places(self) -> list[Place]:
        """Where the row of every number stands."""
        return AllRows(self.splits).places

    @cached_property
    def counts(self) -> dict[str, list[int]] | None:
        """The rows of every label by split; None for scores."""
        return None if self.splits.task == REGRESSION else class_counts(self.splits)

    @cached_property
    def shifts(self) -> list[Shift]:
        """The splits that differ from the training rows by more than chance gives."""
        found = class_shifts(self.counts) if self.counts else number_shifts(scores(self.splits), "scores")
        return [*found, *number_shifts(self.lengths.rows, "lengths")]

    def example(self, place: Place) -> Example:
        """Return the row at a place."""
        row: Example = getattr(self.splits, place.split)[place.row]
        return row

    def label(self, place: Place) -> str:
        """Return the label of a row as text."""
        name = named_label(self.example(place).label, self.splits.labels)
        return ", ".join(name) if isinstance(name, list) else str(name)

    def as_json(self, *, top: int) -> dict[str, Any]:
        """Return every finding as JSON: all copies, and the first `top` suspects and hard rows."""
        return {
            "source": self.splits.source,
            "task": self.splits.task,
            "rows": {name: len(getattr(self.splits, name)) for name in NAMES},
            "repeated_texts": len(self.copies.texts),
            "conflicts": len(self.copies.conflicts),
            "shared": [{"rows_of": a, "in": b, "rows": self.copies.shared(a, b)} for a, b in CROSSINGS],
            "copies": [
                {"conflict": text.conflict, "rows": [self._row(place) for place in text.places]}
                for text in self.copies.texts
            ],
            "near_copies": self._near(),
            "classes": self._classes(),
            "scores": _in_short(scores(self.splits)),
            "lengths": {
                "unit": self.lengths.unit,
                "cut": self.lengths.cut,
                "max_tokens": self.lengths.max_tokens,
                **_in_short(self.lengths.rows),
            },
            "shifts": [asdict(shift) for shift in self.shifts],
            "suspects": self._suspects(top),
            "hard_rows": self._hard(top),
        }

    def _row(self, place: Place) -> dict[str, Any]:
        row = self.example(place)
        pair = {} if row.pair is None else {"pair": row.pair}
        return {**asdict(place), "label": named_label(row.label, self.splits.labels), "text": row.text, **pair}

    def _near(self) -> list[dict[str, Any]] | None:
        return (
            None
            if self.near is None
            else [
                {
                    "similarity": near.similarity,
                    "conflict": near.conflict,
                    "rows": [self._row(near.place), self._row(near.other)],
                }
                for near in self.near
            ]
        )

    def _classes(self) -> dict[str, dict[str, int]] | None:
        if self.counts is None:
            return None
        return {name: dict(zip(self.splits.labels, self.counts[name], strict=True)) for name in NAMES}

    def _suspects(self, top: int) -> dict[str, Any] | None:
        if self.suspects is None:
            return None
        rows = [{**self._row(self.places[s.row]), "suggested": s.suggested, "score": s.score} for s in self.suspects[:top]]
        return {"number": len(self.suspects), "rows": rows}

    def _hard(self, top: int) -> list[dict[str, Any]] | None:
        if self.hard is None:
            return None
        return [{**self._row(Place("train", row.row)), "margin": row.margin} for row in self.hard[:top]]


def hard_rows(margins: Tensor, splits: Splits) -> list[HardRow]:
    """Return the training rows by their mean margin, the lowest first, without those that no step used. Shape: (n,)."""
    order = margins.argsort(stable=True)
    values = zip(order.tolist(), margins[order].tolist(), strict=True)
    named = [named_label(row.label, splits.labels) for row in splits.train]
    labels = [", ".join(name) if isinstance(name, list) else str(name) for name in named]
    return [HardRow(row, labels[row], margin) for row, margin in values if margin == margin]


def _in_short(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: asdict(spread_of(values[name])) for name in NAMES if values[name]}
