r"""DoRA: LoRA for the direction of each row of W, and a trained magnitude for its length.

    V = W + scaling · B A                                    ‖V‖ (out,): the norms of its rows
    y = (m / ‖V‖) · (x Wᵀ + scaling · x Aᵀ Bᵀ) + b           m (out,): the trained magnitudes

m starts at ‖W‖ and B at zero. One expression computes both norms, so the gain g = m / ‖V‖ starts at
exactly 1. The layer computes the change against the base, which starts at exactly zero:

    y = base(x) + (g − 1) · x̃ Wᵀ + g · scaling · (x̃ Aᵀ) Bᵀ        x̃ = dropout(x)

Without dropout, x̃ Wᵀ is base(x) − b, and no second product with W is needed. With dropout, x̃
appears in both terms of the change, and base(x) itself is not dropped. PEFT does the same.

The gradient treats ‖V‖ as a constant (section 4.3). For every row, its value has a closed form
without the dense product B A:

    ‖V‖² = ‖W‖² + 2 · scaling · ⟨W, B A⟩ + scaling² · ‖B A‖²
    ⟨W, B A⟩ = ⟨W Aᵀ, B⟩        ‖B A‖² = ⟨B (A Aᵀ), B⟩

A row of W that is all zeros has no direction: its gain is 0 and the row stays zero.

Source: Liu et al. 2024, DoRA, arXiv:2402.09353, equation 5 and section 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv1d import CONV1D, out_in
from .lora import LowRankLayer, at_least_float32
from .registry import register


@register("dora", nn.Linear)
@register("dora", CONV1D)
class DoRALinear(LowRankLayer):
    """y = (m / ‖W + scaling · B A‖) · (x Wᵀ + scaling · x Aᵀ Bᵀ) + b, with W and b frozen.

    The base is an `nn.Linear` or transformers' `Conv1D`. Arguments: see `LowRankLayer`.
    """

    def __init__(self, base: nn.Module, rank: int = 8, alpha: float = 16, **options: Any) -> None:
        super().__init__(base, rank, alpha, **options)
        self._squared_row_norm_of_base, self._row_norm = _LastValue(), _LastValue()
        self.magnitude = nn.Parameter(self._base_squared_norm().sqrt())  # (out,)

    def forward(self, x: Tensor) -> Tensor:
        """Return y. Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x."""
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, out_in(self.base, self.merged_weight), self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        dropped, gain = self.dropout(x), self.gain()
        low = F.linear(dropped, self.lora_A.to(x.dtype))  # (..., rank)
        update = self.scaling * F.linear(low, self.lora_B.to(low.dtype))  # (..., out)
        # g − 1 is small: subtract in float32, then round to the narrower dtype of y
        change = (gain - 1).to(y.dtype) * self._without_bias(y, dropped)
        return y + change + gain.to(y.dtype) * update

    def gain(self) -> Tensor:
        """Return g = m / ‖V‖, shape (out,), 0 where ‖V‖ is 0. ‖V‖ is a constant to the gradient."""
        norm = self.row_norm()
        return at_least_float32(self.magnitude) / norm.masked_fill(norm == 0, torch.inf)

    def row_norm(self) -> Tensor:
        """Return ‖V‖ of every row of V = W + scaling · B A, shape (out,), detached.

        In evaluation the value is kept until W, A, B or the scaling changes.
        """
        if self.training:
            return self._row_norm_now()
        factors = (self.lora_A, self.lora_B)
        return self._row_norm(self.weight, factors, self.scaling, self._row_norm_now)

    def delta_weight(self) -> Tensor:
        """Return (m / ‖V‖) · V − W, in the shape of W. Its rank can be higher than `rank`."""
        return self.effective_weight() - self.weight

    def effective_weight(self) -> Tensor:
        """Return (m / ‖V‖) · V, in the shape of W, in float32 or wider, also under autocast."""
        direction = out_in(self.base, self.weight) + self.scaled_product(self.lora_A, self.lora_B)
        return out_in(self.base, self.gain()[:, None] * direction)

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """Return A, B and the magnitude under PEFT's names; the magnitude's has no `.weight`."""
        return super().adapter_tensors() | {"lora_magnitude_vector": self.magnitude}

    def _without_bias(self, y: Tensor, dropped: Tensor) -> Tensor:
        """Return dropout(x) Wᵀ, which is y − b if nothing is dropped."""
        if self.training and self.dropout.p > 0:
            return F.linear(dropped, out_in(self.base, self.weight))
        return y if self.bias is None else y - self.bias.to(y.dtype)

    @torch.no_grad()
    def squared_norm_terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ‖W‖², scaling · ⟨W, B A⟩ and scaling² · ‖B A‖² of every row, each (out,)."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            weight = at_least_float32(out_in(self.base, self.weight))
            dtype = torch.promote_types(weight.dtype, self.lora_A.dtype)
            weight, a, b = (t.to(dtype) for t in (weight, self.lora_A, self.lora_B))
            cross = ((weight @ a.T) * b).sum(1)  # ⟨W, B A⟩ (out,)
            update = ((b @ (a @ a.T)) * b).sum(1)  # ‖B A‖² (out,)
            return self._base_squared_norm(), self.scaling * cross, self.scaling**2 * update

    def _row_norm_now(self) -> Tensor:
        base, cross, update = self.squared_norm_terms()
        return (base + 2 * cross + update).clamp_min(0).sqrt()  # rounding can give a sum below 0

    def _base_squared_norm(self) -> Tensor:
        """Return ‖W‖² of every row, shape (out,), computed once because W is frozen."""

        def compute() -> Tensor:
            return at_least_float32(out_in(self.base, self.weight).detach()).square().sum(1)

        return self._squared_row_norm_of_base(self.weight, (), 1.0, compute)


class _LastValue:
    """A computed value, kept until the tensors or the scaling that it depends on change.

    Frozen tensors are compared by memory and torch's count of writes, trained ones number by number:
    `fused` optimizers write without counting, and A and B are small.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._frozen: Tensor | None = None  # kept, so that no new tensor can get its address
        self._trained: tuple[Tensor, ...] = ()
        self._value = torch.empty(0)

    def __call__(
        self,
        frozen: Tensor,
        trained: Sequence[Tensor],
        scaling: float,
        compute: Callable[[], Tensor],
    ) -> Tensor:
        """Return the kept value if it is still valid, else compute a new one."""
        if torch.compiler.is_compiling() or frozen.is_inference():  # writes are not counted
            return compute()
        memory = ((t.data_ptr(), t.dtype, t.device) for t in (frozen, *trained))
        key = (scaling, frozen._version, *memory)
        if key != self._key or not all(map(torch.equal, self._trained, trained)):
            # not an inference tensor even in inference mode: a later gradient may need it
            with torch.inference_mode(False), torch.no_grad():
                self._trained = tuple(t.detach().clone() for t in trained)
                self._key, self._frozen, self._value = key, frozen.detach(), compute()
        return self._value
