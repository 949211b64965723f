r"""How much of ΔW survives when W + ΔW is rounded to the dtype that it is stored in.

    R = rnd(W + ΔW) − rnd(W)        the update of the stored weights against a base in this dtype

bfloat16 has 8 significant bits and float16 11, so numbers change in steps of 2⁻⁸ or 2⁻¹¹ of their
size. An entry of ΔW below half a step is lost, or becomes a whole step. Three figures, in float64:

    survived    ⟨R, ΔW⟩ / ‖ΔW‖²    1 is all of ΔW. Losses and whole steps balance for a float32
                                   base, not for a bfloat16 base, which lies on the steps
    error       ‖R − ΔW‖ / ‖ΔW‖    the error of R; 1 is as large as without an adapter
    unchanged                      the share of the nonzero entries of ΔW that change no bit
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapter.state import adapter_layers


@dataclass(frozen=True)
class Survival:
    """The three figures of one weight, and its relative norm ‖ΔW‖ / ‖W‖."""

    name: str
    relative_norm: float
    survived: float
    error: float
    unchanged: float


@torch.no_grad()
def survival(model: nn.Module, dtype: torch.dtype) -> list[Survival]:
    """Return the figures of every adapted layer after `merge_and_remove` and `model.to(dtype)`.

    The model is not changed. Only one dense ΔW is in memory at a time.
    """
    rows = []
    for name, layer in adapter_layers(model).items():
        exact = copy.deepcopy(layer).double().delta_weight()
        folded = layer.effective_weight().to(layer.weight.dtype)
        rows.append(weight_survival(name, layer.weight, exact, folded.to(dtype)))
    return rows


def weight_survival(name: str, weight: Tensor, delta: Tensor, stored: Tensor) -> Survival:
    """Return the figures of one weight; `stored` is the rounded sum. Shape: all the same."""
    weight, delta = weight.detach(), delta.double()
    update = stored.double() - weight.to(stored.dtype).double()
    size, base, moved = float(delta.norm()), float(weight.double().norm()), delta != 0
    if not size:
        return Survival(name, relative_norm=0.0, survived=1.0, error=0.0, unchanged=0.0)
    return Survival(
        name,
        relative_norm=size / base if base else float("inf"),
        survived=float((update * delta).sum()) / size**2,
        error=float((update - delta).norm()) / size,
        unchanged=float(((update == 0) & moved).sum() / moved.sum()),
    )
