"""VeRA: A and B are random, frozen and the same in all layers; a layer trains two vectors, d and b.

    y = x Wᵀ + bias + scaling · b ∘ ((d ∘ (dropout(x) Aᵀ)) Bᵀ)        d (rank,), b (out,) trained, b = 0 at the start

Source: Kopiczko et al. 2023, VeRA: Vector-based Random Matrix Adaptation, arXiv:2310.11454, section 3.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_scratch.layers import AdapterLayer, at_least_float32, lora_scaling, register

SHARED_SEED = 0  # A and B are drawn again from it, so the file need not hold them


@register("vera", nn.Linear)
class VeRALinear(AdapterLayer):
    """The arguments are those of `LoRALinear`; `generator` has nothing to draw."""

    A: Tensor
    B: Tensor

    def __init__(
        self, linear: nn.Linear, rank: int = 8, alpha: float = 16, *, dropout: float = 0.0, rslora: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(linear)
        self.rank, self.alpha, self.scaling = rank, alpha, lora_scaling(alpha, rank, rslora=rslora)
        self.dropout, weight = nn.Dropout(dropout), linear.weight
        shared = torch.Generator().manual_seed(SHARED_SEED)
        for name, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
            drawn = torch.randn(shape, generator=shared) / shape[1] ** 0.5
            self.register_buffer(name, drawn.to(weight.device), persistent=False)
        self.d = nn.Parameter(torch.full((rank,), 0.1, device=weight.device))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, self.merged_weight, self.bias)
        y: Tensor = self.base(x)
        if not self.enabled:
            return y
        low = F.linear(self.dropout(x), self.A.to(x.dtype))  # in autocast's dtype, which the vectors follow
        return y + self.scaling * self.b.to(low.dtype) * F.linear(self.d.to(low.dtype) * low, self.B.to(low.dtype))

    def delta_weight(self) -> Tensor:
        with torch.autocast(self.b.device.type, enabled=False):
            b, d, A, B = map(at_least_float32, (self.b, self.d, self.A, self.B))
            return self.scaling * (b[:, None] * B) @ (d[:, None] * A)

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        return {"vera_d": self.d, "vera_b": self.b}
