r"""What an adapter learnt: how large its update of each layer is, how many directions it uses, and which.

The singular values of ΔW = scaling · B A come from the factors, which are thin: with B = Q₁ R₁ and Aᵀ = Q₂ R₂,

    ΔW = Q₁ (scaling · R₁ R₂ᵀ) Q₂ᵀ        and the SVD of the small matrix in the middle (rank, rank) is that of ΔW.

ΔW is the update in the orientation (out, in) also of layers that store (in, out): Conv1D, and embeddings, whose ΔW maps
one-hot ids (in) to vectors (out). For pissa and olora it is the difference to the start, of rank 2·rank, as it is stored.
For DoRA it is diag(g) · scaling · B A with the gains g = m / ‖V‖: the low-rank part of what is added. The rest of DoRA's
change, (g − 1) · W, only makes rows of W longer or shorter.

Source: Hu et al. 2021, arXiv:2106.09685, section 7; Roy and Vetterli 2007, The effective rank, EUSIPCO, 606-610;
    Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of Equivalence, arXiv:2410.21228 (the cut-offs are ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapter.factors import AdapterSummary, LowRankSVD, low_rank_svd, update_factors, weight_out_in
from ..adapter.state import adapter_layers
from ..adapter.targets import layer_index
from ..layers import AdapterLayer

LEADING = 10  # leading directions of the adapted weight that are looked at for intruders
INTRUDER_COSINE = 0.6  # below this a direction counts as new: it resembles no direction of the base


@dataclass(frozen=True)
class Anatomy(AdapterSummary):
    """All figures of one adapted layer: those, and the two that take a singular value decomposition of W.

    Args:
        alignment: the share of ‖ΔW‖² within the leading `rank` left and right singular directions of W, ‖Uᵀ ΔW V‖² / ‖ΔW‖².
        intruders: how many of the 10 leading left singular directions of the adapted weight have a cosine below 0.6 with
            every one of the base.
    """

    alignment: float
    intruders: int


@torch.no_grad()
def anatomy(model: nn.Module) -> list[Anatomy]:
    """Every adapted layer's figures, in the model's order. Merged or not, enabled or not: the adapter as it is."""
    return [examine(name, layer) for name, layer in adapter_layers(model).items()]


@torch.no_grad()
def summarize_adapter(model: nn.Module) -> list[AdapterSummary]:
    """What of every adapted layer's figures is quick to have, in the model's order."""
    return [_outline(name, layer, low_rank_svd(*update_factors(layer))) for name, layer in adapter_layers(model).items()]


@torch.no_grad()
def examine(name: str, layer: AdapterLayer) -> Anatomy:
    """The figures of one adapted layer, in float64."""
    update, weight = low_rank_svd(*update_factors(layer)), weight_out_in(layer, layer.weight)
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    rank, norm = len(update.S), update.S.norm().item()
    inside = (left[:, :rank].T @ update.U) * update.S @ (update.V.T @ right[:rank].T)  # Uᵀ ΔW V (rank, rank)
    return Anatomy(
        **vars(_outline(name, layer, update)),
        alignment=(inside.norm().item() / norm) ** 2 if norm else 0.0,
        intruders=intruder_dimensions(left, weight_out_in(layer, layer.effective_weight())),
    )


def _outline(name: str, layer: AdapterLayer, update: LowRankSVD) -> AdapterSummary:
    norm, base_norm = update.S.norm().item(), layer.weight.detach().double().norm().item()
    return AdapterSummary(
        name=name,
        rank=len(update.S),
        update_norm=norm,
        base_norm=base_norm,
        relative_norm=norm / base_norm if base_norm else 0.0,
        singular_values=update.S.tolist(),
        stable_rank=stable_rank(update.S),
        effective_rank=effective_rank(update.S),
        energy=(update.S.square().cumsum(0) / norm**2 if norm else update.S).tolist(),
    )


def stable_rank(values: Tensor) -> float:
    """Σσ² / σ₁², 0 if all are 0. Shape: (rank,)."""
    largest = values.max()
    return (values / largest).square().sum().item() if largest > 0 else 0.0


def effective_rank(values: Tensor) -> float:
    """exp(−Σ p log p) with p = σ / Σσ, 0 if all are 0. Shape: (rank,)."""
    total = values.sum()
    return torch.special.entr(values / total).sum().exp().item() if total > 0 else 0.0


def intruder_dimensions(left: Tensor, adapted: Tensor) -> int:
    """How many of the leading left singular directions of `adapted` resemble no left singular direction of the base.

    Shape: left (out, k), the base's; adapted (out, in).
    """
    leading = torch.linalg.svd(adapted, full_matrices=False).U[:, :LEADING]
    return int(((left.T @ leading).abs().amax(0) < INTRUDER_COSINE).sum())


def shares_by_projection(rows: Iterable[Anatomy]) -> dict[str, float]:
    """The share of Σ‖ΔW‖² that each kind of layer has, by the last component of the name."""
    return _shares(rows, lambda row: row.name.rpartition(".")[2])


def shares_by_depth(rows: Iterable[Anatomy]) -> dict[str, float]:
    """The share of Σ‖ΔW‖² that each layer number has; `-` for what is in no numbered layer."""

    def depth(row: Anatomy) -> str:
        """The number of the layer that a module stands in."""
        found = layer_index(row.name)
        return "-" if found is None else str(found)

    return _shares(rows, depth)


def _shares(rows: Iterable[Anatomy], group: Callable[[Anatomy], str]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        sums[group(row)] = sums.get(group(row), 0.0) + row.update_norm**2
    total = sum(sums.values())
    return {name: part / total if total else 0.0 for name, part in sums.items()}
