"""Saved adapters into one: each opened on its base and checked, the sum written as an ordinary adapter folder."""

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
from .operations import combine, recompress, update_norm
from .update import AdapterUpdate, install_update, take_update


@dataclass(frozen=True)
class Part:
    """One adapter of a sum.

    Args:
        base: the name of its base.
    """

    folder: str
    weight: float
    update: AdapterUpdate
    base: str
    provenance: Provenance


@dataclass(frozen=True)
class Row:
    """One module of a sum: its rank as written and as it added up, ‖ΔW‖, and what is lost of it, ‖ΔW − ΔWᵣ‖ / ‖ΔW‖."""

    name: str
    rank: int
    exact_rank: int
    norm: float
    residual: float


@dataclass(frozen=True)
class Combination:
    """A sum of adapters.

    Args:
        heads_from: the folder whose heads were taken, if one was named.
    """

    update: AdapterUpdate
    rows: list[Row]
    parts: list[Part]
    heads_from: str | None

    @property
    def holder(self) -> Part:
        """The adapter whose labels and settings of data the sum goes on with: that of the heads, else the first."""
        return next(part for part in self.parts if self.heads_from in (None, part.folder))

    @property
    def residual(self) -> float:
        """The share that was lost of all updates together, √Σ‖ΔW − ΔWᵣ‖² / √Σ‖ΔW‖²."""
        whole = sum(row.norm**2 for row in self.rows)
        return float((sum((row.residual * row.norm) ** 2 for row in self.rows) / whole) ** 0.5) if whole else 0.0


def open_parts(folders: Sequence[str], weights: Sequence[float], *, model: str | None = None) -> list[Part]:
    """What each folder changes, with all the checks that loading makes; the models themselves are let go.

    Raises:
        AdapterFileError: a folder, or its fit to the base. ModelError: the base can't be loaded. ConfigError: DoRA.
    """
    parts = []
    for folder, weight in zip(folders, weights, strict=True):
        saved = open_adapter(folder, model=model)
        parts.append(Part(folder, weight, take_update(saved.base.model), saved.base.name, saved.provenance))
    return parts


def combined(parts: list[Part], *, rank: int | None = None, heads_from: str | None = None) -> Combination:
    """Σ weight · ΔW, recompressed to `rank` if there is one.

    Raises:
        ConfigError: labels that differ, heads or weights without a meaning, another base.
    """
    if heads_from is None:
        _check_labels(parts)
    holder = None if heads_from is None else [part.folder for part in parts].index(heads_from)
    exact = combine([part.update for part in parts], [part.weight for part in parts], heads_from=holder)
    update, residuals = (exact, dict.fromkeys(exact.factors, 0.0)) if rank is None else recompress(exact, rank)
    rows = [
        Row(name, update.factors[name].rank, factors.rank, update_norm(factors), residuals[name])
        for name, factors in exact.factors.items()
    ]
    return Combination(update, rows, parts, heads_from)


def save_combination(found: Combination, folder: Path, *, command: str, model: str | None = None) -> Path:
    """Write it as an adapter folder; provenance.json says of what, with which weights, it is the sum.

    `data` and `training` there are the holder's: what the scripts look up to measure with the same rows and precision.

    Raises:
        LoraScratchError: the folder can't be written.
    """
    holder = found.holder.provenance
    base = open_base_of(holder, model or found.holder.base)
    install_update(base.model, found.update, seed=holder.seed)
    history: dict[str, Any] = {
        **holder.select("labels", "data", "training"),
        "versions": versions(),
        "command": command,
        "combined": {
            "of": [_origin(part) for part in found.parts],
            "heads_from": found.heads_from,
            "residual": found.residual,
        },
    }
    origins = [(part.folder, part.weight) for part in found.parts]
    card = combined_card(base.name, holder.labels, origins, residual=found.residual, command=command)
    return save_adapter(base.model, folder, base_model=base.name, notes=history, card=card)


def _origin(part: Part) -> dict[str, Any]:
    recorded = part.provenance.select("adapter_sha256", "data", "training", "combined")
    return {"folder": part.folder, "weight": part.weight, **recorded}


def _check_labels(parts: list[Part]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other.provenance.labels != first.provenance.labels:
            raise ConfigError(
                f"its labels are {', '.join(other.provenance.labels)}",
                where=other.folder,
                expected=f"those of {first.folder}, in their order: {', '.join(first.provenance.labels)}",
                remedy="say whose head to take: --heads_from FOLDER",
            )
