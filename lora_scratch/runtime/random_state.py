"""Save and restore the state of the global random number generators.

Dropout draws from torch's generators (the words of fast/dropout.py come from the CPU's), libraries
from Python's or NumPy's. A `named_generator` has no state to keep: it is made where it is used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from .json_types import Bound, JsonReader, between, one_of

WORDS = 624  # of the Mersenne twister
Word = Annotated[int, between(0, 2**32 - 1)]
Words = Annotated[list[Word], Bound(f"{WORDS} words", lambda key: len(key) == WORDS)]
Position = Annotated[int, between(0, WORDS)]  # NumPy does not check it, and reads there


@dataclass(frozen=True)
class _Twister:
    """The words of NumPy's generator."""

    key: Words
    pos: Position


@dataclass(frozen=True)
class _Numpy:
    """The state of NumPy's generator."""

    bit_generator: Annotated[str, one_of(("MT19937",))]
    state: _Twister
    has_gauss: Annotated[int, between(0, 1)]
    gauss: float


def random_state() -> dict[str, Any]:
    """Return the states of torch (CPU and each GPU), Python and NumPy: tensors and JSON values."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    words = {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}
    return {
        "torch": torch.get_rng_state(),
        **{f"cuda.{index}": state for index, state in enumerate(gpus)},
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": words},
    }


def random_state_fault(state: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a state from a file, or None."""
    reader = JsonReader()
    reader.read(_Numpy, state.get("numpy"), "numpy")
    python = reader.read(list[Any], state.get("python"), "python")
    if python is not None and len(python) == 3:
        reader.read(Annotated[int, between(3, 3)], python[0], "python[0]")
        words = reader.read(list[Word], python[1], "python[1]") or [WORDS]
        reader.read(Position, words[-1], "python[1][-1]")
        reader.read(float | None, python[2], "python[2]")
    fitting = python is not None and len(python) == 3 and isinstance(python[1], list | tuple)
    if not fitting or len(python[1]) != WORDS + 1:
        reader.problems.append(f"python is no state of {WORDS + 1} words")
    reader.problems += [f"{name} is no state" for name in ("torch",) if not _is_state(state.get(name))]
    reader.problems += [f"{name} is no state" for name in state if name.startswith("cuda.") and not _is_bytes(state[name])]
    return "; ".join(reader.problems) or None


def _is_bytes(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.uint8 and value.dim() == 1


def _is_state(value: object) -> bool:
    """Return whether torch's CPU generator takes this state: a generator of its own tries it."""
    if not (isinstance(value, Tensor) and _is_bytes(value)):
        return False
    try:
        torch.Generator().set_state(value)
    except (RuntimeError, TypeError):
        return False
    return True


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned. GPUs that are missing now or then are left alone."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = state["numpy"]["state"]
    key = np.array(numpy_state["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**numpy_state, "key": key}})
    torch.set_rng_state(state["torch"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{index}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{index}"], index)
