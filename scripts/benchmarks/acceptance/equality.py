"""Recorded steps against steps that are launched kernel by kernel, and models that can't be recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lora_scratch.commands.benchmarks.acceptance.finding import Finding
from lora_scratch.commands.benchmarks.acceptance.recorder import RepeatingRecorder
from lora_scratch.commands.benchmarks.acceptance.setup import (
    LEARNING_RATE,
    Setup,
    build_model,
    mixed_steps,
    trainable_tensors,
)
from torch import Tensor

from lora_scratch.data import Batch
from lora_scratch.fast.path import fast_path
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.runtime.seeds import seed_everything
from lora_scratch.training import TrainingConfig
from lora_scratch.training.step import Stepper

DROPOUT = 0.1
STEPS, ROWS, WIDTHS = 60, (32, 20), (16, 24, 40, 64, 128)  # every shape comes back twelve times
SMALL_STEPS, SMALL_ROWS, SMALL_WIDTHS = 12, (4, 3), (8, 12, 16)
# The largest relative error of a loss, and the error of the weights relative to how far they moved. Not bits: attention adds
# up its gradients in an order that varies. For scale, measured on a CPU in float32: two ways of computing the same, the fast
# path and the plain one at full size, are 9e-7 and 3e-5 apart after 30 steps; other random numbers, over 1e-2 and 1e-1.
TOLERANCES = {"fp32": (1e-4, 1e-2), "bf16": (2e-2, 1e-1), "fp16": (2e-2, 1e-1)}


@dataclass(frozen=True)
class Outcome:
    """What some steps did: their losses, the trained tensors before and after, and the warnings about graphs."""

    losses: list[float]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    warned: list[str]
    stepper: Stepper | None = None

    @property
    def recorded(self) -> int:
        """How many shapes are replayed."""
        return len(self.stepper.graphs.recorded) if self.stepper and self.stepper.graphs else 0


def take_steps(
    setup: Setup,
    steps: Sequence[Sequence[Batch]],
    *,
    precision: str,
    dropout: float,
    recorder: Any = None,
    hook: Callable[..., Any] | None = None,
) -> Outcome:
    """Train a fresh model on these steps, from the same weights and random numbers at every call.

    Args:
        recorder: records shapes that come back; None launches every kernel.
        hook: a forward hook of the model.
    """
    model, computed_in = build_model(setup, dropout=dropout), resolve_precision(precision, setup.device)
    if hook is not None:
        model.register_forward_hook(hook)
    config = TrainingConfig(learning_rate=LEARNING_RATE, warmup_ratio=0)
    stepper = Stepper(model, config, precision=computed_in, total_steps=2 * len(steps))
    if recorder is not None:
        stepper.use_graphs(recorder)
    seed_everything(1)
    before = trainable_tensors(model)
    with fast_path(model, computed_in), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        losses = [stepper(step).loss for step in steps]
    warned = [text for each in said if "CUDA graphs" in (text := str(each.message))]
    return Outcome(losses, before, trainable_tensors(model), warned, stepper)


def compare(expected: Outcome, found: Outcome) -> dict[str, Any]:
    """The largest relative error of a loss, the error of the weights relative to their movement, and whether bits are equal.

    An error is NaN where a number is, which no tolerance admits.
    """
    apart, moved = distance(expected.after, found.after), distance(expected.after, expected.before)
    return {
        "loss_error": relative_error(expected.losses, found.losses),
        "weight_error": apart / moved if moved else float("nan"),
        "equal_bits": apart == 0 and expected.losses == found.losses,
    }


def relative_error(expected: Sequence[float], found: Sequence[float]) -> float:
    """The largest of |found - expected| / |expected|; NaN where one of them is."""
    one, other = (torch.tensor(values, dtype=torch.float64) for values in (expected, found))
    return float(((other - one).abs() / one.abs()).max())


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The Euclidean distance of all tensors together."""
    squares = [(one[name].double() - tensor.double()).square().sum() for name, tensor in other.items()]
    return float(torch.stack(squares).sum().sqrt())


def is_close(errors: Mapping[str, Any], precision: str) -> bool:
    """Whether both errors are within the tolerance of the precision. An error that is no number is not."""
    loss, weight = TOLERANCES[precision]
    return bool(errors["loss_error"] <= loss and errors["weight_error"] <= weight)


def graph_against_eager(setup: Setup) -> Finding:
    """The same seed with recorded graphs and without: dropout, two micro-batches a step, mixed widths."""
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
            problems.append(f"{precision} recorded {graphed.recorded} shapes: {'; '.join(graphed.warned) or 'too few'}")
        if graphed.stepper is not None:
            graphed.stepper.drop_graphs()
    return Finding(setup.describe() + line_of_errors(figures, problems), holds=not problems, figures=figures)


def fallback(setup: Setup) -> Finding:
    """A model that can't be captured trains on without graphs: the losses of eager steps, and dropout still drops.

    Two models: one that waits for the device in its forward pass, and one that does so only inside a capture.
    """
    steps = steps_of(setup)
    cases = {"waits": (_wait, "rehearse"), "breaks the capture": (_wait_in_capture, "record")}
    figures, problems = {}, []
    for name, (hook, refused_at) in cases.items():
        options: dict[str, Any] = {"precision": "fp32", "dropout": DROPOUT, "hook": hook}
        recorder = RepeatingRecorder(refuses=refused_at) if setup.is_small else setup.recorder()
        eager, tried = take_steps(setup, steps, **options), take_steps(setup, steps, recorder=recorder, **options)
        figures[name] = {**compare(eager, tried), "warned": tried.warned}
        problems += [f"{name}: {problem}" for problem in _problems_of_fallback(tried, figures[name], steps[0][0])]
    return Finding(setup.describe() + line_of_errors(figures, problems), holds=not problems, figures=figures)


def steps_of(setup: Setup) -> list[list[Batch]]:
    """The steps of these proofs."""
    return mixed_steps(
        setup,
        count=setup.choose(STEPS, SMALL_STEPS),
        rows=setup.choose(ROWS, SMALL_ROWS),
        widths=setup.choose(WIDTHS, SMALL_WIDTHS),
    )


def _problems_of_fallback(tried: Outcome, errors: Mapping[str, Any], batch: Batch) -> list[str]:
    checks = {
        "its losses are not those of eager steps": is_close(errors, "fp32"),
        "it was recorded": tried.recorded == 0,
        f"{len(tried.warned)} warnings in place of one": len(tried.warned) == 1,
        "dropout does not drop": _drops(tried.stepper, batch),
    }
    return [problem for problem, holds in checks.items() if not holds]


def _drops(stepper: Stepper | None, batch: Batch) -> bool:
    """Whether the same batch has two losses under the same weights."""
    if stepper is None:
        return False
    first, second = (float(stepper.backward(batch, len(batch.labels))) for _ in range(2))
    return first != second


def _wait(model: Any, arguments: Any, output: Any) -> None:
    output.logits.sum().item()


def _wait_in_capture(model: Any, arguments: Any, output: Any) -> None:
    """Only where a graph is really captured: GraphedBackward says so of its warm-up too, but not to this function."""
    if output.logits.is_cuda and torch._C._cuda_isCurrentStreamCapturing():
        _wait(model, arguments, output)


def line_of_errors(figures: Mapping[str, Mapping[str, Any]], problems: Sequence[str]) -> str:
    """What differs, and every error."""
    shown = (f"{name}: {'equal bits' if errors['equal_bits'] else _errors(errors)}" for name, errors in figures.items())
    return "; ".join([*problems, *shown])


def _errors(errors: Mapping[str, Any]) -> str:
    return f"losses to {errors['loss_error']:.1e}, weights to {errors['weight_error']:.1e}"
