"""The title of a run's page: what is predicted, by which model, on which data."""

from __future__ import annotations

from pathlib import Path

from ..errors import printable
from ..evaluation import Report

DEMO = {"model": "the demo model", "data": "the demo's texts"}
METHODS = {"lora": "LoRA", "dora": "DoRA"}


def run_title(report: Report, *, model: str, data: str, pairs: bool = False, variant: str = "lora") -> str:
    """Return `One of 6 labels for each text: minilm on emotion, before and after LoRA`.

    Args:
        model, data: a hub name, a path, of which only the last part is shown, or `demo`.
        pairs: whether a row has two texts.
        variant: the kind of adapter layer. It is not named where a run trained the model's own weights.
    """
    method = METHODS.get(variant, variant) if report.parameters.lora else "training"
    subject = "pair of texts" if pairs else "text"
    names = f"{_name(model, 'model')} on {_name(data, 'data')}"
    return printable(f"{_prediction(report)} for each {subject}: {names}, before and after {method}")


def _prediction(report: Report) -> str:
    if report.points is not None:
        return f"A number ({report.labels[0]})"
    count = len(report.labels)
    labels = f"{count:,} label{'s' if count > 1 else ''}"
    return f"Any of {labels}" if report.confusion is None else f"One of {labels}"


def _name(name: str, kind: str) -> str:
    """Return a name without the folders above it; a hub name, `owner/name`, stays whole."""
    if name == "demo":
        return DEMO[kind]
    path = Path(name)
    local = path.is_absolute() or name.startswith(".") or path.exists()
    return path.resolve().name if local else name
