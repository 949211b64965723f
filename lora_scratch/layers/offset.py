r"""LoRA from a start that is not zero, with an unchanged base. PiSSA and OLoRA need it.

PiSSA and OLoRA start A and B at a principal part of W, B₀ A₀ ≠ 0, and subtract this part from W.
Their adapter works on the changed base only. Here W stays and the update loses the start instead:

    y = x Wᵀ + b + scaling · x̃ (B A − B₀ A₀)ᵀ      A₀, B₀ copies of the start,  x̃ = dropout(x)

This is the same function. The difference of the two products is one product of rank 2·rank:

    B A − B₀ A₀ = (B − B₀) A + B₀ (A − A₀) = [B − B₀, B₀] · [A; A − A₀]

At the start every term has a factor of exact zeros, so the layer equals the base bit for bit. The
differences are computed in float32, so small steps act also in bfloat16. An adapter file stores
these factors as plain LoRA of rank 2·rank with the same scaling: every LoRA library can load them.

Source: Meng et al. 2024, PiSSA, arXiv:2404.02948; Büyükakyüz 2024, OLoRA, arXiv:2406.01775.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv1d import out_in
from .lora import AdapterLayer, LowRankLayer


class OffsetLoRALinear(LowRankLayer):
    """y = x Wᵀ + b + scaling · x̃ (B A − B₀ A₀)ᵀ, with W, b, A₀ and B₀ frozen.

    The base is an `nn.Linear` or transformers' `Conv1D`. The rank is at most min(in, out) // 2: the
    stored rank is twice as high. See `LowRankLayer` for the arguments. `start_at` sets the start.
    """

    stored_ranks = 2  # [A; A − A₀] and [B − B₀, B₀]
    start_A: Tensor
    start_B: Tensor

    def __init__(self, base: nn.Module, rank: int = 8, alpha: float = 16, **options: Any) -> None:
        super().__init__(base, rank, alpha, **options)
        self.register_buffer("start_A", self.lora_A.detach().clone())
        self.register_buffer("start_B", self.lora_B.detach().clone())

    @torch.no_grad()
    def start_at(self, lora_A: Tensor, lora_B: Tensor) -> None:
        """Set A = A₀ (rank, in) and B = B₀ (out, rank) to these factors: the update is zero."""
        for target in (self.lora_A, self.start_A):
            target.copy_(lora_A)
        for target in (self.lora_B, self.start_B):
            target.copy_(lora_B)

    def plain_factors(self) -> tuple[Tensor, Tensor]:
        """Return [A; A − A₀] (2·rank, in) and [B − B₀, B₀] (out, 2·rank), plain LoRA's A and B."""
        lora_A = torch.cat([self.lora_A, self.lora_A - self.start_A])
        return lora_A, torch.cat([self.lora_B - self.start_B, self.start_B], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return y. Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x."""
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, out_in(self.base, self.merged_weight), self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        lora_A, lora_B = self.plain_factors()
        low = F.linear(self.dropout(x), lora_A.to(x.dtype))  # (..., 2·rank)
        return y + self.scaling * F.linear(low, lora_B.to(low.dtype))

    def delta_weight(self) -> Tensor:
        """Return ΔW = scaling · (B A − B₀ A₀), in the shape of W, in float32 or wider."""
        return out_in(self.base, self.scaled_product(*self.plain_factors()))


def stored_tensors(layer: AdapterLayer) -> dict[str, Tensor]:
    """Return the tensors that an adapter file stores, detached: plain LoRA's for an offset."""
    if isinstance(layer, OffsetLoRALinear):
        lora_A, lora_B = layer.plain_factors()
        return {"lora_A.weight": lora_A.detach(), "lora_B.weight": lora_B.detach()}
    return {suffix: tensor.detach() for suffix, tensor in layer.adapter_tensors().items()}
