"""Save and restore the state of the global random number generators.

Dropout draws from torch's generators (the words of fast/dropout.py come from the CPU's), libraries
from Python's or NumPy's. A `named_generator` has no state to keep: it is made where it is used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


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
