"""The state of every random number generator that a run may draw from, out of the process and back into it.

Dropout draws from torch's global generators (fast/dropout.py too: its words come from the CPU's), libraries from Python's
or NumPy's. Generators made with `named_generator` have no state to keep: they are born where they are used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Tensors and JSON values by name: torch's CPU generator and one for each GPU, Python's, NumPy's."""
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
    """Put back what `random_state` gave; GPUs that are not in it, or not here, are left alone."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kept = state["numpy"]["state"]
    np.random.set_state({**state["numpy"], "state": {**kept, "key": np.array(kept["key"], dtype=np.uint32)}})
    torch.set_rng_state(state["torch"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{index}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{index}"], index)
