"""The metadata at the head of a model card, as the hub reads it: base, data, results, an example.

A name stands there only if it is one of the hub: a folder of this machine means nothing to others.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from ..evaluation import Report
from ..runtime.markdown import yaml_block
from ..serialization import Provenance
from ..tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TITLES
from .loading import DEMO

EXAMPLE = "This is a short text, only to try the model."  # nobody's data
PIPELINE = "text-classification"
TASK_NAMES = {SINGLE_LABEL: "Text classification", MULTI_LABEL: "Multi-label classification", REGRESSION: "Text regression"}
# names of the library `evaluate`, where they are others than ours
METRICS: dict[str, tuple[str, dict[str, str] | None]] = {
    "macro_f1": ("f1", {"average": "macro"}),
    "micro_f1": ("f1", {"average": "micro"}),
    "matthews": ("matthews_correlation", None),
    "pearson": ("pearsonr", None),
    "spearman": ("spearmanr", None),
}
IN_CACHE = re.compile(r"/models--([\w.-]+?)(?:--([\w.-]+))?/snapshots/[^/]+/?$", re.ASCII)
HEAD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)


def card_metadata(base: str, provenance: Provenance, *, report: Report | None = None, test_split: str = "test") -> str:
    """Return the metadata of a card between its two lines of dashes.

    Args:
        base: the name that the base was just loaded by.
        report: the results on the test rows.
        test_split: what the data set calls these rows; empty if they were held out of train.
    """
    hub_base, dataset = hub_model(base), hub_dataset(provenance.data.source)[0]
    pairs = provenance.data.pair_column is not None
    values = {
        "base_model": hub_base,
        "library_name": "peft",
        "pipeline_tag": PIPELINE,
        "tags": ["lora", "lora-scratch", PIPELINE],
        "datasets": [dataset] if dataset else None,
        "widget": None if pairs else [{"text": EXAMPLE}],  # the hub's widget sends one text
        "model-index": _model_index(hub_base or Path(base).name, provenance, report, test_split) if report else None,
    }
    return f"---\n{yaml_block({key: value for key, value in values.items() if value is not None})}---\n"


def hub_model(name: str) -> str | None:
    """Return the hub's name of a base that was just loaded by `name`, or None if it has none.

    Of a folder it is the name of the hub's cache that it lies in, or `_name_or_path` of its config.json.
    """
    if name == DEMO:
        return None
    if not os.path.isdir(name):
        return name if is_hub_name(name) else None
    if cached := IN_CACHE.search(os.path.realpath(name)):
        return "/".join(filter(None, cached.groups()))
    recorded = _name_in_config(Path(name))
    return recorded if is_hub_name(recorded) and not os.path.exists(recorded) else None


def hub_dataset(source: str | None) -> tuple[str | None, str | None]:
    """Return the hub's name of a data set that was just loaded by `source`, and its configuration."""
    name, _, configuration = (source or "").partition(":")
    local = source in (None, "", DEMO) or os.path.exists(str(source)) or os.path.exists(name)
    return (None, None) if local or not is_hub_name(name) else (name, configuration or None)


def with_metadata(card: str, *, model_name: str = "", **entries: Any) -> str:
    """Return the card with these entries in its metadata; one that is None goes out.

    `model_name` is the name of the model in its results, if it has any.

    Raises:
        ValueError: its metadata are not a mapping in YAML.
    """
    import yaml

    head = HEAD.match(card)
    try:
        values = (yaml.safe_load(head[1]) if head else None) or {}
    except yaml.YAMLError as error:
        raise ValueError("the metadata of README.md are not valid YAML") from error
    if not isinstance(values, dict):
        raise ValueError("the metadata of README.md are no mapping")
    values |= entries
    match values.get("model-index"):
        case [{"name": _} as results, *_] if model_name:
            results["name"] = model_name
    kept = {key: value for key, value in values.items() if value is not None}
    return (f"---\n{yaml_block(kept)}---\n" if kept else "") + (card[head.end() :] if head else card)


def is_hub_name(name: str) -> bool:
    """Return whether a model or data set of the hub can be called so. A checkpoint's folder is none."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") <= 1 and not re.search(r"(^|/)checkpoint-\d+$", name)


def _name_in_config(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = config.get("_name_or_path") if isinstance(config, dict) else ""
    return name if isinstance(name, str) else ""


def _model_index(name: str, provenance: Provenance, report: Report, test_split: str) -> Any:
    """Return the results as the hub lists them, for every score of the task."""
    from huggingface_hub import EvalResult, ModelCardData

    source = provenance.data.source or "unknown"
    dataset, configuration = hub_dataset(source)
    shown = dataset or ("the demo's sentences" if source == DEMO else Path(source).name)
    results = [
        EvalResult(
            task_type=PIPELINE,
            task_name=TASK_NAMES[report.task],
            dataset_type=dataset or "custom",
            dataset_name=shown if test_split else f"{shown}, held-out rows",
            dataset_config=configuration,
            dataset_split=test_split or None,
            dataset_args={"rows": report.adapted.n},
            metric_type=METRICS.get(score, (score, None))[0],
            metric_name=TITLES[score],
            metric_args=METRICS.get(score, (score, None))[1],
            metric_value=round(value, 6),
        )
        for score, value in report.adapted.shown.items()
        if math.isfinite(value)
    ]
    card = ModelCardData(model_name=name, eval_results=results)
    return card.to_dict()["model-index"]  # type: ignore[no-untyped-call]
