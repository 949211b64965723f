r"""LoRA on an embedding table: the row that a token id looks up gets an update of its own.

    y[i] = W[i] + scaling · B A[:, i]        W (num, dim),  A (rank, num),  B (dim, rank),  ΔW = scaling · (B A)ᵀ

Looking up a row is multiplying by a one-hot vector, so this is LoRA with a column of A in place of x Aᵀ. Here A starts at
zero and B random, the other way round than for linear layers: each batch trains only the columns of A that it looked up,
and they should all set out from the base. PEFT and loralib do the same.

Source: Hu et al. 2021, arXiv:2106.09685; microsoft/LoRA, loralib/layers.py, class Embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lora import LowRankLayer, at_least_float32
from .registry import register


@register("lora", nn.Embedding)
class LoRAEmbedding(LowRankLayer):
    """y[i] = W[i] + scaling · B A[:, i], with W frozen. As in `nn.Embedding`, column `padding_idx` of A has no gradient.

    Args:
        embedding: the table to adapt; it becomes `base`, with the same tensor, frozen.
        dropout: checked and not used, as in PEFT: the input is ids, of which none can be partly dropped.

    The other arguments are those of `LoRALinear`.

    Shape: lora_embedding_A (rank, num), lora_embedding_B (dim, rank); ids (...) -> (..., dim).

    Raises:
        ValueError: an argument out of bounds, or a table with `max_norm`, which rewrites its weight while looking it up.
    """

    def __init__(self, embedding: nn.Embedding, rank: int = 8, alpha: float = 16, **options: Any) -> None:
        if embedding.max_norm is not None:
            raise ValueError(f"max_norm is {embedding.max_norm}; expected None, since such a table can't be frozen")
        super().__init__(embedding, rank, alpha, **options)
        self.padding_idx = embedding.padding_idx
        self.dropout = nn.Dropout(0.0)  # ids cannot be dropped

    def feature_counts(self) -> tuple[int, int]:
        """Return the number of ids and the width of a row."""
        num, dim = self.weight.shape
        return num, dim

    def create_factors(self, in_features: int, out_features: int, generator: torch.Generator | None) -> None:
        """Make A zero and B random, the other way round than for linear layers."""
        num, dim, rank, device = in_features, out_features, self.rank, self.weight.device
        self.lora_embedding_A = nn.Parameter(torch.zeros(rank, num, device=device))  # (rank, num)
        self.lora_embedding_B = nn.Parameter(torch.empty(dim, rank).normal_(generator=generator).to(device))  # (dim, rank)

    def forward(self, ids: Tensor) -> Tensor:
        """W[ids] + scaling · A[:, ids]ᵀ Bᵀ. Shape: ids (...) -> (..., dim). Dtype: that of the table."""
        if self.merged_weight is not None and self.enabled:
            return F.embedding(ids, self.merged_weight)
        y: Tensor = self.base(ids)  # (..., dim)
        if not self.enabled:
            return y
        low = F.embedding(ids, self.lora_embedding_A.T, padding_idx=self.padding_idx)  # (..., rank)
        return y + (self.scaling * F.linear(low, self.lora_embedding_B)).to(y.dtype)

    def delta_weight(self) -> Tensor:
        """ΔW = scaling · (B A)ᵀ, shape (num, dim), in float32 or wider also under autocast."""
        with torch.autocast(self.lora_embedding_A.device.type, enabled=False):
            product: Tensor = at_least_float32(self.lora_embedding_B) @ at_least_float32(self.lora_embedding_A)
            return self.scaling * product.T

    def effective_weight(self) -> Tensor:
        """W + scaling · (B A)ᵀ, shape (num, dim), in float32 or wider."""
        return self.weight + self.delta_weight()

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """A and B under PEFT's names, which have no `.weight` at the end here."""
        return {"lora_embedding_A": self.lora_embedding_A, "lora_embedding_B": self.lora_embedding_B}
