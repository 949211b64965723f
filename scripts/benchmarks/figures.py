"""The measured figures, and their medians over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .idle import Idleness


@dataclass(frozen=True)
class Figure:
    """One measure of one contender in one round.

    Args:
        values: the numbers, plain JSON.
        machine: how busy the machine was just before.
    """

    measure: str
    contender: str
    round: int
    values: Mapping[str, Any]
    machine: Idleness

    def as_json(self) -> dict[str, Any]:
        """Return everything but the labels of single texts, which serve only to be compared."""
        return {
            "measure": self.measure,
            "contender": self.contender,
            "round": self.round,
            "machine": {**asdict(self.machine), "idle": self.machine.idle},
            **{name: value for name, value in self.values.items() if name != "labels"},
        }


class Figures:
    """All figures of a run."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self.all = tuple(figures)

    def of(self, measure: str, contender: str) -> list[Figure]:
        """Return the rounds of one contender."""
        key = (measure, contender)
        return [figure for figure in self.all if (figure.measure, figure.contender) == key]

    def contenders(self, measure: str) -> list[str]:
        """Return the measured contenders, in order."""
        return list(dict.fromkeys(f.contender for f in self.all if f.measure == measure))

    def has(self, measure: str, name: str) -> bool:
        """Return whether this number was measured."""
        return any(name in figure.values for figure in self.all if figure.measure == measure)

    def values(self, measure: str, contender: str, name: str) -> list[float]:
        """Return one number of every round that has it."""
        values = (figure.values.get(name) for figure in self.of(measure, contender))
        return [float(value) for value in values if value is not None]

    def median(self, measure: str, contender: str, name: str) -> float | None:
        """Return the median over the rounds; None if it was not measured."""
        values = self.values(measure, contender, name)
        return statistics.median(values) if values else None

    def ratio(self, measure: str, name: str, contender: str, to: str) -> float | None:
        """Return the median of `contender` over that of `to`."""
        top, bottom = self.median(measure, contender, name), self.median(measure, to, name)
        return None if top is None or not bottom else top / bottom

    def agreement(self, contender: str, other: str) -> float | None:
        """Return the share of texts with the same predicted label from both."""
        ours, theirs = self.of("prediction", contender), self.of("prediction", other)
        if not ours or not theirs:
            return None
        return share_equal(ours[0].values["labels"], theirs[0].values["labels"])

    def summary(self) -> list[dict[str, Any]]:
        """Return median, minimum and maximum of every number, by measure and contender."""
        names = dict.fromkeys((figure.measure, figure.contender) for figure in self.all)
        return [self._summary(*name) for name in names]

    def _summary(self, measure: str, contender: str) -> dict[str, Any]:
        rounds = self.of(measure, contender)
        first = rounds[0].values
        numbers = [name for name, value in first.items() if isinstance(value, int | float)]
        return {
            "measure": measure,
            "contender": contender,
            "rounds": len(rounds),
            "idle_rounds": sum(figure.machine.idle for figure in rounds),
            **{name: _spread(self.values(measure, contender, name)) for name in numbers},
        }


def share_equal(labels: Sequence[str], others: Sequence[str]) -> float:
    """Return the share of texts whose two labels are equal."""
    pairs = list(zip(labels, others, strict=True))
    return sum(one == other for one, other in pairs) / len(pairs)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
