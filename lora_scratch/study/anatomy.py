r"""The anatomy of an adapter: the size of every layer's update, and its singular directions.

ΔW = scaling · B A is (out, in) for every kind of layer. For pissa and olora it is the difference to
the start, of rank 2·rank. For DoRA it is diag(g) · scaling · B A with the gains g = m / ‖V‖; the
rest of DoRA's change, (g − 1) · W, only rescales the rows of W.

Source: Hu et al. 2021, arXiv:2106.09685, section 7; Roy and Vetterli 2007, The effective rank,
    EUSIPCO, 606-610; Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of
    Equivalence, arXiv:2410.21228 (the thresholds are ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapter.factors import (
    AdapterSummary,
    LowRankSVD,
    low_rank_svd,
    update_factors,
    weight_out_in,
)
from ..adapter.state import adapter_layers
from ..layers import AdapterLayer
from ..reporting.anatomy import depth

LEADING = 10  # directions of the adapted weight that are checked for intruders
INTRUDER_COSINE = 0.6  # below this cosine with every direction of the base, a direction is new


@dataclass(frozen=True)
class Anatomy(AdapterSummary):
    """All figures of one adapted layer; these two need the singular value decomposition of W.

    Args:
        alignment: ‖Uᵀ ΔW V‖² / ‖ΔW‖² with the leading `rank` singular directions U, V of W.
        intruders: the number of leading left singular directions of the adapted weight, of 10,
            that have a cosine below 0.6 with every direction of the base.
    """

    alignment: float
    intruders: int


@torch.no_grad()
def anatomy(model: nn.Module) -> list[Anatomy]:
    """Return all figures of every adapted layer, merged or not, enabled or not."""
    return [examine(name, layer) for name, layer in adapter_layers(model).items()]


@torch.no_grad()
def summarize_adapter(model: nn.Module) -> list[AdapterSummary]:
    """Return the figures of every adapted layer that need no decomposition of W."""
    layers = adapter_layers(model).items()
    return [_summary(name, layer, low_rank_svd(*update_factors(layer))) for name, layer in layers]


@torch.no_grad()
def examine(name: str, layer: AdapterLayer) -> Anatomy:
    """Compute the figures of one adapted layer, in float64."""
    update, weight = low_rank_svd(*update_factors(layer)), weight_out_in(layer, layer.weight)
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    rank, norm = len(update.S), update.S.norm().item()
    inside = (left[:, :rank].T @ update.U) * update.S @ (update.V.T @ right[:rank].T)  # Uᵀ ΔW V
    return Anatomy(
        **vars(_summary(name, layer, update)),
        alignment=(inside.norm().item() / norm) ** 2 if norm else 0.0,
        intruders=intruder_dimensions(left, weight_out_in(layer, layer.effective_weight())),
    )


def _summary(name: str, layer: AdapterLayer, update: LowRankSVD) -> AdapterSummary:
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
    """Return Σσ² / σ₁², 0 if all are 0. Shape: (rank,)."""
    largest = values.max()
    return (values / largest).square().sum().item() if largest > 0 else 0.0


def effective_rank(values: Tensor) -> float:
    """Return exp(−Σ p log p) with p = σ / Σσ, 0 if all are 0. Shape: (rank,)."""
    total = values.sum()
    return torch.special.entr(values / total).sum().exp().item() if total > 0 else 0.0


def intruder_dimensions(left: Tensor, adapted: Tensor) -> int:
    """Count the leading left singular directions of `adapted` that resemble none of the base.

    Shape: left (out, k), the directions of the base; adapted (out, in).
    """
    leading = torch.linalg.svd(adapted, full_matrices=False).U[:, :LEADING]
    return int(((left.T @ leading).abs().amax(0) < INTRUDER_COSINE).sum())


def shares_by_projection(rows: Iterable[Anatomy]) -> dict[str, float]:
    """Return the share of Σ‖ΔW‖² by the last component of the module's name."""
    return _shares(rows, lambda name: name.rpartition(".")[2])


def shares_by_depth(rows: Iterable[Anatomy]) -> dict[str, float]:
    """Return the share of Σ‖ΔW‖² by the number of the layer; `-` for a module in no layer."""
    return _shares(rows, depth)


def _shares(rows: Iterable[Anatomy], group_of: Callable[[str], str]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        group = group_of(row.name)
        sums[group] = sums.get(group, 0.0) + row.update_norm**2
    total = sum(sums.values())
    return {name: part / total if total else 0.0 for name, part in sums.items()}
