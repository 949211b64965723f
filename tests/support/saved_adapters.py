"""Adapter folders of every task without a training: the update is random, so that answers differ from row to row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.folders import save_base

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.runs import open_base
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import move_adapter

LABELS = ("no", "yes", "perhaps")


def save_task_adapter(
    place: Path,
    *,
    task: str = "single_label",
    labels: tuple[str, ...] = LABELS,
    pair_column: str | None = None,
    decision: dict[str, Any] | None = None,
    precision: str | None = "fp32",
    base: Path | None = None,
) -> Path:
    """An adapter on a tiny base, which is made next to it unless it is given."""
    base = base or save_base(place / "base", labels=("a", "b"))
    model = inject(open_base(str(base), labels=labels, task=task).model, LoRAConfig(rank=2, alpha=3, dropout=0.0))
    move_adapter(model)
    columns = {"text_column": "body", "pair_column": pair_column, "label_column": "label", "max_tokens": 24}
    notes = {"labels": list(labels), "task": task, "decision": decision or {}, "data": columns}
    return save_adapter(
        model, place / "adapter", base_model=str(base), notes={**notes, "training": {"precision": precision}}
    )
