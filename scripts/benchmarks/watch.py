"""Watches a training: it is told of every optimizer step, and may end the training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class Watch(ABC):
    """Is told the seconds and the tokens of every optimizer step, padding not counted."""

    @abstractmethod
    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """Take note of an optimizer step. Return whether training may end here.

        Args:
            is_latest: whether no later step was launched yet, so `model` is as this step left it.
                On a GPU the loop reads many steps at once, when later ones have changed the model.
        """

    @abstractmethod
    def before_steps(self, *, seconds: float) -> None:
        """Take note of the seconds before the first step, for example those of the probe fit."""


class Clock(Watch):
    """Adds up steps, seconds and tokens.

    Args:
        warm: first optimizer steps that do not count. They lay out weights and fill caches.
    """

    def __init__(self, *, warm: int = 0) -> None:
        self.steps, self.seconds, self.tokens = 0, 0.0, 0
        self.warm = warm

    @property
    def runs(self) -> bool:
        """Whether the next step counts."""
        return self.warm == 0

    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """Add a step. Return False: the training runs to its end."""
        if not self.runs:
            self.warm -= 1
            return False
        self.steps += 1
        self.seconds += seconds
        self.tokens += tokens
        return False

    def before_steps(self, *, seconds: float) -> None:
        """Add the seconds: they count as much as those of the steps."""
        self.seconds += seconds


class Timing(Clock):
    """Ends the training after at least `least_steps` and `least_seconds`.

    Steps alone would make the timing of a fast contender too short.

    Args:
        peak: returns the most memory held so far, in bytes. It is read after `least_steps`, as many
            for every contender, since the peak of a training grows with its steps.
        sample: how many steps make a fair sample.
    """

    def __init__(
        self,
        least_steps: int,
        least_seconds: float,
        peak: Callable[[], int],
        *,
        warm: int = 0,
        sample: int = 1,
    ) -> None:
        super().__init__(warm=warm)
        self.least_steps, self.least_seconds = least_steps, least_seconds
        self.peak, self.sample = peak, sample
        self.peak_bytes = 0

    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """Add a step. Return whether there are enough steps and seconds."""
        super().step(model, seconds=seconds, tokens=tokens, is_latest=is_latest)
        if self.steps <= self.least_steps:
            self.peak_bytes = self.peak()
        enough_steps = self.steps >= max(self.least_steps, self.sample)
        return enough_steps and self.seconds >= self.least_seconds


class Race(Clock):
    """Ends the training at a score, which is measured every so many steps and not timed.

    The score is that of the model as it is, so it is measured only after the latest step. The
    seconds of all steps until then count.

    Args:
        goal: the score.
        measure: returns the score of the model as it is.
        every: steps between two measurements.
    """

    def __init__(
        self,
        goal: float,
        measure: Callable[[Any], float],
        *,
        every: int,
    ) -> None:
        super().__init__()
        self.goal, self.measure, self.every = goal, measure, every
        self.curve: list[dict[str, float]] = []
        self.reached = False
        self.measured = 0  # multiples of `every` that have been measured or passed

    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """Add a step. Return whether the score is reached."""
        super().step(model, seconds=seconds, tokens=tokens, is_latest=is_latest)
        if is_latest and self.steps // self.every > self.measured:
            self.measured = self.steps // self.every
            score = self.measure(model)
            self.curve.append({"step": self.steps, "seconds": self.seconds, "score": score})
            self.reached = score >= self.goal
        return self.reached
