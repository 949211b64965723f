"""Saved adapters combined into one: opened, checked, added up, and written as an adapter folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluation import versions
from ..runs.model_card import combined_card
from ..runs.trained_adapter import open_adapter, open_base_of
from ..serialization import Provenance, save_adapter
from .operations import combine, recompress
from .update import AdapterUpdate, install_update, take_update


@dataclass(frozen=True)
class Part:
    """One adapter of a sum; `base` is the name of its base model."""

    folder: str
    weight: float
    update: AdapterUpdate
    base: str
    provenance: Provenance


@dataclass(frozen=True)
class Row:
    """One module of a sum: its rank, the rank of the exact sum, ‖ΔW‖, and ‖ΔW − ΔWᵣ‖ / ‖ΔW‖."""

    name: str
    rank: int
    exact_rank: int
    norm: float
    residual: float


@dataclass(frozen=True)
class Combination:
    """A sum of adapters; `heads_from` is the folder whose heads are used, if one was named."""

    update: AdapterUpdate
    rows: list[Row]
    parts: list[Part]
    heads_from: str | None

    @property
    def main_part(self) -> Part:
        """The adapter whose labels and data are recorded: that of the heads, else the first."""
        return next(part for part in self.parts if self.heads_from in (None, part.folder))

    @property
    def residual(self) -> float:
        """The loss of all updates together, √Σ‖ΔW − ΔWᵣ‖² / √Σ‖ΔW‖²."""
        whole = sum(row.norm**2 for row in self.rows)
        lost = sum((row.residual * row.norm) ** 2 for row in self.rows)
        return float((lost / whole) ** 0.5) if whole else 0.0


def open_part(folder: str, weight: float, *, model: str | None = None, labels: Sequence[str] | None = None) -> Part:
    """Load an adapter with all checks, and keep its update; the model is freed."""
    saved = open_adapter(folder, model=model, labels=labels)
    return Part(folder, weight, take_update(saved.base.model), saved.base.name, saved.provenance)


def combine_parts(parts: list[Part], *, rank: int | None, heads_from: str | None) -> Combination:
    """Return Σ weight · ΔW, in at most this rank. Raises ConfigError if tasks, labels or heads differ."""
    _check_tasks(parts)
    if heads_from is None:
        _check_labels(parts)
    index = None if heads_from is None else [part.folder for part in parts].index(heads_from)
    updates, weights = [part.update for part in parts], [part.weight for part in parts]
    exact = combine(updates, weights, heads_from=index)
    highest = max(factors.rank for factors in exact.factors.values())
    update, residuals = recompress(exact, highest if rank is None else rank)
    rows = [
        Row(name, update.factors[name].rank, factors.rank, factors.norm(), residuals[name])
        for name, factors in exact.factors.items()
    ]
    return Combination(update, rows, parts, heads_from)


def save_combination(combination: Combination, folder: Path, *, command: str) -> Path:
    """Write an adapter folder; its provenance.json names the parts and their weights."""
    main, residual = combination.main_part, combination.residual
    base = open_base_of(main.provenance, main.base)
    install_update(base.model, combination.update, seed=main.provenance.seed)
    history = {
        **main.provenance.select("labels", "task", "decision", "data", "training"),
        "versions": versions(),
        "command": command,
        "combined": {
            "of": [_origin(part) for part in combination.parts],
            "heads_from": combination.heads_from,
            "residual": residual,
        },
    }
    origins = [(part.folder, part.weight) for part in combination.parts]
    card = combined_card(base.name, main.provenance, origins, residual=residual, command=command)
    return save_adapter(base.model, folder, base_model=base.name, notes=history, card=card)


def _origin(part: Part) -> dict[str, Any]:
    recorded = part.provenance.select("adapter_sha256", "data", "training", "combined")
    return {"folder": part.folder, "weight": part.weight, **recorded}


def _check_tasks(parts: list[Part]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other.provenance.task != first.provenance.task:
            found, expected = f"its task is {other.provenance.task}", f"that of {first.folder}: {first.provenance.task}"
            raise ConfigError(found, where=other.folder, expected=expected, remedy="serve both from one bank instead")


def _check_labels(parts: list[Part]) -> None:
    first = parts[0]
    names = ", ".join(first.provenance.labels)
    for other in parts[1:]:
        if other.provenance.labels != first.provenance.labels:
            raise ConfigError(
                f"its labels are {', '.join(other.provenance.labels)}",
                where=other.folder,
                expected=f"those of {first.folder}, in their order: {names}",
                remedy="say whose head to take: --heads_from FOLDER",
            )
