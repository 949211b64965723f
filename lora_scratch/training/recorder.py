"""The clocks of a training run, its lines in metrics.jsonl, and its progress bar."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from .dynamics import Dynamics
from .state import TrainingState
from .step import StepReport


class Recorder:
    """Counts launched steps and writes a line for each one when its report is read.

    Args:
        read_every: launched steps between two readings. A reading waits for the device.
    """

    def __init__(self, state: TrainingState, dynamics: Dynamics, *, read_every: int) -> None:
        self.state, self.dynamics, self.read_every = state, dynamics, read_every
        self.waiting: list[tuple[int, int]] = []  # rows and tokens of every step that is not read
        self.window_start = 0.0  # when the first of them was launched

    @contextmanager
    def running(self, *, show_progress: bool) -> Iterator[None]:
        """Start the clocks and show the progress bar inside."""
        stepper = self.state.stepper
        self.start = time.perf_counter() - self.state.seconds
        self.cpu_start = time.process_time() - self.state.cpu_seconds
        bar = {"desc": "train", "unit": "step", "disable": not show_progress}
        with tqdm(total=stepper.total_steps, initial=stepper.step, **bar) as self.bar:
            yield

    def read_clocks(self) -> None:
        """Update `state.seconds` and `state.cpu_seconds`."""
        self.state.seconds = time.perf_counter() - self.start
        self.state.cpu_seconds = time.process_time() - self.cpu_start

    def before_launch(self) -> None:
        """Start the clock of the window with its first step."""
        if not self.waiting:
            self.window_start = time.perf_counter()

    def after_launch(self, *, rows: int, tokens: int) -> None:
        """Count a step, and read if `read_every` steps are waiting."""
        self.waiting.append((rows, tokens))
        if len(self.waiting) >= self.read_every:
            self.read()

    def read(self) -> None:
        """Read the waiting steps and write a line for each, with the mean speed of all."""
        counts, self.waiting = self.waiting, []
        if not counts:
            return
        first = self.state.stepper.step - len(counts) + 1
        reports, measured = self.state.stepper.read(), self.dynamics.read()
        seconds = time.perf_counter() - self.window_start
        speed = sum(tokens for _, tokens in counts) / seconds  # tokens a second
        for step, (report, (rows, tokens)) in enumerate(zip(reports, counts, strict=True), first):
            self.state.examples += rows
            self.state.tokens += tokens
            self._write(step, report, speed, measured.get(step, {}))
        self.bar.update(len(counts))

    def _write(self, step: int, report: StepReport, speed: float, figures: dict[str, Any]) -> None:
        state = self.state
        state.skipped += report.skipped
        state.log.write(
            event="step",
            step=step,
            epoch=state.epoch + 1,
            loss=report.loss,
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm,
            tokens_per_second=speed,
            skipped=state.skipped,
            **figures,
        )
        text = f"loss {report.loss:.3f}, lr {report.learning_rate:.1e}, {speed:,.0f} tokens/s"
        self.bar.set_postfix_str(text, refresh=False)
