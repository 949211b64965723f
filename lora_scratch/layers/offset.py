r"""LoRA from a start that is not zero, with the base left as it is: what PiSSA and OLoRA need.

PiSSA and OLoRA start A and B at a principal part of the weight, B₀ A₀ ≠ 0, and make up for it by taking that part out of the
base. The adapter then means nothing without that changed base. Here the base stays, and the start is subtracted instead:

    y = x Wᵀ + b + scaling · x̃ (B A − B₀ A₀)ᵀ        A₀, B₀ frozen copies of the start,  x̃ = dropout(x)

which is the same function. The difference of the two products is taken apart once more,

    B A − B₀ A₀ = (B − B₀) A + B₀ (A − A₀) = [B − B₀, B₀] · [A; A − A₀]

so that at the start every term has a factor of exact zeros and the layer equals the base bit for bit, and so that small
steps away from the start survive in bfloat16: the differences are taken in float32. The right-hand side is plain LoRA of
rank 2·rank with the same scaling, and that is how an adapter file stores it: it loads anywhere.

Source: Meng, Wang and Zhang 2024, PiSSA, arXiv:2404.02948; Büyükakyüz 2024, OLoRA, arXiv:2406.01775.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv1d import out_in
from .lora import AdapterLayer, LowRankLayer, at_least_float32


class OffsetLoRALinear(LowRankLayer):
    """y = x Wᵀ + b + scaling · x̃ (B A − B₀ A₀)ᵀ, with W, b, A₀ and B₀ frozen.

    Args:
        linear: an `nn.Linear`, or transformers' `Conv1D`, whose weight is stored as (in, out).
        rank: from 1 to min(in, out) // 2, since the stored rank is twice this.

    The other arguments are those of `LoRALinear`. A and B start as they do there; `start_at` gives them another start.

    Shape: lora_A, start_A (rank, in), lora_B, start_B (out, rank); x (..., in) -> (..., out).

    Raises:
        ValueError: an argument out of bounds.
    """

    start_A: Tensor
    start_B: Tensor

    stored_ranks = 2  # [A; A − A₀] and [B − B₀, B₀]

    def __init__(self, base: nn.Module, rank: int = 8, alpha: float = 16, **options: Any) -> None:
        super().__init__(base, rank, alpha, **options)
        self.register_buffer("start_A", self.lora_A.detach().clone())
        self.register_buffer("start_B", self.lora_B.detach().clone())

    def feature_counts(self) -> tuple[int, int]:
        """Return in and out of the base layer."""
        out_features, in_features = out_in(self.base, self.weight).shape
        return in_features, out_features

    @torch.no_grad()
    def start_at(self, lora_A: Tensor, lora_B: Tensor) -> None:
        """Start from these factors: A = A₀, B = B₀, an update of exactly zero. Shape: (rank, in), (out, rank)."""
        for target in (self.lora_A, self.start_A):
            target.copy_(lora_A)
        for target in (self.lora_B, self.start_B):
            target.copy_(lora_B)

    def plain_factors(self) -> tuple[Tensor, Tensor]:
        """[A; A − A₀] (2·rank, in) and [B − B₀, B₀] (out, 2·rank): the same update as LoRA with the same scaling."""
        lora_A = torch.cat([self.lora_A, self.lora_A - self.start_A])
        return lora_A, torch.cat([self.lora_B - self.start_B, self.start_B], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b + scaling · x̃ (B A − B₀ A₀)ᵀ. Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x."""
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, out_in(self.base, self.merged_weight), self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        lora_A, lora_B = self.plain_factors()
        low = F.linear(self.dropout(x), lora_A.to(x.dtype))  # (..., 2·rank)
        return y + self.scaling * F.linear(low, lora_B.to(low.dtype))

    def delta_weight(self) -> Tensor:
        """ΔW = scaling · (B A − B₀ A₀), in the shape of W, in float32 or wider also under autocast."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            lora_A, lora_B = self.plain_factors()
            return out_in(self.base, self.scaling * (at_least_float32(lora_B) @ at_least_float32(lora_A)))

    def effective_weight(self) -> Tensor:
        """W + scaling · (B A − B₀ A₀), in the shape of W, in float32 or wider."""
        return self.weight + self.delta_weight()

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """The trained A and B. A file holds `plain_factors` under these names."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}


def stored_tensors(layer: AdapterLayer) -> dict[str, Tensor]:
    """What an adapter file holds of a layer, detached: its own tensors, or the plain LoRA that it equals."""
    if isinstance(layer, OffsetLoRALinear):
        lora_A, lora_B = layer.plain_factors()
        return {"lora_A.weight": lora_A.detach(), "lora_B.weight": lora_B.detach()}
    return {suffix: tensor.detach() for suffix, tensor in layer.adapter_tensors().items()}
