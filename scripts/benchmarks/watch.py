"""What looks on while a contender trains: it is told of every optimizer step, and may end the training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lora_scratch.evaluation import measure


class Watch(ABC):
    """Told the seconds and the real tokens of every optimizer step, padding not counted."""

    @abstractmethod
    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """After an optimizer step; whether training may end here.

        Args:
            is_latest: no later step was launched yet, so `model` is as this step left it. On a GPU the loop reads many
                steps at once, when the model is already as the last of them left it.
        """

    @abstractmethod
    def before_steps(self, *, seconds: float) -> None:
        """What was done before the first of them took."""


class Clock(Watch):
    """Adds up.

    Args:
        warm: optimizer steps that are not counted. In the first ones weights are laid out and caches filled, once a run.
    """

    def __init__(self, *, warm: int = 0) -> None:
        self.steps, self.seconds, self.tokens = 0, 0.0, 0
        self.warm = warm

    @property
    def runs(self) -> bool:
        """Whether the next step counts."""
        return self.warm == 0

    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """Never ends it."""
        if not self.runs:
            self.warm -= 1
            return False
        self.steps, self.seconds, self.tokens = self.steps + 1, self.seconds + seconds, self.tokens + tokens
        return False

    def before_steps(self, *, seconds: float) -> None:
        """It counts as much as the steps do."""
        self.seconds += seconds


class Timing(Clock):
    """Until there are `least_steps` and `least_seconds` of them: a fast contender's few steps would be a short look.

    Args:
        peak: the most memory held so far, in bytes; read after `least_steps`, which are as many for every contender, since
            the peak of a training grows with its steps.
        sample: a fair sample is of so many steps.
    """

    def __init__(
        self, least_steps: int, least_seconds: float, peak: Callable[[], int], *, warm: int = 0, sample: int = 1
    ) -> None:
        super().__init__(warm=warm)
        self.least_steps, self.least_seconds, self.peak, self.sample = least_steps, least_seconds, peak, sample
        self.peak_bytes = 0

    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """Ends it when it has seen enough."""
        super().step(model, seconds=seconds, tokens=tokens, is_latest=is_latest)
        if self.steps <= self.least_steps:
            self.peak_bytes = self.peak()
        return self.steps >= max(self.least_steps, self.sample) and self.seconds >= self.least_seconds


class Race(Clock):
    """Until an accuracy is reached, measured every so many steps; the measuring is not timed.

    The accuracy is that of the model as it is, so it waits for the latest step; the seconds of all steps until then count.

    Args:
        goal: the accuracy, from 0 to 1.
        predict: the logits of the rows that it is measured on.
        labels: of these rows. Shape (n,).
    """

    def __init__(self, goal: float, predict: Callable[[Any], Tensor], labels: Tensor, *, every: int) -> None:
        super().__init__()
        self.goal, self.predict, self.labels, self.every = goal, predict, labels, every
        self.curve: list[dict[str, float]] = []
        self.reached = False
        self.measured = 0  # multiples of `every` that have been measured or passed

    def step(self, model: Any, *, seconds: float, tokens: int, is_latest: bool = True) -> bool:
        """Ends it at the goal."""
        super().step(model, seconds=seconds, tokens=tokens, is_latest=is_latest)
        if is_latest and self.steps // self.every > self.measured:
            self.measured = self.steps // self.every
            accuracy = measure(self.predict(model), self.labels).accuracy
            self.curve.append({"step": self.steps, "seconds": self.seconds, "accuracy": accuracy})
            self.reached = accuracy >= self.goal
        return self.reached
