"""All that is wrong with an adapter folder, without its base: every reader is asked, and none stops the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapter.config import LoRAConfig, rank_of
from ..adapter.factors import FACTORS
from ..errors import AdapterFileError
from .peft_format import PREFIX, stored_config, without_wrapper_copies
from .provenance import differing_settings
from .save_load import CONFIG, WEIGHTS, read_config, read_provenance, read_tensors

WITH_FACTORS = ("lora", "dora")  # what the tensors of another variant are, its own layer alone knows


def problems_in_folder(folder: Path) -> list[str]:
    """One line for everything wrong with the files themselves; empty if nothing is. What the base says is not asked."""
    problems: list[str] = []
    notes: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    try:
        notes = read_provenance(folder)
    except AdapterFileError as error:
        problems += _lines(error)
    try:
        tensors = without_wrapper_copies(read_tensors(folder))
    except AdapterFileError as error:
        problems += _lines(error)
    try:
        config = read_config(folder, tensors, notes)
    except AdapterFileError as error:
        return list(dict.fromkeys([*problems, *_lines(error)]))  # read_tensors reads provenance.json too
    if tensors and config.variant in WITH_FACTORS:
        ranks = {name: rank for name, (rank, _) in _factors(tensors).items()}
        problems += _factor_problems(_factors(tensors), config)
        if notes:
            problems += differing_settings(ranks, config, notes["modules"])
    return list(dict.fromkeys(problems))


def _factors(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int | None, int | None]]:
    """The ranks that A and B of each module have; None for one that is missing or has no two axes."""
    found: dict[str, tuple[int | None, int | None]] = {}
    for lora_A, lora_B in FACTORS:
        for suffix in (lora_A, lora_B):
            for name in (name.removesuffix(f".{suffix}") for name in tensors if name.endswith(f".{suffix}")):
                a, b = tensors.get(f"{name}.{lora_A}"), tensors.get(f"{name}.{lora_B}")
                rank_a = a.shape[0] if a is not None and a.dim() == 2 else None
                rank_b = b.shape[1] if b is not None and b.dim() == 2 else None
                found[name.removeprefix(PREFIX)] = (rank_a, rank_b)
    return found


def _factor_problems(factors: Mapping[str, tuple[int | None, int | None]], config: LoRAConfig) -> list[str]:
    stored = stored_config(config)
    if not factors:
        return [f"{WEIGHTS} holds no A and B of any module"]
    return [
        f"{name} has A of rank {rank_a} and B of rank {rank_b}, and {CONFIG} says {rank_of(stored, name)}"
        for name, (rank_a, rank_b) in factors.items()
        if not rank_a == rank_b == rank_of(stored, name)
    ]


def _lines(error: AdapterFileError) -> list[str]:
    return [f"{Path(error.where).name}: {problem}" for problem in error.problems]
