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
from .bootstrap import Differences, paired_intervals
from .calibration import Calibrations, compare_calibration
from .mcnemar import McNemar, mcnemar
from .metrics import ClassRow, Metrics, confusion, correct, measure, per_class
from .verdict import ChangedRows, LengthSlice, Verdict, changed_by_class, changed_rows, judge, length_slices

PACKAGES = ("torch", "transformers", "datasets", "safetensors", "lora-scratch")
NULL_KEYS = ("train", "text")  # they stay in the JSON as null


@dataclass(frozen=True)
class ClassScores:
    """Both models' scores of every class, and how many of its rows were fixed and broken. C entries each."""

    baseline: list[ClassRow]
    adapted: list[ClassRow]
    fixed: list[int]
    broken: list[int]


@dataclass(frozen=True)
class Confusions:
    """Both models' counts, true class by row and predicted class by column. Shape: (C, C) each."""

    baseline: list[list[int]]
    adapted: list[list[int]]


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

    `labels` are the C class names; `anatomy` has an entry for every adapted layer.
    """

    baseline: Metrics
    adapted: Metrics
    linear_probe: Metrics | None = None
    verdict: Verdict
    difference: Differences
    mcnemar: McNemar
    changed: ChangedRows
    calibration: Calibrations
    lengths: list[LengthSlice] | None = None
    parameters: ParameterCount
    train: TrainingCost | None
    probe: ProbeCost | None = None
    labels: list[str]
    per_class: ClassScores
    confusion: Confusions
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
        names: Sequence[str],
        parameters: ParameterCount,
        command: str,
        texts: Sequence[str] | None = None,
        lengths: Tensor | None = None,
        probe_logits: Tensor | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
        train: TrainingCost | None = None,
    ) -> Report:
        """Measure both models on the same rows. (`dataclasses.replace` adds the other fields.)

        Shape: baseline, adapted, probe_logits (n, C) logits; labels and lengths (n,); C names; n texts.

        Args:
            lengths: the rows' numbers of tokens, for slices by length.
            validation: the adapted model's logits of other rows and their labels, to fit a temperature on.

        Raises:
            DataError: no rows, logits that are not finite, or shapes that do not fit.
        """
        before, after = measure(baseline, labels), measure(adapted, labels)
        test = mcnemar(correct(baseline, labels), correct(adapted, labels))
        difference = paired_intervals(baseline, adapted, labels)
        return cls(
            baseline=before,
            adapted=after,
            linear_probe=None if probe_logits is None else measure(probe_logits, labels),
            verdict=judge(before, after, test, difference.accuracy),
            difference=difference,
            mcnemar=test,
            changed=changed_rows(baseline, adapted, labels, names, texts=texts),
            calibration=compare_calibration(baseline, adapted, labels, validation),
            lengths=None if lengths is None else length_slices(baseline, adapted, labels, lengths),
            parameters=parameters,
            train=train,
            labels=list(names),
            per_class=_class_scores(baseline, adapted, labels, names),
            confusion=Confusions(*(confusion(logits, labels).tolist() for logits in (baseline, adapted))),
            versions=versions(),
            command=command,
        )

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
        return cls.from_json(read_json(path), where=str(path))


def _class_scores(before: Tensor, after: Tensor, labels: Tensor, names: Sequence[str]) -> ClassScores:
    old, new = (per_class(logits, labels, names) for logits in (before, after))
    return ClassScores(old, new, **changed_by_class(before, after, labels))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the figures depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "not installed"
