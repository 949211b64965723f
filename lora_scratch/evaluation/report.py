"""The report of a run: the adapted model against the frozen baseline, on the same rows.

`Report.compare` measures, `as_json` gives what report.json holds (the fields by their names, without those that are
None), and `from_json` reads that back.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapter.factors import AdapterSummary
from ..adapter.state import ParameterCount
from ..errors import ConfigError
from ..runtime.atomic import read_json
from ..runtime.json_types import from_json
from ..tasks import Interval, Metrics, Task, make_task
from .calibration import Calibrations, compare_calibration
from .classes import ClassScores, Confusions, Points, class_scores, confusions, points
from .verdict import (
    ChangedRows,
    Constant,
    Leaked,
    LengthSlice,
    PairedTest,
    Verdict,
    against_constant,
    changed_rows,
    judge,
    length_slices,
)

PACKAGES = ("torch", "transformers", "datasets", "safetensors", "lora-scratch")
NULL_KEYS = ("train", "text")  # they stay in the JSON as null


@dataclass(frozen=True)
class TrainingCost:
    """What the training used: time on the clock and on all cores, rows, tokens without padding, memory."""

    seconds: float
    cpu_seconds: float
    examples: int
    tokens: int
    examples_per_second: float
    peak_memory_bytes: int
    skipped_steps: int = 0


@dataclass(frozen=True)
class ProbeCost:
    """What the linear probe used, and how many parameters it fitted."""

    cpu_seconds: float
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """All figures of a run. `train` is None if an adapter is only measured.

    `labels` are the C names of the outputs; `anatomy` has an entry for every adapted layer. What does not
    apply to the task is None: `calibration` and `confusion` need one label a row, `per_class` needs labels,
    `points` needs numbers.
    """

    task: str = "single_label"
    baseline: Metrics
    adapted: Metrics
    linear_probe: Metrics | None = None
    constant: Constant | None = None
    verdict: Verdict
    difference: dict[str, Interval]
    test: PairedTest
    changed: ChangedRows
    calibration: Calibrations | None = None
    lengths: list[LengthSlice] | None = None
    leaked: Leaked | None = None
    parameters: ParameterCount
    train: TrainingCost | None
    probe: ProbeCost | None = None
    labels: list[str]
    thresholds: dict[str, float] | None = None
    per_class: ClassScores | None = None
    confusion: Confusions | None = None
    points: Points | None = None
    anatomy: list[AdapterSummary] | None = None
    quantization: dict[str, float] | None = None
    versions: dict[str, str]
    command: str

    @classmethod
    def compare(
        cls,
        baseline: Tensor,
        adapted: Tensor,
        labels: Tensor,
        *,
        task: Task,
        parameters: ParameterCount,
        command: str,
        texts: Sequence[str] | None = None,
        lengths: Tensor | None = None,
        probe_logits: Tensor | None = None,
        train: TrainingCost | None = None,
    ) -> Report:
        """Measure both models on the same rows. (`dataclasses.replace` adds the other fields.)

        Shape: baseline, adapted, probe_logits (n, C) logits; labels as the task has them; lengths (n,); n texts.

        Args:
            task: with what it fitted on validation rows, as thresholds or a temperature.
            lengths: the rows' numbers of tokens, for slices by length.

        Raises:
            DataError: no rows, logits that are not finite, or shapes that do not fit.
        """
        before, after = task.measure(baseline, labels), task.measure(adapted, labels)
        found, constant = task.paired(baseline, adapted, labels), against_constant(task, adapted, labels)
        difference = task.intervals(baseline, adapted, labels)
        return cls(
            task=task.name,
            baseline=before,
            adapted=after,
            linear_probe=None if probe_logits is None else task.measure(probe_logits, labels),
            constant=constant,
            verdict=judge(before, after, found.word, difference[after.headline_name], constant),
            difference=difference,
            test=PairedTest(task.test_title, found.fixed, found.broken, found.p_value),
            changed=changed_rows(task, baseline, adapted, labels, texts=texts),
            lengths=None if lengths is None else length_slices(task, baseline, adapted, labels, lengths),
            parameters=parameters,
            train=train,
            labels=list(task.labels),
            versions=versions(),
            command=command,
            **_details(task, baseline, adapted, labels),
        )

    def make_task(self) -> Task:
        """Return the task that was measured, with its thresholds."""
        return make_task(self.task, self.labels).with_settings({"thresholds": self.thresholds})

    def as_json(self) -> dict[str, Any]:
        """Return what report.json holds. A ConfigError if a figure is NaN or infinite."""
        value = asdict(self, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None or k in NULL_KEYS})
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"not a JSON value ({error})", where="report", expected="finite numbers") from error
        return value

    @classmethod
    def from_json(cls, value: object, *, where: str = "report") -> Report:
        """Return the report that `as_json` gave. A DataError names what is missing or wrong."""
        report: Report = from_json(cls, value, where=where)
        return report

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a report.json. A LoraScratchError says if it is absent, damaged or not a report."""
        return cls.from_json(read_json(path, most_bytes=2**28, most_values=2**25), where=str(path))


def _details(task: Task, baseline: Tensor, adapted: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the fields that do not apply to every task."""
    logits = (baseline, adapted, labels)
    return {
        "thresholds": task.settings().get("thresholds"),
        "calibration": _calibration(task, *logits),
        "per_class": class_scores(task, *logits),
        "confusion": confusions(task, *logits),
        "points": points(task, *logits),
    }


def _calibration(task: Task, baseline: Tensor, adapted: Tensor, labels: Tensor) -> Calibrations | None:
    temperature = task.settings().get("temperature")
    return compare_calibration(baseline, adapted, labels, temperature) if task.has_confidence else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the figures depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "not installed"
