"""Open an adapter folder again: its base, its labels, its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..adapter import NF4, LoRAConfig, quantize_base
from ..data import Splits
from ..errors import AdapterFileError, LoraScratchError
from ..model import Base
from ..runtime.ranks import check_same, check_same_tensors
from ..serialization import load_adapter, problems_on, read_provenance
from .hub import local_adapter
from .loading import open_base, open_splits, relabel
from .options import DataOptions

Noted = TypeVar("Noted", str, int)


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapted model as it was saved.

    Args:
        base: the base with the adapter in it.
        labels: the label names, in the order of the logits.
        notes: provenance.json.
        folder: where it lies.
    """

    base: Base
    config: LoRAConfig
    labels: tuple[str, ...]
    notes: dict[str, Any]
    folder: Path = Path()

    def noted(self, section: str, name: str, kind: type[Noted]) -> Noted:
        """What scripts/train.py noted under `section` in provenance.json.

        Raises:
            AdapterFileError: another program wrote the folder, and did not.
        """
        found = self.notes.get(section)
        value = found.get(name) if isinstance(found, dict) else None
        if type(value) is not kind:
            raise AdapterFileError(
                [f"{section}.{name} is {value!r}, which is no {kind.__name__}"],
                where=str(self.folder / "provenance.json"),
                expected="an adapter folder that scripts/train.py wrote",
            )
        return value


def open_adapter(folder: str | Path, *, model: str | None = None, verify_base: bool = True) -> TrainedAdapter:
    """Load the base that the adapter names (or `model`), with the adapter in it.

    Args:
        folder: of the adapter, or `hub:owner/name`, or `hub:owner/name@revision`.

    Raises:
        AdapterFileError: the folder, or its fit to the base. ModelError: the base can't be loaded. ConfigError: it is not
            the same in all processes.
    """
    folder = local_adapter(folder)
    notes = read_provenance(folder)
    labels, base_name = _labels(notes), model or notes.get("base", {}).get("name")
    if not labels or not base_name:
        raise AdapterFileError(
            ["provenance.json does not name the labels and the base model"],
            where=str(folder),
            expected="an adapter folder that scripts/train.py wrote",
            remedy="load folders of other tools with lora_scratch.load_adapter(model, folder)",
        )
    base = open_base_of(notes, base_name)
    config = load_adapter(base.model, folder, verify_base=verify_base, must_cover=base.newly_initialized)
    base.model.eval()
    check_same(f"the adapter {folder}", json.dumps(notes, sort_keys=True).encode())
    check_same_tensors("the model", base.model.state_dict())
    return TrainedAdapter(base, config, tuple(labels), notes, folder)


def open_rows(saved: TrainedAdapter, *, dataset: str | None = None, limit_eval: int | None = None) -> tuple[Splits, int]:
    """All rows that the adapter was trained with, or those of `dataset`, with the adapter's own label numbers, and the
    length they are cut to.

    Raises:
        AdapterFileError: another program wrote the folder. DataError: anything wrong with the rows.
    """
    max_tokens, seed = saved.noted("data", "max_tokens", int), saved.noted("training", "seed", int)
    notes = saved.notes["data"]
    recorded = {each.name: notes[each.name] for each in fields(DataOptions) if each.name in notes}
    data = DataOptions(**{**recorded, "limit_train": None, "limit_eval": limit_eval})
    data.dataset = dataset or saved.noted("data", "dataset", str)
    return relabel(open_splits(data, seed=seed), saved.labels), max_tokens


def problems_with_base(folder: Path, *, model: str) -> list[str]:
    """Why the adapter can't be opened on the base `model`, all of it; nothing if it can. What is wrong with the files does
    not hide that they belong to another base."""
    try:
        open_adapter(folder, model=model)
        return []
    except LoraScratchError as error:
        problems = _each(error)
    try:
        notes = read_provenance(folder)
        if _labels(notes):
            base = open_base_of(notes, model)
            problems += problems_on(base.model, folder, must_cover=base.newly_initialized)
    except LoraScratchError as error:
        problems += _each(error)
    return list(dict.fromkeys(problems))


def _each(error: LoraScratchError) -> list[str]:
    return list(error.problems) if isinstance(error, AdapterFileError) else [str(error)]


def open_base_of(notes: Mapping[str, Any], name: str) -> Base:
    """The base called `name` as the adapter of this provenance.json was trained on it: its labels, its seed, its precision.

    Raises:
        ModelError: it can't be loaded.
    """
    base = open_base(name, labels=notes["labels"], seed=notes.get("seed", 0))
    if notes.get("base", {}).get("precision") == NF4:
        quantize_base(base.model, heads=notes["config"]["head_modules"])
    return base


def _labels(notes: Mapping[str, Any]) -> list[str]:
    """Different names, or none at all."""
    found = notes.get("labels")
    names = found if isinstance(found, list) and all(isinstance(label, str) for label in found) else []
    return names if len(set(names)) == len(names) else []
