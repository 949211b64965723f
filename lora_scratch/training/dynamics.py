r"""How the adapter moves: for every module the gradients of A and B, the relative size of a step, and ‖ΔW‖ so far.

    gradient_A, gradient_B      ‖∂L/∂A‖, ‖∂L/∂B‖ as the optimizer gets them, after clipping
    update_A, update_B          ‖A_t − A_{t−1}‖ / ‖A_t‖, and the same of B: how much of the factor is new
    delta_weight                ‖ΔW‖ = scaling · ‖B A‖, without DoRA's gains; for pissa and olora the difference to the start

It only reads, and only at some steps. ‖B A‖² = ⟨BᵀB, A Aᵀ⟩ needs two (rank, rank) matrices, never the dense product.
Layers of one's own that have no A and B are left out.

A step only launches the measurement: what all factors need is one call for all of them, and layers of one shape share their
products. The figures stay on the device until the loop reads its reports, where the host waits in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
TOGETHER = 32  # layers whose factors are copied to float64 at a time
FIGURES = ("gradient_A", "gradient_B", "update_A", "update_B", "delta_weight")


class Dynamics:
    """Listens to the stepper's optimizer; `read` gives what it saw in the steps since the last call.

    Measured are the first step, the last, and each whose number `interval` divides.
    """

    def __init__(self, model: nn.Module, stepper: Stepper) -> None:
        self.layers = {name: layer for name, layer in adapter_layers(model).items() if _a_and_b(layer.adapter_tensors())}
        self.stepper = stepper
        self.interval = max(EVERY, stepper.total_steps // MOST)
        self.old: list[Tensor] = []
        self._unread: list[tuple[int, Tensor]] = []  # the number of a step, and whether it was skipped and its figures
        stepper.optimizer.register_step_pre_hook(self._before)
        stepper.optimizer.register_step_post_hook(self._after)

    def read(self) -> dict[int, dict[str, Any]]:
        """{step: {"modules": {name: its figures}}} of the steps measured since the last call, without skipped ones.

        Here the host waits for the device, once for all of them.
        """
        unread, self._unread = self._unread, []
        rows = torch.stack([figures for _, figures in unread]).tolist() if unread else []
        measured = zip((step for step, _ in unread), rows, strict=True)
        return {step: {"modules": self._by_module(figures)} for step, (skipped, *figures) in measured if not skipped}

    def _by_module(self, figures: list[float]) -> dict[str, dict[str, float]]:
        values = iter(figures)
        return {name: {figure: next(values) for figure in FIGURES} for name in self.layers}

    def _due(self) -> bool:
        step = self.stepper.step + 1  # it counts at the end
        return bool(self.layers) and (step in (1, self.stepper.total_steps) or step % self.interval == 0)

    @torch.no_grad()
    def _before(self, *_: Any) -> None:
        if self._due():
            factors = self._factors()
            self.old = [torch.empty_like(factor) for factor in factors]
            torch._foreach_copy_(self.old, factors)

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        """Gradients still stand after the step. Nothing here waits, not even to find out whether the step was skipped."""
        if not self._due():
            return
        new, old = self._factors(), self.old
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in new]
        torch._foreach_sub_(old, new)  # the movement, but for its sign
        norms = torch.stack(torch._foreach_norm([*gradients, *old, *new])).double().view(3, -1, 2)  # (3, modules, A and B)
        delta = delta_weight_norms([*self.layers.values()])
        rows = torch.cat([norms[0], norms[1] / norms[2].clamp_min(TINY), delta[:, None]], 1)  # modules by figures
        skipped = self.stepper.optimizer.found_inf.double().view(1)  # where it is 1, nothing was changed
        self._unread.append((self.stepper.step + 1, torch.cat([skipped, rows.flatten()])))
        self.old = []

    def _factors(self) -> list[Tensor]:
        """A and B of every module, alternating."""
        return [tensor for layer in self.layers.values() for tensor in _a_and_b(layer.adapter_tensors())]


def delta_weight_norms(layers: Sequence[AdapterLayer]) -> Tensor:
    """scaling · ‖B A‖ (Frobenius) of every layer from two (rank, rank) matrices. Shape: (layers,) float64."""
    factors = [_a_and_b(stored_tensors(layer)) for layer in layers]
    norms: dict[int, Tensor] = {}
    for numbers in _alike(layers, factors):
        together = _norms([factors[number] for number in numbers], layers[numbers[0]].scaling)
        norms |= zip(numbers, together.unbind(), strict=True)
    return torch.stack([norms[number] for number in range(len(layers))])


def _alike(layers: Sequence[AdapterLayer], factors: Sequence[Sequence[Tensor]]) -> Iterator[list[int]]:
    """The numbers of layers whose factors have the same shapes and the same scaling, at most TOGETHER at a time."""
    groups: dict[Any, list[int]] = {}
    for number, (layer, (lora_A, lora_B)) in enumerate(zip(layers, factors, strict=True)):
        groups.setdefault((lora_A.shape, lora_B.shape, layer.scaling), []).append(number)
    for numbers in groups.values():
        yield from (numbers[start : start + TOGETHER] for start in range(0, len(numbers), TOGETHER))


def _norms(factors: Sequence[Sequence[Tensor]], scaling: float) -> Tensor:
    """scaling · ‖B A‖ of factors of the same shapes, A (rank, in) and B (out, rank). Shape: -> (layers,) float64."""
    lora_A, lora_B = (torch.stack(factor).double() for factor in zip(*factors, strict=True))
    squared = ((lora_B.mT @ lora_B) * (lora_A @ lora_A.mT)).sum((1, 2))
    return abs(scaling) * squared.clamp_min(0).sqrt()


def _a_and_b(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return next(([tensors[a], tensors[b]] for a, b in FACTORS if a in tensors and b in tensors), [])
