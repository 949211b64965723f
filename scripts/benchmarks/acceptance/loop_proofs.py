"""Proofs about the training loop: no wait between two readings, resumed as if undisturbed, and a GPU's losses a CPU's."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lora_scratch.commands.benchmarks.acceptance.equality import Outcome, compare, is_close, line_of_errors, relative_error
from lora_scratch.commands.benchmarks.acceptance.finding import Finding
from lora_scratch.commands.benchmarks.acceptance.setup import (
    LEARNING_RATE,
    Setup,
    build_model,
    random_rows,
    trainable_tensors,
)

from lora_scratch.data import Encoded
from lora_scratch.training import Checkpoints, MetricsLog, TrainingConfig, train
from lora_scratch.training.step import Stepper, StepReport

WARM_STEPS, STEPS = 100, 40
LOSS_TOLERANCE = 1e-3  # of a CPU against a GPU in float32, relative


class _Enough(Exception):
    """The steps that are needed were taken."""


class WaitGuard:
    """Makes waiting for the device an error between two readings of the loop, after `warm` steps.

    Args:
        steps: how many have to be launched under the error mode.
    """

    def __init__(self, *, warm: int, steps: int) -> None:
        self.warm, self.steps = warm, steps
        self.checked = 0  # steps that were launched under the error mode
        self.since: int | None = None  # the step at which that mode was entered

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, every `Stepper.read` leaves the error mode and enters it again."""
        usual = Stepper.read
        Stepper.read = self._reading(usual)  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            Stepper.read = usual  # type: ignore[method-assign]
            torch.cuda.set_sync_debug_mode("default")

    def _reading(self, usual: Callable[[Stepper], list[StepReport]]) -> Callable[[Stepper], list[StepReport]]:
        def read(stepper: Stepper) -> list[StepReport]:
            """Read as usual, which waits."""
            torch.cuda.set_sync_debug_mode("default")
            self.checked += 0 if self.since is None else stepper.step - self.since
            reports = usual(stepper)
            if self.checked >= self.steps:
                raise _Enough
            if stepper.step >= self.warm:
                self.since = stepper.step
                torch.cuda.set_sync_debug_mode("error")
            return reports

        return read


def no_host_wait(setup: Setup, *, warm: int = WARM_STEPS, steps: int = STEPS) -> Finding:
    """Loop steps between two readings never make the host wait: torch raises an error for every wait."""
    batch_size = setup.choose(32, 4)
    rows = random_rows((warm + 3 * steps) * batch_size, longest=32)  # few widths: all are recorded while it is warm
    model, guard = build_model(setup, dropout=0.1), WaitGuard(warm=warm, steps=steps)
    with guard.watching(), suppress(_Enough), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _train(setup.device, model, rows, MetricsLog(), batch_size=batch_size, precision="bf16")
    refused = [str(each.message) for each in said if "without CUDA graphs" in str(each.message)]
    line = refused[0] if refused else f"{guard.checked} steps launched without a wait"
    return Finding(line, holds=guard.checked >= steps and not refused, figures={"steps": guard.checked})


def resume(setup: Setup) -> Finding:
    """Stopped within an epoch and resumed from the last checkpoint: losses and weights of an undisturbed run.

    In bits on a CPU; on a GPU within the tolerance of float32, since attention adds up gradients in an order that varies.
    """
    undisturbed, resumed = (_run_with_checkpoints(setup, stop_at=step) for step in (None, setup.choose(33, 7)))
    errors = compare(undisturbed, resumed)
    holds = is_close(errors, "fp32") and (errors["equal_bits"] or not setup.is_small)
    described = setup.choose("", "small form on a CPU: ")
    return Finding(described + line_of_errors({"fp32": errors}, []), holds=holds, figures=errors)


def cpu_against_cuda(setup: Setup) -> Finding:
    """The loop's losses in float32 without dropout here and on a CPU; on a CPU, of the fast path and the plain one."""
    here = _losses(setup, setup.device, plain=False)
    error = relative_error(_losses(setup, torch.device("cpu"), plain=setup.is_small), here)
    line = f"{len(here)} losses to {error:.1e}, relative (at most {LOSS_TOLERANCE:g})"
    described = setup.choose("", "small form on a CPU, fast path against plain: ")
    return Finding(described + line, holds=error <= LOSS_TOLERANCE, figures={"loss_error": error, "steps": len(here)})


def _losses(setup: Setup, device: torch.device, *, plain: bool) -> list[float]:
    """Of every step of an epoch on `device`, of the model that belongs to `setup`."""
    model, log = build_model(setup, dropout=0.0), MetricsLog()
    flags: dict[str, Any] = {"batch_size": setup.choose(16, 4), "precision": "fp32", "plain": plain}
    _train(device, model, random_rows(setup.choose(480, 48)), log, **flags)
    return [event["loss"] for event in log.events if event["event"] == "step"]


def _train(
    device: torch.device, model: Any, rows: Encoded, log: MetricsLog, checkpoints: Checkpoints | None = None, **flags: Any
) -> None:
    config = TrainingConfig(device=str(device), **{"learning_rate": LEARNING_RATE, "epochs": 1, **flags})
    few = rows.select(range(8))
    train(model, rows, few, config, pad_token_id=0, log=log, checkpoints=checkpoints, show_progress=False)


def _run_with_checkpoints(setup: Setup, *, stop_at: int | None) -> Outcome:
    """A training with checkpoints; if it is stopped at a step, a second one resumes it. Losses are in the order of steps."""
    losses: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), save_steps=setup.choose(10, 3))
        for last_step in (None,) if stop_at is None else (stop_at, None):
            model = build_model(setup, dropout=0.1)
            before = trainable_tensors(model)
            with suppress(_Enough):
                _train_until(last_step, setup, model, checkpoints, losses)
    return Outcome([losses[step] for step in sorted(losses)], before, trainable_tensors(model), [])


def _train_until(
    last_step: int | None, setup: Setup, model: Any, checkpoints: Checkpoints, losses: dict[int, float]
) -> None:
    """Train from the last checkpoint; put the losses by step into `losses`, and raise `_Enough` after `last_step`."""

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            losses[event["step"]] = event["loss"]
            if event["step"] == last_step:
                raise _Enough

    flags: dict[str, Any] = {"batch_size": setup.choose(16, 8), "precision": "fp32", "epochs": 2}
    log = MetricsLog(listener=note)
    _train(setup.device, model, random_rows(setup.choose(400, 48)), log, checkpoints, **flags)
