r"""LoRA on an embedding table: a trained update for the row of every id.

    y[i] = W[i] + scaling · B A[:, i]      W (num, dim),  A (rank, num),  B (dim, rank)

So ΔW = scaling · (B A)ᵀ. Looking up row i is multiplying by a one-hot vector: A[:, i] takes the
place of x Aᵀ. Here A starts at zero and B random, as in PEFT and loralib: a batch trains only the
columns of A that it looks up, and every column must start at the base.

Source: Hu et al. 2021, arXiv:2106.09685; microsoft/LoRA, loralib/layers.py, class Embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lora import LowRankLayer
from .registry import register


@register("lora", nn.Embedding)
class LoRAEmbedding(LowRankLayer):
    """y[i] = W[i] + scaling · B A[:, i], with W frozen. Column `padding_idx` of A gets no gradient.

    Arguments: see `LowRankLayer`. `dropout` is checked but not used, as in PEFT: an id can't be
    dropped in part. A table with `max_norm` is a ValueError: lookups change its weight.
    """

    def __init__(self, base: nn.Embedding, rank: int = 8, alpha: float = 16, **more: Any) -> None:
        if base.max_norm is not None:
            expected = "None, since such a table can't be frozen"
            raise ValueError(f"max_norm is {base.max_norm}; expected {expected}")
        super().__init__(base, rank, alpha, **more)
        self.padding_idx = base.padding_idx
        self.dropout = nn.Dropout(0.0)

    def create_factors(self, generator: torch.Generator | None) -> None:
        """Set A to zero and draw B from the standard normal distribution, both in float32."""
        num, dim = self.weight.shape
        lora_B = torch.empty(dim, self.rank).normal_(generator=generator).to(self.weight.device)
        self.lora_embedding_A = nn.Parameter(lora_B.new_zeros(self.rank, num))  # (rank, num)
        self.lora_embedding_B = nn.Parameter(lora_B)  # (dim, rank)

    def forward(self, ids: Tensor) -> Tensor:
        """Return W[ids] + scaling · A[:, ids]ᵀ Bᵀ in W's dtype. Shape: ids (...) -> (..., dim)."""
        if self.merged_weight is not None and self.enabled:
            return F.embedding(ids, self.merged_weight)
        y: Tensor = self.base(ids)  # (..., dim)
        if not self.enabled:
            return y
        low = F.embedding(ids, self.lora_embedding_A.T, padding_idx=self.padding_idx)  # (..., rank)
        return y + (self.scaling * F.linear(low, self.lora_embedding_B)).to(y.dtype)

    def delta_weight(self) -> Tensor:
        """Return ΔW = scaling · (B A)ᵀ, shape (num, dim), in float32 or wider."""
        return self.scaled_product(self.lora_embedding_A, self.lora_embedding_B).T

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """Return A and B under PEFT's names, which do not end in `.weight` here."""
        lora_A, lora_B = self.lora_embedding_A, self.lora_embedding_B
        return {"lora_embedding_A": lora_A, "lora_embedding_B": lora_B}
