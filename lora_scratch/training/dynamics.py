r"""How the adapter moves: for every module the gradients of A and B, the relative size of a step, and ‖ΔW‖ so far.

    gradient_A, gradient_B      ‖∂L/∂A‖, ‖∂L/∂B‖ as the optimizer gets them, after clipping
    update_A, update_B          ‖A_t − A_{t−1}‖ / ‖A_t‖, and the same of B: how much of the factor is new
    delta_weight                ‖ΔW‖ = scaling · ‖B A‖, without DoRA's gains; for pissa and olora the difference to the start

It only reads, and only at some steps. ‖B A‖² = ⟨BᵀB, A Aᵀ⟩ needs two (rank, rank) matrices, never the dense product.
Layers of one's own that have no A and B are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import adapter_layers
from ..adapter.factors import FACTORS
from ..layers import AdapterLayer, stored_tensors
from .step import Stepper

EVERY = 10  # steps from one measurement to the next, at least
MOST = 100  # measurements of a run, about
TINY = 1e-30  # a factor that is all zero has not moved either
FIGURES = ("gradient_A", "gradient_B", "update_A", "update_B", "delta_weight")


class Dynamics:
    """Listens to the stepper's optimizer; `take` gives what it saw in the last step.

    Measured are the first step, the last, and each whose number `interval` divides.
    """

    def __init__(self, model: nn.Module, stepper: Stepper) -> None:
        self.layers = {name: layer for name, layer in adapter_layers(model).items() if _a_and_b(layer.adapter_tensors())}
        self.stepper = stepper
        self.interval = max(EVERY, stepper.total_steps // MOST)
        self.old: list[Tensor] = []
        self.figures: dict[str, dict[str, float]] = {}
        stepper.optimizer.register_step_pre_hook(self._before)
        stepper.optimizer.register_step_post_hook(self._after)

    def take(self) -> dict[str, dict[str, dict[str, float]]]:
        """{"modules": {name: its figures}} of the last step, once; empty if it was not measured, or skipped."""
        figures, self.figures = self.figures, {}
        return {"modules": figures} if figures else {}

    def _due(self) -> bool:
        step = self.stepper.step + 1  # it counts at the end
        return bool(self.layers) and (step in (1, self.stepper.total_steps) or step % self.interval == 0)

    @torch.no_grad()
    def _before(self, *_: Any) -> None:
        if self._due():
            self.old = [factor.detach().clone() for factor in self._factors()]

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        """Gradients still stand after the step. All figures come from the device in one piece."""
        if not self._due() or self.stepper.optimizer.found_inf:  # the latter: nothing was changed
            return
        new = self._factors()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in new]
        moved = torch._foreach_sub(new, self.old)
        norms = torch.stack([torch.stack(torch._foreach_norm(each)) for each in (gradients, moved, new)]).double()
        delta = torch.stack([delta_weight_norm(layer) for layer in self.layers.values()])
        pairs = torch.stack([norms[0], norms[1] / norms[2].clamp_min(TINY)]).reshape(2, -1, 2)  # (2, modules, A and B)
        rows = torch.cat([pairs[0], pairs[1], delta[:, None]], 1).tolist()  # modules by figures
        self.old = []
        self.figures = {name: dict(zip(FIGURES, row, strict=True)) for name, row in zip(self.layers, rows, strict=True)}

    def _factors(self) -> list[Tensor]:
        """A and B of every module, alternating."""
        return [tensor for layer in self.layers.values() for tensor in _a_and_b(layer.adapter_tensors())]


def delta_weight_norm(layer: AdapterLayer) -> Tensor:
    """scaling · ‖B A‖ (Frobenius) from two (rank, rank) matrices, a float64 scalar."""
    lora_A, lora_B = (factor.double() for factor in _a_and_b(stored_tensors(layer)))
    squared = ((lora_B.T @ lora_B) * (lora_A @ lora_A.T)).sum()
    return abs(layer.scaling) * squared.clamp_min(0).sqrt()


def _a_and_b(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return next(([tensors[a], tensors[b]] for a, b in FACTORS if a in tensors and b in tensors), [])
