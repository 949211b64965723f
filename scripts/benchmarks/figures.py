"""What was measured, and the medians over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_scratch.commands.benchmarks.idle import Idleness


@dataclass(frozen=True)
class Figure:
    """One measure of one contender in one round.

    Args:
        values: what it found, plain JSON.
        machine: what the machine did in the moment before.
    """

    measure: str
    contender: str
    round: int
    values: Mapping[str, Any]
    machine: Idleness

    def as_json(self) -> dict[str, Any]:
        """Everything but the labels of single texts, which are only there to be compared."""
        values = {name: value for name, value in self.values.items() if name != "labels"}
        machine = {**asdict(self.machine), "idle": self.machine.idle}
        return {"measure": self.measure, "contender": self.contender, "round": self.round, "machine": machine, **values}


class Figures:
    """All figures of a run."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self.all = tuple(figures)

    def of(self, measure: str, contender: str) -> list[Figure]:
        """The rounds of one contender."""
        return [each for each in self.all if (each.measure, each.contender) == (measure, contender)]

    def contenders(self, measure: str) -> list[str]:
        """Who was measured, in order."""
        return list(dict.fromkeys(each.contender for each in self.all if each.measure == measure))

    def values(self, measure: str, contender: str, name: str) -> list[float]:
        """One number of every round that found it."""
        found = (each.values.get(name) for each in self.of(measure, contender))
        return [float(value) for value in found if value is not None]

    def median(self, measure: str, contender: str, name: str) -> float | None:
        """Over the rounds; None if it was not measured."""
        values = self.values(measure, contender, name)
        return statistics.median(values) if values else None

    def ratio(self, measure: str, name: str, contender: str, to: str) -> float | None:
        """Of the medians of two contenders."""
        top, bottom = self.median(measure, contender, name), self.median(measure, to, name)
        return None if top is None or not bottom else top / bottom

    def agreement(self, contender: str, other: str) -> float | None:
        """The share of texts with the same predicted label from both."""
        ours, theirs = self.of("prediction", contender), self.of("prediction", other)
        if not ours or not theirs:
            return None
        pairs = list(zip(ours[0].values["labels"], theirs[0].values["labels"], strict=True))
        return sum(bool(a == b) for a, b in pairs) / len(pairs)

    def summary(self) -> list[dict[str, Any]]:
        """Median, minimum and maximum of every number, by measure and contender."""
        names = dict.fromkeys((each.measure, each.contender) for each in self.all)
        return [self._summary(*name) for name in names]

    def _summary(self, measure: str, contender: str) -> dict[str, Any]:
        found = self.of(measure, contender)
        numbers = [name for name, value in found[0].values.items() if isinstance(value, int | float)]
        columns = {name: self.values(measure, contender, name) for name in numbers}
        spread = {
            name: {"median": statistics.median(each), "min": min(each), "max": max(each)} for name, each in columns.items()
        }
        idle = sum(each.machine.idle for each in found)
        return {"measure": measure, "contender": contender, "rounds": len(found), "idle_rounds": idle, **spread}
