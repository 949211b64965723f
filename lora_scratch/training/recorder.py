"""What a training writes down: its clocks, a line of metrics.jsonl for every step, and the progress bar."""

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
    """Counts launched steps and writes a line for each, once what it did has been read.

    Reading makes the host wait for the device, so several steps are read at once.

    Args:
        read_every: launched steps between two readings.
    """

    def __init__(self, state: TrainingState, dynamics: Dynamics, *, read_every: int) -> None:
        self.state, self.dynamics, self.read_every = state, dynamics, read_every
        self.waiting: list[dict[str, int]] = []  # a record for every launched step that has not been read
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
        """Bring `state.seconds` and `state.cpu_seconds` up to now."""
        self.state.seconds = time.perf_counter() - self.start
        self.state.cpu_seconds = time.process_time() - self.cpu_start

    def before_launch(self) -> None:
        """Start the window's clock with the first step since the last reading."""
        if not self.waiting:
            self.window_start = time.perf_counter()

    def after_launch(self, *, rows: int, tokens: int) -> None:
        """Note a step. It is read when `read_every` steps are waiting."""
        self.waiting.append({"rows": rows, "tokens": tokens})
        if len(self.waiting) >= self.read_every:
            self.read()

    def read(self) -> None:
        """Read what the waiting steps did and write a line for each. They share the time since the first."""
        records, self.waiting = self.waiting, []
        if not records:
            return
        first = self.state.stepper.step - len(records) + 1
        reports, measured = self.state.stepper.read(), self.dynamics.read()
        seconds = time.perf_counter() - self.window_start
        rate = sum(record["tokens"] for record in records) / seconds  # tokens a second
        for step, (report, record) in enumerate(zip(reports, records, strict=True), first):
            self._write(step, report, rate, **record, **measured.get(step, {}))
        self.bar.update(len(records))

    def _write(self, step: int, report: StepReport, rate: float, *, rows: int, tokens: int, **figures: Any) -> None:
        state = self.state
        state.examples += rows
        state.tokens += tokens
        state.skipped += report.skipped
        state.log.write(
            event="step",
            step=step,
            epoch=state.epoch + 1,
            loss=report.loss,
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm,
            tokens_per_second=rate,
            skipped=state.skipped,
            **figures,
        )
        shown = f"loss {report.loss:.3f}, lr {report.learning_rate:.1e}, {rate:,.0f} tokens/s"
        self.bar.set_postfix_str(shown, refresh=False)
