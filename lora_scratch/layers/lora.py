r"""LoRA: a frozen linear layer plus a trained low-rank update of its weight. Start reading here.

A linear layer computes y = x Wᵀ + b. LoRA freezes W and b and trains the factors of an update:

    ΔW = scaling · B A        A (rank, in),  B (out, rank),  scaling = alpha / rank

These are rank·(in + out) numbers instead of out·in: 2 % for DistilBERT's layers of 768 x 768 and
rank 8. The output is computed from the factors, without building ΔW:

    y = x (W + ΔW)ᵀ + b = x Wᵀ + b + scaling · (x Aᵀ) Bᵀ

B starts at zero, so the adapted layer starts exactly as the base. A starts random: A's gradient is
a multiple of B, and B's of A. If both were zero, both gradients would be zero for ever.

Example, as in `tests/layers/test_lora.py`: in = 2, out = 3, rank = 1, alpha = 2, so scaling = 2.

    A = [1 2]  B = [1 0 -1]ᵀ  x = [3 1]  x Aᵀ = 3·1 + 1·2 = 5  scaling · (x Aᵀ) Bᵀ = [10 0 -10]

Source: Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685, 4.1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lora_scaling(alpha: float, rank: int, *, rslora: bool = False) -> float:
    """Return alpha / rank, or with `rslora` alpha / √rank: the update keeps its size as rank grows.

    Source: Kalajdzievski 2023, rsLoRA, arXiv:2312.03732, theorem 3.2.
    """
    return alpha / (math.sqrt(rank) if rslora else rank)


class AdapterLayer(nn.Module, ABC):
    """A frozen `base` layer with a trained update of its weight.

    A subclass defines `forward`, `delta_weight` and `adapter_tensors`. Its `forward` must return
    exactly the base's output if `enabled` is False, else use `merged_weight` if there is one.
    No method writes to `weight` or `bias`, and `state_dict()` never has the merged weight.
    """

    base: nn.Module
    rank: int
    alpha: float
    scaling: float
    merged_weight: Tensor | None

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.enabled = True
        self.register_buffer("merged_weight", None, persistent=False)

    @abstractmethod
    def delta_weight(self) -> Tensor:
        """Return ΔW, in the shape of W, in float32 or wider."""

    @abstractmethod
    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """Return the adapter's tensors by name suffix, such as `lora_A.weight`."""

    def effective_weight(self) -> Tensor:
        """Return W + ΔW, in the shape of W, in float32 or wider."""
        return self.weight + self.delta_weight()

    @property
    def merged(self) -> bool:
        """Whether `forward` uses the folded weight."""
        return self.merged_weight is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the update into one weight: computed in float32 or wider, rounded once to W's dtype.

        Raises:
            RuntimeError: already merged, a quantized base, or a result that is not finite.
        """
        if self.merged:
            raise RuntimeError("merge: already merged; call unmerge() first")
        if not isinstance(self.weight, nn.Parameter):
            raise RuntimeError("merge: the base is quantized; call dequantize_base(model) first")
        folded = self.effective_weight().to(self.weight.dtype).contiguous()
        if not folded.isfinite().all():
            raise RuntimeError(f"merge: the folded weight is not finite in {folded.dtype}; look for NaN or inf in A and B")
        self.merged_weight = folded

    def unmerge(self) -> None:
        """Drop the folded weight. Raise RuntimeError if not merged."""
        if not self.merged:
            raise RuntimeError("unmerge: not merged; call merge() first")
        self.merged_weight = None

    @property
    def weight(self) -> Tensor:
        """The frozen weight W of the base."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias b of the base."""
        return self.base.bias  # type: ignore[return-value]


class LowRankLayer(AdapterLayer):
    """An adapter layer with the factors A and B: the part that all variants of LoRA share.

    Args:
        base: the layer to adapt. It is frozen and keeps its tensors.
        rank: from 1 to min(in, out).
        alpha: the numerator of the scaling, above 0.
        dropout: the probability of zeroing an input of the update, in [0, 1).
        rslora: scale by alpha / √rank instead of alpha / rank.
        generator: the source of A's random numbers; torch's global generator if None.

    Raises:
        ValueError: an argument outside these bounds.
    """

    stored_ranks = 1  # the rank in an adapter file is this many times `rank`

    def __init__(
        self,
        base: nn.Module,
        rank: int = 8,
        alpha: float = 16,
        *,
        dropout: float = 0.0,
        rslora: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(base)
        largest_rank = min(feature_counts(base)) // self.stored_ranks
        if not 1 <= rank <= largest_rank:
            raise ValueError(f"rank is {rank}; expected 1 to {largest_rank}, the smaller side of the layer")
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha is {alpha}; expected a finite number above 0, else the adapter can never act")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected at least 0 and below 1")
        self.rank, self.alpha, self.scaling = rank, alpha, lora_scaling(alpha, rank, rslora=rslora)
        self.dropout = nn.Dropout(dropout)
        self.create_factors(generator)

    def create_factors(self, generator: torch.Generator | None) -> None:
        """Draw A uniformly from [-1/√in, 1/√in] and set B to zero, both in float32.

        A narrower dtype would lose the small steps of an optimizer. 1/√in is Kaiming's bound
        √(6 / ((1 + a²)·in)) at a = √5. Source: He et al. 2015, arXiv:1502.01852.
        """
        in_features, out_features = feature_counts(self.base)
        lora_A = torch.empty(self.rank, in_features)
        nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=generator)
        self.lora_A = nn.Parameter(lora_A.to(self.weight.device))  # (rank, in)
        self.lora_B = nn.Parameter(self.lora_A.new_zeros(out_features, self.rank))  # (out, rank)

    def scaled_product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        """Return scaling · B A, shape (out, in), in float32 or wider, also under autocast."""
        with torch.autocast(lora_A.device.type, enabled=False):
            return self.scaling * (at_least_float32(lora_B) @ at_least_float32(lora_A))

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """Return A and B under PEFT's names."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}


class LoRALinear(LowRankLayer):
    """y = x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ, with W and b frozen. See `LowRankLayer`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y. Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x."""
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, self.merged_weight, self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        low = F.linear(self.dropout(x), self.lora_A.to(x.dtype))  # (..., rank)
        return y + self.scaling * F.linear(low, self.lora_B.to(low.dtype))

    def delta_weight(self) -> Tensor:
        """Return ΔW = scaling · B A, shape (out, in), in float32 or wider."""
        return self.scaled_product(self.lora_A, self.lora_B)


def feature_counts(base: Any) -> tuple[int, int]:
    """Return in and out of a layer. One without these attributes stores its weight as (in, out)."""
    if hasattr(base, "in_features"):
        return base.in_features, base.out_features
    in_features, out_features = base.weight.shape
    return in_features, out_features


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or in its own dtype if that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
