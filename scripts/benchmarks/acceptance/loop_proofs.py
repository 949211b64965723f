"""Proofs about the training loop: no wait, exact resume, and the same losses on GPU and CPU."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from lora_scratch.data import Encoded
from lora_scratch.training import Checkpoints, MetricsLog, TrainingConfig, train
from lora_scratch.training.step import Stepper, StepReport

from .equality import Outcome, compare, is_close, line_of_errors, relative_error
from .finding import Finding
from .setup import LEARNING_RATE, Setup, build_model, random_rows, trainable_tensors

Read = Callable[[Stepper], list[StepReport]]

WARM_STEPS, STEPS = 100, 40
LOSS_TOLERANCE = 1e-3  # of a CPU against a GPU in float32, relative


class _Enough(Exception):
    """Enough steps were taken."""


class WaitGuard:
    """Makes waiting for the device an error between two readings of the loop, after `warm` steps.

    Args:
        steps: how many must be launched under the error mode.
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

    def _reading(self, usual: Read) -> Read:
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
    """Train with an error for every wait of the host between two readings of the loop."""
    batch_size = setup.choose(32, 4)
    # few widths, so that all are recorded before the error mode begins
    rows = random_rows((warm + 3 * steps) * batch_size, longest=32)
    model, guard = build_model(setup, dropout=0.1), WaitGuard(warm=warm, steps=steps)
    with guard.watching(), suppress(_Enough), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _train(setup.device, model, rows, MetricsLog(), batch_size=batch_size, precision="bf16")
    messages = [str(warning.message) for warning in said]
    refused = [message for message in messages if "without CUDA graphs" in message]
    line = refused[0] if refused else f"{guard.checked} steps launched without a wait"
    holds = guard.checked >= steps and not refused
    return Finding(line, holds=holds, figures={"steps": guard.checked})


def resume(setup: Setup) -> Finding:
    """Stop within an epoch, resume from the last checkpoint, and compare with an undisturbed run.

    Losses and weights must be equal: in bits on a CPU; on a GPU to the tolerance of float32, since
    attention adds up gradients in an order that varies.
    """
    undisturbed = _run_with_checkpoints(setup, stop_at=None)
    resumed = _run_with_checkpoints(setup, stop_at=setup.choose(33, 7))
    errors = compare(undisturbed, resumed)
    holds = is_close(errors, "fp32") and (errors["equal_bits"] or not setup.is_small)
    line = setup.choose("", "small form on a CPU: ") + line_of_errors({"fp32": errors}, [])
    return Finding(line, holds=holds, figures=errors)


def cpu_against_cuda(setup: Setup) -> Finding:
    """Compare the loop's losses here and on a CPU, in float32 without dropout.

    On a CPU, compare the fast path with the plain one.
    """
    here = _losses(setup, setup.device, plain=False)
    error = relative_error(_losses(setup, torch.device("cpu"), plain=setup.is_small), here)
    line = f"{len(here)} losses to {error:.1e}, relative (at most {LOSS_TOLERANCE:g})"
    described = setup.choose("", "small form on a CPU, fast path against plain: ")
    figures = {"loss_error": error, "steps": len(here)}
    return Finding(described + line, holds=error <= LOSS_TOLERANCE, figures=figures)


def _losses(setup: Setup, device: torch.device, *, plain: bool) -> list[float]:
    """Return the losses of an epoch on `device`, of the model that belongs to `setup`."""
    model, log = build_model(setup, dropout=0.0), MetricsLog()
    batch_size = setup.choose(16, 4)
    flags: dict[str, Any] = {"batch_size": batch_size, "precision": "fp32", "plain": plain}
    _train(device, model, random_rows(setup.choose(480, 48)), log, **flags)
    return [event["loss"] for event in log.events if event["event"] == "step"]


def _train(
    device: torch.device,
    model: Any,
    rows: Encoded,
    log: MetricsLog,
    checkpoints: Checkpoints | None = None,
    **flags: Any,
) -> None:
    settings = {"learning_rate": LEARNING_RATE, "epochs": 1, **flags}
    config = TrainingConfig(device=str(device), **settings)
    options: dict[str, Any] = {"log": log, "checkpoints": checkpoints, "show_progress": False}
    train(model, rows, rows.select(range(8)), config, pad_token_id=0, **options)


def _run_with_checkpoints(setup: Setup, *, stop_at: int | None) -> Outcome:
    """Train with checkpoints. If `stop_at` names a step, stop there and resume.

    The losses of the outcome are in the order of the steps.
    """
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
    last_step: int | None,
    setup: Setup,
    model: Any,
    checkpoints: Checkpoints,
    losses: dict[int, float],
) -> None:
    """Train from the last checkpoint. Put the losses by step into `losses`.

    Raises:
        _Enough: after `last_step`.
    """

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            losses[event["step"]] = event["loss"]
            if event["step"] == last_step:
                raise _Enough

    flags: dict[str, Any] = {"batch_size": setup.choose(16, 8), "precision": "fp32", "epochs": 2}
    rows, log = random_rows(setup.choose(400, 48)), MetricsLog(listener=note)
    _train(setup.device, model, rows, log, checkpoints, **flags)
