"""What a part of the run is, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .setup import Setup

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
MEASURED, SMALL_FORM = "measured", "small form"
PROOF, MEASURE = "proof", "measure"


@dataclass(frozen=True)
class Finding:
    """The result of a part in its own process.

    Args:
        line: the result in words, for the table.
        holds: whether the proof holds; None for a measure.
        figures: every number, as JSON.
        skipped: rows that could not be measured, with the reason: `peft: peft not installed`.
    """

    line: str
    holds: bool | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[str] = ()


@dataclass(frozen=True)
class Gate:
    """A figure that must be at least `bound` on a GPU."""

    figure: str
    bound: float

    def missed(self, finding: Mapping[str, Any]) -> bool:
        """Return whether the figure was measured and is below the bound."""
        value = finding["figures"].get(self.figure)
        return value is not None and not value >= self.bound


@dataclass(frozen=True)
class Part:
    """One proof or measure.

    Args:
        budget_s: seconds after which it is stopped.
        lacks: returns why it can't run here; empty if it can.
        sees_all_gpus: whether it sees all GPUs. Else it sees one, since Trainer uses all it sees.
    """

    name: str
    kind: str
    budget_s: float
    run: Callable[[Setup], Finding]
    lacks: Callable[[Setup], str] = lambda setup: ""
    gate: Gate | None = None
    sees_all_gpus: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a part in a run.

    Args:
        output: the end of what its process wrote to stderr, if it failed.
    """

    part: str
    kind: str
    status: str
    line: str
    seconds: float
    figures: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""


def judge(part: Part, finding: Mapping[str, Any], *, is_small: bool) -> tuple[str, str]:
    """Return the status and the line of a part that ran.

    In small form nothing is proven and no gate is judged.
    """
    line = finding["line"]
    if finding["holds"] is False:
        return FAILED, line
    if is_small:
        return SMALL_FORM, line
    if part.gate is not None and part.gate.missed(finding):
        gate = f"{part.gate.figure} must be at least {part.gate.bound:g}"
        return FAILED, f"{line}; gate missed: {gate}"
    return (PASSED if finding["holds"] else MEASURED), line
