"""Compares recorded steps with eager ones, and tries models that can't be recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_scratch.data import Batch
from lora_scratch.fast.path import GRADIENTS, FastPath
from lora_scratch.model.forward import forward_path
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.runtime.seeds import seed_everything
from lora_scratch.training.step import Stepper

from .finding import Finding
from .recorder import RepeatingRecorder
from .setup import Setup, build_model, mixed_steps, new_stepper, trainable_tensors

DROPOUT = 0.1
STEPS, ROWS, WIDTHS = 60, (32, 20), (16, 24, 40, 64, 128)  # every shape comes back twelve times
SMALL_STEPS, SMALL_ROWS, SMALL_WIDTHS = 12, (4, 3), (8, 12, 16)
# The largest relative error of a loss, and the error of the weights relative to how far they moved.
# Not bits: attention adds up its gradients in an order that varies. For scale, measured on a CPU in
# float32 after 30 steps at full size: the fast path and the plain one, which compute the same, are
# 9e-7 and 3e-5 apart; other random numbers, over 1e-2 and 1e-1.
TOLERANCES = {"fp32": (1e-4, 1e-2), "bf16": (2e-2, 1e-1), "fp16": (2e-2, 1e-1)}


@dataclass(frozen=True)
class Outcome:
    """What some steps did: losses, trained tensors before and after, warnings about graphs."""

    losses: list[float]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    warned: list[str]
    stepper: Stepper | None = None
    path: FastPath | None = None

    @property
    def recorded(self) -> int:
        """How many shapes are replayed."""
        keys = self.path.graphs.recorded if self.path else ()
        return sum(key[0] == GRADIENTS for key in keys)


def take_steps(
    setup: Setup,
    steps: Sequence[Sequence[Batch]],
    *,
    precision: str,
    dropout: float,
    recorder: Any = None,
    hook: Callable[..., Any] | None = None,
) -> Outcome:
    """Train a new model on these steps, from the same weights and random numbers at every call.

    Args:
        recorder: records shapes that come back; None launches every kernel.
        hook: a forward hook of the model.
    """
    model, computed_in = (
        build_model(setup, dropout=dropout),
        resolve_precision(precision, setup.device),
    )
    if hook is not None:
        model.register_forward_hook(hook)
    total_steps = 2 * len(steps)
    stepper, path = new_stepper(model, computed_in, total_steps=total_steps, recorder=recorder)
    seed_everything(1)
    before = trainable_tensors(model)
    with forward_path(model, computed_in), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        losses = [stepper(step).loss for step in steps]
    messages = [str(warning.message) for warning in said]
    warned = [message for message in messages if "CUDA graphs" in message]
    return Outcome(losses, before, trainable_tensors(model), warned, stepper, path)


def compare(expected: Outcome, result: Outcome) -> dict[str, Any]:
    """Return the errors of losses and weights, and whether all bits are equal.

    The error of the losses is the largest relative one, that of the weights is relative to their
    movement. An error is NaN where a number is NaN, which no tolerance admits.
    """
    apart = distance(expected.after, result.after)
    moved = distance(expected.after, expected.before)
    return {
        "loss_error": relative_error(expected.losses, result.losses),
        "weight_error": apart / moved if moved else float("nan"),
        "equal_bits": apart == 0 and expected.losses == result.losses,
    }


def relative_error(expected: Sequence[float], values: Sequence[float]) -> float:
    """Return the largest of |value - expected| / |expected|; NaN where one of them is NaN."""
    one, other = (torch.tensor(numbers, dtype=torch.float64) for numbers in (expected, values))
    return float(((other - one).abs() / one.abs()).max())


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the Euclidean distance of all tensors together."""
    differences = (one[name].double() - tensor.double() for name, tensor in other.items())
    squares = [difference.square().sum() for difference in differences]
    return float(torch.stack(squares).sum().sqrt())


def is_close(
    errors: Mapping[str, Any],
    precision: str,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
) -> bool:
    """Return whether both errors are within the tolerance of the precision. NaN is not."""
    loss, weight = (tolerances or TOLERANCES)[precision]
    return bool(errors["loss_error"] <= loss and errors["weight_error"] <= weight)


def graph_against_eager(setup: Setup) -> Finding:
    """Train with the same seed with recorded graphs and without, and compare.

    With dropout, two micro-batches a step, and mixed widths.
    """
    steps = steps_of(setup)
    figures, problems = {}, []
    for precision in TOLERANCES:
        options: dict[str, Any] = {"precision": precision, "dropout": DROPOUT}
        eager = take_steps(setup, steps, **options)
        graphed = take_steps(setup, steps, recorder=setup.recorder(), **options)
        figures[precision] = {**compare(eager, graphed), "recorded_shapes": graphed.recorded}
        if not is_close(figures[precision], precision):
            problems.append(f"{precision} differs")
        if graphed.recorded < len(steps[0]) * len(setup.choose(WIDTHS, SMALL_WIDTHS)):
            reason = "; ".join(graphed.warned) or "too few"
            problems.append(f"{precision} recorded {graphed.recorded} shapes: {reason}")
        if graphed.path is not None:
            graphed.path.close()
    return _finding(setup, figures, problems)


def fallback(setup: Setup) -> Finding:
    """Train models that can't be captured. They must have the losses of eager steps.

    Dropout must still drop. One model waits for the device in its forward pass, the other one only
    inside a capture.
    """
    steps = steps_of(setup)
    cases = {"waits": (_wait, "rehearse"), "breaks the capture": (_wait_in_capture, "record")}
    figures, problems = {}, []
    for name, (hook, refused_at) in cases.items():
        options: dict[str, Any] = {"precision": "fp32", "dropout": DROPOUT, "hook": hook}
        recorder = RepeatingRecorder(refuses=refused_at) if setup.is_small else setup.recorder()
        eager = take_steps(setup, steps, **options)
        tried = take_steps(setup, steps, recorder=recorder, **options)
        figures[name] = {**compare(eager, tried), "warned": tried.warned}
        problems_here = _problems_of_fallback(tried, figures[name], steps[0][0])
        problems += [f"{name}: {problem}" for problem in problems_here]
    return _finding(setup, figures, problems)


def steps_of(setup: Setup) -> list[list[Batch]]:
    """Return the steps of these proofs."""
    return mixed_steps(
        setup,
        count=setup.choose(STEPS, SMALL_STEPS),
        rows=setup.choose(ROWS, SMALL_ROWS),
        widths=setup.choose(WIDTHS, SMALL_WIDTHS),
    )


def line_of_errors(figures: Mapping[str, Mapping[str, Any]], problems: Sequence[str]) -> str:
    """Return one line with every problem and every error."""
    return "; ".join([*problems, *(f"{name}: {_errors(row)}" for name, row in figures.items())])


def _finding(
    setup: Setup,
    figures: Mapping[str, Mapping[str, Any]],
    problems: Sequence[str],
) -> Finding:
    line = setup.describe() + line_of_errors(figures, problems)
    return Finding(line, holds=not problems, figures=figures)


def _problems_of_fallback(tried: Outcome, errors: Mapping[str, Any], batch: Batch) -> list[str]:
    checks = {
        "its losses are not those of eager steps": is_close(errors, "fp32"),
        "it was recorded": tried.recorded == 0,
        f"{len(tried.warned)} warnings in place of one": len(tried.warned) == 1,
        "dropout does not drop": _drops(tried.stepper, batch),
    }
    return [problem for problem, holds in checks.items() if not holds]


def _drops(stepper: Stepper | None, batch: Batch) -> bool:
    """Return whether the same batch has two losses under the same weights."""
    if stepper is None:
        return False
    first, second = (float(stepper.backward(batch, len(batch.rows))) for _ in range(2))
    return first != second


def _wait(model: Any, arguments: Any, output: Any) -> None:
    output.logits.sum().item()


def _wait_in_capture(model: Any, arguments: Any, output: Any) -> None:
    """Wait only where a graph is really captured, not in the warm-up before it."""
    if output.logits.is_cuda and torch._C._cuda_isCurrentStreamCapturing():
        _wait(model, arguments, output)


def _errors(errors: Mapping[str, Any]) -> str:
    if errors["equal_bits"]:
        return "equal bits"
    return f"losses to {errors['loss_error']:.1e}, weights to {errors['weight_error']:.1e}"
