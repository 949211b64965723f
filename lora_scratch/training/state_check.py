"""Check the state in a checkpoint before anything of it is loaded: every value has a type and a range.

The digests in a checkpoint find damage. They prove no origin, so a state from elsewhere must end in an
error, and never in a loop without end, a wrong position or memory out of bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from ..errors import CheckpointError
from ..runtime.json_types import Bound, Count, JsonReader, Seconds, between
from ..tasks import Metrics

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW
LISTED = 5  # faults that an error names

Positive = Annotated[float, Bound("a number above 0", lambda number: number > 0)]


@dataclass(frozen=True)
class Choices:
    """Choices that were made by timing the machine."""

    onednn: bool | None = None


@dataclass(frozen=True)
class Scaler:
    """The state of a GradScaler that is enabled."""

    scale: Positive
    growth_factor: Positive
    backoff_factor: Positive
    growth_interval: Annotated[int, between(1, 2**31 - 1)]
    _growth_tracker: Count


@dataclass(frozen=True)
class Values:
    """Position and counters of a run."""

    epoch: Count
    stale: Count
    examples: Count
    tokens: Count
    skipped: Count
    seconds: Seconds
    cpu_seconds: Seconds
    best_step: Count
    log_bytes: Count
    best: dict[str, Any] | None


@dataclass(frozen=True)
class StepperValues:
    """Counters of the optimizer steps."""

    step: Count
    skipped_in_a_row: Count
    pieces: Annotated[int, between(1, 2**31 - 1)]
    scaler: dict[str, Any]


def check_values(
    state: Mapping[str, Any], stepper: Mapping[str, Any], *, metrics: type[Metrics], steps: int, epochs: int, scales: bool
) -> None:
    """Check counters, position and best metrics.

    Args:
        stepper: the part of the state that is the stepper's.
        metrics: what the task measures.
        steps, epochs: of the whole run.
        scales: whether the run scales its loss.

    Raises:
        CheckpointError: everything wrong at once.
    """
    reader = JsonReader(allow_unknown=True)
    values: Values | None = reader.read(Values, dict(state))
    counters: StepperValues | None = reader.read(StepperValues, dict(stepper), "stepper")
    if values and values.best is not None:
        JsonReader(problems=reader.problems).read(metrics, values.best, "best")
    if counters and scales:
        reader.read(Scaler, counters.scaler, "stepper.scaler")
    if values and counters:
        reader.problems += _position_problems(values, counters, steps=steps, epochs=epochs)
    _refuse(reader.problems, "the values of a run with these settings")


def check_choices(state: Mapping[str, Any]) -> Any:
    """Return the choices of the forward pass, which are needed before the rest. Raises CheckpointError."""
    reader = JsonReader()
    reader.read(Choices, state.get("path", {}), "path")
    _refuse(reader.problems, "the choices of an earlier process")
    return state.get("path")


def check_tensors(saved: Mapping[str, Any], present: Mapping[str, Tensor], *, part: str) -> None:
    """Check that these are the tensors of this model, in name, shape and dtype. Raises CheckpointError."""
    problems = [f"{name} is not in it" for name in present if name not in saved]
    problems += [f"{name} is not trained here" for name in sorted(saved) if name not in present]
    problems += [fault for name in present if name in saved and (fault := _difference(name, saved[name], present[name]))]
    _refuse(problems, "the tensors that this model trains", part=part)


def check_moments(stepper: Mapping[str, Any], present: Mapping[str, Tensor]) -> None:
    """Check the moments of AdamW: of parameters that are trained, and of their shapes. Raises CheckpointError."""
    moments = {name: value for name, value in stepper.items() if "/" in name}
    owners = {name.rpartition("/")[0] for name in moments}
    known = {f"{owner}/{kind}": (owner, kind) for owner in owners for kind in MOMENTS}
    problems = [f"{owner} is not trained here" for owner in sorted(owners) if owner not in present]
    problems += [f"{name} is no moment of AdamW" for name in sorted(moments) if name not in known]
    for name, (owner, kind) in known.items():
        if owner in present:
            like = present[owner] if kind != "step" else present[owner].new_zeros(())
            fault = _difference(name, moments[name], like) if name in moments else f"{name} is not in it"
            problems += [fault] if fault else []
    _refuse(problems, "the moments of the tensors that this model trains", part="optimizer")


def _position_problems(values: Values, counters: StepperValues, *, steps: int, epochs: int) -> list[str]:
    step, steps_per_epoch = counters.step, max(1, steps // max(1, epochs))
    holds = {
        f"stepper.step is {step}, expected at most {steps}": step <= steps,
        f"epoch is {values.epoch}, expected {step // steps_per_epoch}": values.epoch == step // steps_per_epoch,
        f"best_step is {values.best_step}, expected at most {step}": values.best_step <= step,
        f"skipped is {values.skipped}, expected at most {step}": values.skipped <= step,
        f"stale is {values.stale}, expected at most {step}": values.stale <= step,
        "best is None after the validation of the last step": values.best is not None or step < steps,
        f"best is None and stale is {values.stale}": values.best is not None or not values.stale,
    }
    return [problem for problem, right in holds.items() if not right]


def _difference(name: str, saved: Any, present: Tensor) -> str | None:
    if not isinstance(saved, Tensor):
        return f"{name} is no tensor"
    if saved.shape != present.shape:
        return f"{name} has shape {tuple(saved.shape)}, here {tuple(present.shape)}"
    return None if saved.dtype == present.dtype else f"{name} is {saved.dtype}, here {present.dtype}"


def _refuse(problems: list[str], expected: str, *, part: str = "") -> None:
    if problems:
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        where = f"checkpoint, {part}" if part else "checkpoint"
        raise CheckpointError("; ".join(problems[:LISTED]) + more, where=where, expected=expected)
