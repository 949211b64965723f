r"""DoRA: a weight's rows taken apart into length and direction, the length trained as it is and the direction by LoRA.

    V = W + scaling · B A                          the direction of each output row, before it is scaled to length one
    y = (m / ‖V‖) · (x Wᵀ + scaling · x Aᵀ Bᵀ) + b       m (out,) the trained magnitudes, ‖V‖ (out,) the row norms of V

m starts as ‖W‖ and B at zero. Both norms come out of the same expression, so the gain g = m / ‖V‖ starts at exactly one.
What is computed is the change against the base,

    y = base(x) + (g − 1) · x̃ Wᵀ + g · scaling · (x̃ Aᵀ) Bᵀ        x̃ = dropout(x)

which is then exactly zero: DoRA starts as the base layer, bit for bit. Without dropout x̃ Wᵀ is base(x) − b, and no second
product with W is needed. With dropout the base's part of the change is dropped too, and the base itself is not: PEFT's law.

The gradient takes ‖V‖ as a constant (section 4.3), so its value is all that is needed, and it has a closed form in which
the dense B A never appears; per output row,

    ‖V‖² = ‖W‖² + 2 · scaling · ⟨W, B A⟩ + scaling² · ‖B A‖²,    ⟨W, B A⟩ = ⟨W Aᵀ, B⟩,    ‖B A‖² = ⟨B (A Aᵀ), B⟩

A row of W that is all zeros has no direction: its gain is 0 and it stays zero.

Source: Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353, equation 5 and section 4.3.
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

    Args:
        linear: an `nn.Linear`, or transformers' `Conv1D`, whose weight is stored as (in, out).

    The other arguments are those of `LoRALinear`.

    Shape: lora_A (rank, in), lora_B (out, rank), magnitude (out,); x (..., in) -> (..., out).

    Raises:
        ValueError: an argument out of bounds.
    """

    def __init__(self, base: nn.Module, rank: int = 8, alpha: float = 16, **options: Any) -> None:
        super().__init__(base, rank, alpha, **options)
        self._squared_row_norm_of_base, self._row_norm = _LastValue(), _LastValue()
        self.magnitude = nn.Parameter(self._base_squared_norm().sqrt())  # (out,)

    def feature_counts(self) -> tuple[int, int]:
        """Return in and out of the base layer."""
        out_features, in_features = out_in(self.base, self.weight).shape
        return in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """base(x) + (g − 1) · x̃ Wᵀ + g · scaling · (x̃ Aᵀ) Bᵀ with g = m / ‖V‖ and x̃ = dropout(x).

        Shape: x (..., in) -> (..., out). Dtype: the autocast dtype, else that of x.
        """
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, out_in(self.base, self.merged_weight), self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        dropped = self.dropout(x)
        low = F.linear(dropped, self.lora_A.to(x.dtype))  # (..., rank)
        update = self.scaling * F.linear(low, self.lora_B.to(low.dtype))  # (..., out)
        gain = self.gain()
        # g − 1 is small: subtract in float32, round to the narrower dtype of y afterwards
        return y + (gain - 1).to(y.dtype) * self._without_bias(y, dropped) + gain.to(y.dtype) * update

    def gain(self) -> Tensor:
        """g = m / ‖V‖, shape (out,), 0 where ‖V‖ is 0. The norm is a constant to the gradient (section 4.3)."""
        norm = self.row_norm()
        return at_least_float32(self.magnitude) / norm.masked_fill(norm == 0, torch.inf)

    def row_norm(self) -> Tensor:
        """‖V‖ of every row of V = W + scaling · B A, shape (out,), detached; in evaluation kept until A, B or s change."""
        if self.training:
            return self._row_norm_now()
        return self._row_norm(self.weight, (self.lora_A, self.lora_B), self.scaling, self._row_norm_now)

    def delta_weight(self) -> Tensor:
        """What DoRA adds to W: (m / ‖V‖) · V − W, in the shape of W. Unlike LoRA's ΔW its rank has no bound."""
        return self.effective_weight() - self.weight

    def effective_weight(self) -> Tensor:
        """(m / ‖V‖) · (W + scaling · B A), in the shape of W, in float32 or wider also under autocast."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            product: Tensor = at_least_float32(self.lora_B) @ at_least_float32(self.lora_A)
            direction = out_in(self.base, self.weight) + self.scaling * product  # (out, in)
            return out_in(self.base, self.gain()[:, None] * direction)

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """A, B and the magnitude under PEFT's names; the magnitude's has no `.weight` at the end."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B, "lora_magnitude_vector": self.magnitude}

    def _without_bias(self, y: Tensor, dropped: Tensor) -> Tensor:
        """dropout(x) Wᵀ, which is y − b as long as nothing is dropped."""
        if self.training and self.dropout.p > 0:
            return F.linear(dropped, out_in(self.base, self.weight))
        return y if self.bias is None else y - self.bias.to(y.dtype)

    @torch.no_grad()
    def squared_norm_terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """c₀ = ‖W‖², c₁ = scaling · ⟨W, B A⟩, c₂ = scaling² · ‖B A‖² of every row, each (out,): ‖V‖² = c₀ + 2 c₁ + c₂."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            weight, a, b = (at_least_float32(t) for t in (out_in(self.base, self.weight), self.lora_A, self.lora_B))
            dtype = torch.promote_types(weight.dtype, a.dtype)
            weight, a, b = weight.to(dtype), a.to(dtype), b.to(dtype)
            cross = ((weight @ a.T) * b).sum(1)  # ⟨W, B A⟩ (out,)
            update = ((b @ (a @ a.T)) * b).sum(1)  # ‖B A‖² (out,)
            return self._base_squared_norm(), self.scaling * cross, self.scaling**2 * update

    def _row_norm_now(self) -> Tensor:
        base, cross, update = self.squared_norm_terms()
        return (base + 2 * cross + update).clamp_min(0).sqrt()  # rounding can take a norm of zero just below it

    def _base_squared_norm(self) -> Tensor:
        """‖W‖² of every row, shape (out,): W is frozen, so this is computed once."""

        def compute() -> Tensor:
            return at_least_float32(out_in(self.base, self.weight).detach()).square().sum(1)

        return self._squared_row_norm_of_base(self.weight, (), 1.0, compute)


class _LastValue:
    """A value together with what it was computed from: kept as long as that is the same.

    A frozen tensor is the same while its memory and torch's count of the writes to it are. Trained ones are compared number
    by number with a copy: `fused` optimizers write without counting, and A and B are small next to what is computed.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._frozen: Tensor | None = None  # held, so that no new tensor can come to stand at its address
        self._trained: tuple[Tensor, ...] = ()
        self._value = torch.empty(0)

    def __call__(self, frozen: Tensor, trained: Sequence[Tensor], scaling: float, compute: Callable[[], Tensor]) -> Tensor:
        """The kept value if it is still the one that `compute` would give, else a new one."""
        if torch.compiler.is_compiling() or frozen.is_inference():  # neither has a count of writes to go by
            return compute()
        key = (scaling, frozen._version, *((t.data_ptr(), t.dtype, t.device) for t in (frozen, *trained)))
        if key != self._key or not all(torch.equal(old, new) for old, new in zip(self._trained, trained, strict=True)):
            # not an inference tensor even in inference mode: a later gradient may need it
            with torch.inference_mode(False), torch.no_grad():
                self._trained = tuple(t.detach().clone() for t in trained)
                self._key, self._frozen, self._value = key, frozen.detach(), compute()
        return self._value
