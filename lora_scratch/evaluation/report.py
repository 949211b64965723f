"""The figures of a run as one JSON object: adapted against frozen baseline on the same rows.

{"baseline": {"accuracy", "macro_f1", "loss", "n"}, "adapted": the same, "linear_probe": the same (if there is one),
 "mcnemar": {"fixed", "broken", "p_value"},
 "parameters": {"total", "trainable", "lora", "head"},
 "train": {"seconds", "examples", "tokens", "examples_per_second", "peak_memory_bytes"} or null,
 "labels": [C names], "per_class": {"baseline": [C rows], "adapted": [C rows]},
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

from ..errors import ConfigError
from .mcnemar import mcnemar
from .metrics import confusion, correct, measure, per_class

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
    **extra: Any,
) -> dict[str, Any]:
    """The report of both models on the same rows; plain JSON types throughout.

    Shape: logits (n, C), labels (n,), C names.

    Args:
        parameters, train: at least the keys named at the top of this file; more are kept. `train` is None where nothing
            was trained, as when an adapter is only measured.
        probe_logits: those of `linear_probe`, if it was run.
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
    report |= {
        "mcnemar": asdict(mcnemar(correct(baseline_logits, labels), correct(adapted_logits, labels))),
        "parameters": dict(parameters),
        "train": None if train is None else dict(train),
        "labels": list(names),
        "per_class": {key: [asdict(row) for row in per_class(each, labels, names)] for key, each in logits.items()},
        "confusion": {name: confusion(each, labels).tolist() for name, each in logits.items()},
        "versions": dict(versions),
        "command": command,
    }
    if taken := sorted(report.keys() & extra.keys()):
        raise ConfigError(f"extra keys {', '.join(taken)} are the report's own", where="report")
    return _strict({**report, **extra})


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
