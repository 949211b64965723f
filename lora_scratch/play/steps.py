"""The steps of one layer as JSON: every step of one row, and one number of the output in full."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..layers import AdapterLayer, stored_tensors
from ..study.trace import ForwardTrace
from .directions import PLAIN

SHOWN = 8  # leading numbers of a step


def layer_as_json(layer: AdapterLayer, steps: ForwardTrace, row: int) -> dict[str, Any]:
    """Return the formula, how far every row is moved, every step of one row, and one number of it in full.

    A step has its symbol, shape and norm, and of the row the norm and the first numbers.
    """
    moved = [value if math.isfinite(value) else None for value in steps.moved().tolist()]
    shown = [_step(symbol, value, row) for symbol, value in steps.steps.items()]
    about = {"formula": steps.formula, "scaling": steps.scaling, "unseen": steps.unseen}
    return {**about, "moved": moved, "steps": shown, "one": one_number(layer, steps, row)}


def one_number(layer: AdapterLayer, steps: ForwardTrace, row: int) -> dict[str, Any] | None:
    """Return all terms of the output number of this row that the update changes most; None for other layers than LoRA.

    y[i] = base[i] + s · Σₖ low[k] · B[i, k], with low = x Aᵀ
    """
    if type(layer) not in PLAIN:
        return None
    index = int(steps.update[row].abs().argmax())
    low, lora_B = list(steps.steps.values())[1], list(stored_tensors(layer).values())[1].double()
    terms = {"base": steps.base, "update": steps.update, "y": steps.output}
    return {
        "index": index,
        "scaling": layer.scaling,
        "low": low[row].tolist(),
        "B": lora_B[index].tolist(),
        **{name: value[row, index].item() for name, value in terms.items()},
    }


def _step(symbol: str, value: Tensor, row: int) -> dict[str, Any]:
    own = value[row]
    norms = {"norm": value.norm().item(), "row_norm": own.norm().item()}
    return {"symbol": symbol, "shape": list(value.shape), **norms, "numbers": own[:SHOWN].tolist()}
