r"""How much of ΔW is left when W + ΔW is rounded to the dtype that it is stored in.

    R = rnd(W + ΔW) − rnd(W)        the update that the stored weights have against a base stored in the same dtype

bfloat16 keeps 8 significant bits and float16 11, so that a number moves by steps of 2⁻⁸ or 2⁻¹¹ of its size. An entry of ΔW
below half a step is lost, or, where it crosses the middle between two steps, blown up to a whole one. Three figures:

    survived    ⟨R, ΔW⟩ / ‖ΔW‖²      how much of ΔW is in R; 1 is all of it. Crossings make up for what is lost where W
                                     lies anywhere between the steps, as a float32 base does; a bfloat16 base lies on them
    error       ‖R − ΔW‖ / ‖ΔW‖      what R is off by, the blown-up part too; 1 is as far off as no adapter at all
    unchanged                        the share of the entries of ΔW, of those that are not 0, that change no bit

All in float64, against the exact ΔW; layer by layer, so that only one dense matrix is there at a time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapter.state import adapter_layers


@dataclass(frozen=True)
class Survival:
    """What is left of ΔW in one weight: ‖ΔW‖ / ‖W‖, and the three figures at the head of the file."""

    name: str
    relative_norm: float
    survived: float
    error: float
    unchanged: float


@torch.no_grad()
def survival(model: nn.Module, dtype: torch.dtype) -> list[Survival]:
    """The figures of every adapted layer, as `merge_and_remove` and then `model.to(dtype)` would store it.

    The model is not changed.
    """
    rows = []
    for name, layer in adapter_layers(model).items():
        exact = copy.deepcopy(layer).double().delta_weight()
        folded = layer.effective_weight().to(layer.weight.dtype)
        rows.append(surviving(name, layer.weight, exact, folded.to(dtype)))
    return rows


def surviving(name: str, weight: Tensor, delta: Tensor, stored: Tensor) -> Survival:
    """The figures of one weight, of which `stored` is W + ΔW as rounded. Shape: all alike."""
    weight, delta = weight.detach(), delta.double()
    found = stored.double() - weight.to(stored.dtype).double()
    size, base, moved = float(delta.norm()), float(weight.double().norm()), delta != 0
    if not size:
        return Survival(name, relative_norm=0.0, survived=1.0, error=0.0, unchanged=0.0)
    return Survival(
        name,
        relative_norm=size / base if base else float("inf"),
        survived=float((found * delta).sum()) / size**2,
        error=float((found - delta).norm()) / size,
        unchanged=float(((found == 0) & moved).sum() / moved.sum()),
    )
