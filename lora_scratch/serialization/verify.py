"""Check the files of an adapter folder without its base. No fault hides another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from ..adapter.config import LoRAConfig, rank_of
from ..adapter.factors import FACTORS
from ..errors import AdapterFileError
from .adapter_folder import CONFIG, WEIGHTS, read_config, read_provenance, read_tensors
from .peft_format import IN_PEFT, PREFIX, stored_config
from .provenance import differing_settings, settings_by_module

Content = TypeVar("Content")
Factors = dict[str, tuple[int | None, int | None]]  # module name -> rank of A, rank of B


def problems_in_folder(folder: Path) -> list[str]:
    """Return one line for everything wrong with the files themselves, the fit to the base apart."""
    problems: list[str] = []
    provenance = _attempt(partial(read_provenance, folder), problems)
    tensors = _attempt(partial(read_tensors, folder, provenance), problems) or {}
    config = _attempt(partial(read_config, folder, tensors, provenance), problems)
    if config and tensors and config.variant in IN_PEFT:  # other variants have tensors of their own
        factors = _factors(tensors)
        problems += _factor_problems(factors, config)
        if provenance:
            problems += differing_settings(settings_by_module(factors, config), provenance.modules)
    return problems


def _attempt(read: Callable[[], Content], problems: list[str]) -> Content | None:
    """Return what `read` returns, or None after its faults were added to `problems`."""
    try:
        return read()
    except AdapterFileError as error:
        problems += [f"{Path(error.where).name}: {problem}" for problem in error.problems]
        return None


def _factors(tensors: Mapping[str, Tensor]) -> Factors:
    """Return the ranks of A and B of each module, None for one that is missing or no matrix."""
    factors: Factors = {}
    for lora_A, lora_B in FACTORS:
        suffixes = (f".{lora_A}", f".{lora_B}")
        for name in dict.fromkeys(key[: -len(s)] for s in suffixes for key in tensors if key.endswith(s)):
            a, b = (tensors.get(f"{name}{suffix}") for suffix in suffixes)
            rank_a = a.shape[0] if a is not None and a.dim() == 2 else None
            rank_b = b.shape[1] if b is not None and b.dim() == 2 else None
            factors[name.removeprefix(PREFIX)] = (rank_a, rank_b)
    return factors


def _factor_problems(factors: Factors, config: LoRAConfig) -> list[str]:
    stored = stored_config(config)
    if not factors:
        return [f"{WEIGHTS} holds no A and B of any module"]
    return [
        f"{name} has A of rank {rank_a} and B of rank {rank_b}, and {CONFIG} says {rank_of(stored, name)}"
        for name, (rank_a, rank_b) in factors.items()
        if not rank_a == rank_b == rank_of(stored, name)
    ]
