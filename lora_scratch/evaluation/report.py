"""The figures of a run as one JSON object: adapted against frozen baseline on the same rows.

{"baseline": {"accuracy", "macro_f1", "loss", "n"}, "adapted": the same, "linear_probe": the same (if there is one),
 "verdict": {"word": "better" | "worse" | "not shown", "sentence"},
 "difference": {"accuracy" | "macro_f1" | "loss": {"value", "low", "high"}}, adapted minus baseline with a 95 % interval,
 "mcnemar": {"fixed", "broken", "p_value"},
 "changed": {"fixed" | "broken": [{"row", "label", "before", "after", "text" or null}]}, at most 1,000 rows each,
 "calibration": {"baseline" | "adapted": {"ece", "brier", "bins": [{"low", "high", "n", "confidence", "accuracy"}]},
                 "tempered": the same and "temperature", "loss" (if there are validation rows)},
 "lengths": [{"shortest", "longest", "n", "baseline", "adapted", "fixed", "broken"}] (if lengths are known),
 "parameters": {"total", "trainable", "lora", "head"},
 "train": {"seconds", "examples", "tokens", "examples_per_second", "peak_memory_bytes"} or null,
 "labels": [C names], "per_class": {"baseline": [C rows], "adapted": [C rows], "fixed": [C], "broken": [C]},
 "confusion": {"baseline": [[C x C]], "adapted": [[C x C]]},
 "versions": {...}, "command": "..."}
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from ..errors import ConfigError, DataError
from .bootstrap import paired_intervals
from .calibration import calibration, fit_temperature
from .mcnemar import mcnemar
from .metrics import confusion, correct, measure, per_class
from .verdict import changed_by_class, changed_rows, judge, length_slices

PARAMETER_KEYS = ("total", "trainable", "lora", "head")
TRAIN_KEYS = ("seconds", "examples", "tokens", "examples_per_second", "peak_memory_bytes")
PACKAGES = ("torch", "transformers", "datasets", "safetensors", "lora-scratch")


def build_report(
    *,
    baseline_logits: Tensor,
    adapted_logits: Tensor,
    labels: Tensor,
    names: Sequence[str],
    parameters: Mapping[str, int],
    train: Mapping[str, float] | None,
    versions: Mapping[str, str],
    command: str,
    probe_logits: Tensor | None = None,
    lengths: Tensor | None = None,
    validation_logits: Tensor | None = None,
    validation_labels: Tensor | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """The report of both models on the same rows; plain JSON types throughout.

    Shape: logits (n, C), labels (n,), C names.

    Args:
        parameters, train: at least the keys named at the top of this file; more are kept. `train` is None where nothing
            was trained, as when an adapter is only measured.
        probe_logits: those of `linear_probe`, if it was run.
        lengths: the rows' numbers of tokens (n,), for slices by length.
        validation_logits, validation_labels: the adapted model's on other rows than these, to fit a temperature on.
        extra: more to write down, under new keys.

    Raises:
        DataError: no rows, logits that are not finite, or shapes that do not fit together.
        ConfigError: a key is missing, taken twice, or holds what JSON has no form for (NaN and infinity among it).
    """
    _require(PARAMETER_KEYS, parameters, where="report: parameters")
    if train is not None:
        _require(TRAIN_KEYS, train, where="report: train")
    logits = {"baseline": baseline_logits, "adapted": adapted_logits}
    probe = {} if probe_logits is None else {"linear_probe": probe_logits}
    report: dict[str, Any] = {name: asdict(measure(each, labels)) for name, each in {**logits, **probe}.items()}
    report |= _comparison(baseline_logits, adapted_logits, labels)
    changed = changed_rows(baseline_logits, adapted_logits, labels, names)
    report |= {
        "changed": {kind: [asdict(row) for row in rows] for kind, rows in changed.items()},
        "calibration": _calibration(logits, labels, validation_logits, validation_labels),
        "parameters": dict(parameters),
        "train": None if train is None else dict(train),
        "labels": list(names),
        "per_class": {key: [asdict(row) for row in per_class(each, labels, names)] for key, each in logits.items()}
        | changed_by_class(baseline_logits, adapted_logits, labels),
        "confusion": {name: confusion(each, labels).tolist() for name, each in logits.items()},
        "versions": dict(versions),
        "command": command,
    }
    if lengths is not None:
        report["lengths"] = [asdict(each) for each in length_slices(baseline_logits, adapted_logits, labels, lengths)]
    if taken := sorted(report.keys() & extra.keys()):
        raise ConfigError(f"extra keys {', '.join(taken)} are the report's own", where="report")
    return _strict({**report, **extra})


def with_texts(report: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """The report with the text of every fixed and broken row; `texts` are those of all n rows, in order.

    Raises:
        DataError: another number of texts than of rows.
    """
    if len(texts) != report["adapted"]["n"]:
        raise DataError(f"{len(texts)} texts for {report['adapted']['n']} rows", where="report")
    changed = {kind: [{**row, "text": texts[row["row"]]} for row in rows] for kind, rows in report["changed"].items()}
    return {**report, "changed": changed}


def _comparison(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Any]:
    test = mcnemar(correct(before, labels), correct(after, labels))
    difference = paired_intervals(before, after, labels)
    verdict = judge(measure(before, labels), measure(after, labels), test, difference["accuracy"])
    return {
        "verdict": asdict(verdict),
        "difference": {score: asdict(interval) for score, interval in difference.items()},
        "mcnemar": asdict(test),
    }


def _calibration(
    logits: Mapping[str, Tensor], labels: Tensor, validation_logits: Tensor | None, validation_labels: Tensor | None
) -> dict[str, dict[str, Any]]:
    found = {name: asdict(calibration(each, labels)) for name, each in logits.items()}
    if (validation_logits is None) != (validation_labels is None):
        raise ConfigError("validation logits without labels, or labels without logits", where="report")
    if validation_logits is not None and validation_labels is not None:
        temperature = fit_temperature(validation_logits, validation_labels)
        cooled = logits["adapted"].double() / temperature
        figures = {"temperature": temperature, "loss": measure(cooled, labels).loss}
        found["tempered"] = {**figures, **asdict(calibration(cooled, labels))}
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the checkout itself, run without being installed
        return "not installed"


def _require(keys: Sequence[str], found: Mapping[str, Any], *, where: str) -> None:
    if missing := [key for key in keys if key not in found]:
        raise ConfigError(f"without {', '.join(missing)}", where=where, expected=", ".join(keys))


def _strict(report: dict[str, Any]) -> dict[str, Any]:
    """The report itself, if JSON can hold it."""
    try:
        json.dumps(report, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"not a JSON value ({error})", where="report", expected="finite numbers and plain types"
        ) from error
    return report
