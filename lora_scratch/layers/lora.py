r"""LoRA: a frozen linear layer plus a trained low-rank update of its weight. Start reading here.

A linear layer computes y = x Wᵀ + b. Fine-tuning would change W to W + ΔW and train out·in numbers. LoRA keeps W frozen
and writes the change as a product of two thin matrices,

    ΔW = scaling · B A        A (rank, in),  B (out, rank),  scaling = alpha / rank

so only rank·(in + out) numbers are trained: for DistilBERT's 768 x 768 projections and rank 8, 2 % of them. Multiplied
from the right, ΔW itself is never formed:

    y = x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ

B starts at zero, so the adapted layer starts as the base, exactly. A starts random: were both zero, neither would learn.

Worked example, in = 2, out = 3, rank = 1, alpha = 2, so scaling = 2:

    A = [1 2]    B = [1 0 -1]ᵀ    x = [3 1]    x Aᵀ = 3·1 + 1·2 = 5    2 · 5 · Bᵀ = [10 0 -10]

which is what this layer adds to x Wᵀ + b. `tests/layers/test_lora.py` runs this example.

Source: Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lora_scaling(alpha: float, rank: int, *, rslora: bool = False) -> float:
    """alpha / rank, or alpha / √rank for rank-stabilized LoRA.

    With alpha / √rank the size of the update, and of its gradient, stays the same as the rank grows.
    Source: Kalajdzievski 2023, rsLoRA, arXiv:2312.03732, theorem 3.2.
    """
    return alpha / (math.sqrt(rank) if rslora else rank)


class AdapterLayer(nn.Module, ABC):
    """A frozen `base` layer with a trained update of its weight, which can be merged into one weight.

    A subclass defines the effective weight and the adapter tensors. Its `forward` must obey `enabled` (False: compute
    exactly what the base computes) and `merged`.

    Nothing here writes to the base's `weight` and `bias`, which are the caller's own objects. A merge keeps the folded
    weight next to the frozen one, so `unmerge` only drops it, and `state_dict()` is always unmerged.
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
        """Return ΔW, in the shape of the base weight and at least float32."""

    @abstractmethod
    def effective_weight(self) -> Tensor:
        """Return the weight of the adapted layer, in the shape of the base weight and at least float32."""

    @abstractmethod
    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """Return the adapter's tensors by the suffix that they have in an adapter file."""

    @property
    def merged(self) -> bool:
        """Whether `forward` uses the folded weight."""
        return self.merged_weight is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the update into one weight: computed in float32 (or wider), rounded once to the base's dtype.

        Raises:
            RuntimeError: already merged, a quantized base, or a folded weight that is not finite. Nothing has changed.
        """
        if self.merged:
            raise RuntimeError("merge: already merged; call unmerge() first")
        if not isinstance(self.weight, nn.Parameter):
            raise RuntimeError("merge: the base is quantized; call dequantize_base(model) first")
        folded = self.effective_weight().to(self.weight.dtype).contiguous()
        if not folded.isfinite().all():
            message = f"merge: the folded weight is not finite in {folded.dtype}; look for NaN or inf in A and B"
            raise RuntimeError(message)
        self.merged_weight = folded

    def unmerge(self) -> None:
        """Drop the folded weight. The base weight was never changed. Raise RuntimeError if not merged."""
        if not self.merged:
            raise RuntimeError("unmerge: not merged; call merge() first")
        self.merged_weight = None

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that reads `layer.weight`."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The bias, for code that reads `layer.bias`."""
        return self.base.bias  # type: ignore[return-value]


class LowRankLayer(AdapterLayer):
    """An adapter layer with the factors A and B: what all variants of LoRA construct in the same way.

    Args:
        base: the layer to adapt, with the same tensors, frozen.
        rank: the width of the bottleneck, from 1 to min(in, out).
        alpha: the numerator of the scaling, above 0.
        dropout: probability of zeroing an input of the update path, in [0, 1). The base path is never dropped.
        rslora: scale by alpha / √rank instead of alpha / rank.
        generator: the source of the first random numbers; torch's global generator if None.

    Raises:
        ValueError: an argument outside these bounds.
    """

    stored_ranks = 1  # how many times the rank an adapter file stores

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
        in_features, out_features = self.feature_counts()
        check_lora_arguments(rank, alpha, dropout, widest_rank=min(in_features, out_features) // self.stored_ranks)
        self.rank, self.alpha, self.scaling = rank, alpha, lora_scaling(alpha, rank, rslora=rslora)
        self.dropout = nn.Dropout(dropout)
        self.create_factors(in_features, out_features, generator)

    @abstractmethod
    def feature_counts(self) -> tuple[int, int]:
        """Return in and out of the base layer."""

    def create_factors(self, in_features: int, out_features: int, generator: torch.Generator | None) -> None:
        """Make A random and B zero, in float32 on the base's device."""
        device = self.weight.device
        # float32 whatever the base: an optimizer step is far smaller than what bfloat16 or float16 can resolve
        self.lora_A = nn.Parameter(kaiming_uniform(self.rank, in_features, generator).to(device))  # (rank, in)
        self.lora_B = nn.Parameter(torch.zeros(out_features, self.rank, device=device))  # (out, rank)


class LoRALinear(LowRankLayer):
    """y = x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ, with W and b frozen.

    Shape: lora_A (rank, in), lora_B (out, rank); x (..., in) -> (..., out).
    """

    def feature_counts(self) -> tuple[int, int]:
        """Return in and out of the linear layer."""
        return self.base.in_features, self.base.out_features  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ.

        Shape: x (..., in) -> (..., out). Dtype: autocast's, else that of x.
        """
        if self.merged_weight is not None and self.enabled:
            return F.linear(x, self.merged_weight, self.bias)
        y: Tensor = self.base(x)  # (..., out)
        if not self.enabled:
            return y
        low = F.linear(self.dropout(x), self.lora_A.to(x.dtype))  # (..., rank)
        return y + self.scaling * F.linear(low, self.lora_B.to(low.dtype))

    def delta_weight(self) -> Tensor:
        """ΔW = scaling · B A, shape (out, in), in float32 or wider also under autocast."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            product: Tensor = at_least_float32(self.lora_B) @ at_least_float32(self.lora_A)
            return self.scaling * product

    def effective_weight(self) -> Tensor:
        """W + scaling · B A, shape (out, in), in float32 or wider."""
        return self.weight + self.delta_weight()

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """A and B under PEFT's names."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}


def kaiming_uniform(rank: int, in_features: int, generator: torch.Generator | None) -> Tensor:
    """Draw A uniform in ±1/√in: Kaiming's bound √(6 / ((1 + a²)·in)) at a = √5. Shape: (rank, in), float32.

    Source: He et al. 2015, arXiv:1502.01852; a = √5 is the default of nn.Linear and of PEFT.
    """
    return nn.init.kaiming_uniform_(torch.empty(rank, in_features), a=math.sqrt(5), generator=generator)


def check_lora_arguments(rank: int, alpha: float, dropout: float, *, widest_rank: int) -> None:
    """Raise a ValueError that names which of rank, alpha and dropout is out of bounds, and why."""
    if not 1 <= rank <= widest_rank:
        raise ValueError(f"rank is {rank}; expected 1 to {widest_rank}, the smaller side of the layer")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha}; expected a finite number above 0, else the adapter can never act")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; expected at least 0 and below 1")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or in its own dtype where that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
