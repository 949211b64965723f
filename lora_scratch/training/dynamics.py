r"""How the adapter moves: gradients of A and B, relative size of a step and ‖ΔW‖, for every module.

    gradient_A, gradient_B      ‖∂L/∂A‖, ‖∂L/∂B‖ as the optimizer gets them, after clipping
    update_A, update_B          ‖A_t − A_{t−1}‖ / ‖A_t‖, and the same of B
    delta_weight                ‖ΔW‖ = scaling · ‖B A‖; for pissa and olora the change of it

DoRA's magnitudes are not in ‖ΔW‖. ‖B A‖² = ⟨BᵀB, A Aᵀ⟩ needs two (rank, rank) matrices instead of
the dense product. Layers without A and B are left out. A measurement only reads, with one call for
all factors. The figures stay on the device until the loop reads its reports.
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

Factors = Sequence[Sequence[Tensor]]  # A and B of every layer

MIN_INTERVAL = 10  # steps between two measurements
MAX_MEASUREMENTS = 100  # of a run, about
TINY = 1e-30  # instead of the norm of a factor that is all zero
LAYERS_AT_ONCE = 32  # whose factors are copied to float64 together
FIGURES = ("gradient_A", "gradient_B", "update_A", "update_B", "delta_weight")


class Dynamics:
    """Measures the adapter layers of a model, by hooks on the stepper's optimizer.

    Measured are the first step, the last, and the multiples of `interval`.
    """

    def __init__(self, model: nn.Module, stepper: Stepper) -> None:
        layers = adapter_layers(model)
        self.layers = {n: layer for n, layer in layers.items() if _a_and_b(layer.adapter_tensors())}
        self.stepper = stepper
        self.interval = max(MIN_INTERVAL, stepper.total_steps // MAX_MEASUREMENTS)
        self.old: list[Tensor] = []
        self._unread: list[tuple[int, Tensor]] = []  # (step, [1 if skipped, figures...])
        stepper.is_measured = self._due
        stepper.optimizer.register_step_pre_hook(self._before)
        stepper.optimizer.register_step_post_hook(self._after)

    def read(self) -> dict[int, dict[str, Any]]:
        """Return {step: {"modules": {name: figures}}} of the steps measured since the last call.

        Skipped steps are left out. The host waits for the device once.
        """
        unread, self._unread = self._unread, []
        rows = torch.stack([figures for _, figures in unread]).tolist() if unread else []
        measured: dict[int, dict[str, Any]] = {}
        for (step, _), (skipped, *figures) in zip(unread, rows, strict=True):
            if not skipped:
                values = iter(figures)
                modules = {name: {key: next(values) for key in FIGURES} for name in self.layers}
                measured[step] = {"modules": modules}
        return measured

    def _due(self) -> bool:
        step = self.stepper.step + 1  # the step that is running
        due = step in (1, self.stepper.total_steps) or step % self.interval == 0
        return due and bool(self.layers)

    @torch.no_grad()
    def _before(self, *_: Any) -> None:
        if self._due():
            factors = self._factors()
            self.old = [torch.empty_like(factor) for factor in factors]
            torch._foreach_copy_(self.old, factors)

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        """Measure the step. The gradients still exist, and nothing waits for the device."""
        if not self._due():
            return
        new, old = self._factors(), self.old
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in new]
        torch._foreach_sub_(old, new)  # minus the movement
        norms = torch.stack(torch._foreach_norm([*gradients, *old, *new])).double()
        gradient, movement, size = norms.view(3, -1, 2)  # (modules, A and B)
        delta = delta_weight_norms([*self.layers.values()])
        rows = torch.cat([gradient, movement / size.clamp_min(TINY), delta[:, None]], 1)
        skipped = self.stepper.optimizer.found_inf.double().view(1)  # 1 if nothing was changed
        self._unread.append((self.stepper.step + 1, torch.cat([skipped, rows.flatten()])))
        self.old = []

    def _factors(self) -> list[Tensor]:
        """Return A and B of every module, alternating."""
        layers = self.layers.values()
        return [factor for layer in layers for factor in _a_and_b(layer.adapter_tensors())]


def delta_weight_norms(layers: Sequence[AdapterLayer]) -> Tensor:
    """scaling · ‖B A‖ (Frobenius) of every layer. Shape: (layers,) float64."""
    factors = [_a_and_b(stored_tensors(layer)) for layer in layers]
    norms: dict[int, Tensor] = {}
    for numbers in _same_shapes(layers, factors):
        group = _norms([factors[number] for number in numbers], layers[numbers[0]].scaling)
        norms |= zip(numbers, group.unbind(), strict=True)
    return torch.stack([norms[number] for number in range(len(layers))])


def _same_shapes(layers: Sequence[AdapterLayer], factors: Factors) -> Iterator[list[int]]:
    """Yield the numbers of layers of the same shapes and scaling, at most LAYERS_AT_ONCE."""
    groups: dict[Any, list[int]] = {}
    for number, (layer, (lora_A, lora_B)) in enumerate(zip(layers, factors, strict=True)):
        groups.setdefault((lora_A.shape, lora_B.shape, layer.scaling), []).append(number)
    for numbers in groups.values():
        starts = range(0, len(numbers), LAYERS_AT_ONCE)
        yield from (numbers[start : start + LAYERS_AT_ONCE] for start in starts)


def _norms(factors: Factors, scaling: float) -> Tensor:
    """scaling · ‖B A‖ of factors of the same shapes. Shape: -> (layers,) float64."""
    lora_A, lora_B = (torch.stack(factor).double() for factor in zip(*factors, strict=True))
    squared = ((lora_B.mT @ lora_B) * (lora_A @ lora_A.mT)).sum((1, 2))
    return abs(scaling) * squared.clamp_min(0).sqrt()


def _a_and_b(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    names = ((a, b) for a, b in FACTORS if a in tensors and b in tensors)
    return next(([tensors[a], tensors[b]] for a, b in names), [])
