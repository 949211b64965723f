r"""The factors of a layer's update, ΔW = B A, and its singular value decomposition.

With the QR decompositions B = Q₁ R₁ and Aᵀ = Q₂ R₂,

    ΔW = Q₁ (R₁ R₂ᵀ) Q₂ᵀ

so the SVD of the small matrix R₁ R₂ᵀ (rank, rank) gives that of ΔW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers import AdapterLayer, DoRALinear, stored_tensors, stores_in_out

# the names of A and B in an adapter file
FACTORS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class LowRankSVD:
    """ΔW = U diag(S) Vᵀ. Shape: U (out, rank), S (rank,) falling, V (in, rank)."""

    U: Tensor
    S: Tensor
    V: Tensor


@dataclass(frozen=True)
class AdapterSummary:
    """The figures of one adapted layer that its factors and ‖W‖ give.

    Args:
        update_norm, base_norm: ‖ΔW‖ and ‖W‖ (Frobenius).
        relative_norm: ‖ΔW‖ / ‖W‖.
        singular_values: of ΔW, falling, as many as the stored rank.
        stable_rank: ‖ΔW‖² / σ₁², from 1 to the rank; 0 without an update.
        effective_rank: exp of the entropy of σ / Σσ, from 1 to the rank; 0 without an update.
        energy: the shares of ‖ΔW‖² in the first 1, 2, ... singular values.
    """

    name: str
    rank: int
    update_norm: float
    base_norm: float
    relative_norm: float
    singular_values: list[float]
    stable_rank: float
    effective_rank: float
    energy: list[float]


def update_factors(layer: AdapterLayer) -> tuple[Tensor, Tensor]:
    """Return A (rank, in) and B (out, rank) with ΔW = B A, in float64.

    B includes the scaling and DoRA's gains. The factors of a layer without A and B come from the
    singular value decomposition of its ΔW.
    """
    if not has_factors(layer):
        return _factors_of(layer)
    tensors = stored_tensors(layer)
    names = next(names for names in FACTORS if names[0] in tensors)
    lora_A, lora_B = (tensors[name].double() for name in names)
    lora_B = layer.scaling * lora_B
    if isinstance(layer, DoRALinear):
        lora_B = layer.gain().detach().double()[:, None] * lora_B
    return lora_A, lora_B


def has_factors(layer: AdapterLayer) -> bool:
    """Return whether the layer stores A and B under LoRA's names."""
    return any(lora_A in stored_tensors(layer) for lora_A, _ in FACTORS)


def _factors_of(layer: AdapterLayer) -> tuple[Tensor, Tensor]:
    delta = weight_out_in(layer, layer.delta_weight())
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    above_rounding = values > torch.finfo(torch.float32).eps * max(layer.weight.shape) * values[0]
    rank = max(1, int(above_rounding.sum()))
    return right[:rank], left[:, :rank] * values[:rank]


def low_rank_svd(lora_A: Tensor, lora_B: Tensor) -> LowRankSVD:
    """Return the singular value decomposition of B A without a matrix of (out, in).

    Shape: (rank, in), (out, rank). A rank above out or in is cut to it.
    """
    left, upper = torch.linalg.qr(lora_B)  # (out, rank), (rank, rank)
    right, lower = torch.linalg.qr(lora_A.T)  # (in, rank), (rank, rank)
    u, values, vh = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return LowRankSVD(left @ u, values, right @ vh.T)


def weight_out_in(layer: AdapterLayer, weight: Tensor) -> Tensor:
    """Return the weight as (out, in) in float64. Conv1D and embeddings store (in, out)."""
    wide = weight.detach().double()
    in_out = isinstance(layer.base, nn.Embedding) or stores_in_out(layer.base)
    return wide.T if in_out else wide
