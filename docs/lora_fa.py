"""LoRA-FA: LoRA with A frozen where it was drawn; B alone is trained, on a random projection of the input.

    y = x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ        A (rank, in) frozen, B (out, rank) trained

Half the parameters, and the backward pass needs x Aᵀ (tokens, rank) where LoRA needs x (tokens, in).

Source: Zhang et al. 2023, LoRA-FA: Memory-efficient Low-rank Adaptation, arXiv:2308.03303, section 3.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lora_scratch.layers import LoRALinear, register


@register("lora_fa", nn.Linear)
class LoRAFALinear(LoRALinear):
    """`LoRALinear` with A frozen; the arguments are the same."""

    def __init__(self, linear: nn.Linear, rank: int = 8, alpha: float = 16, **options: Any) -> None:
        super().__init__(linear, rank, alpha, **options)
        self.lora_A.requires_grad_(False)
