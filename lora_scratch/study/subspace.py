r"""How much two subspaces have in common, and what of a weight an update amplifies: the measures of section 7 of the paper.

    φ(U₁, U₂, i, j) = ‖U₁ᵢᵀ U₂ⱼ‖² / min(i, j)        U₁ᵢ the first i columns: 0 orthogonal, 1 one within the other
    amplification   = ‖ΔW‖ / ‖Uᵀ W V‖                 U, V the leading left and right singular directions of ΔW

Of n dimensions, two random subspaces of i and j have φ = max(i, j) / n in the mean: what has to be exceeded.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, sections 7.2 and 7.3, equation 4; Hamm and Lee 2008, Grassmann Discriminant
    Analysis, for the projection metric that φ comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapter.factors import low_rank_svd, update_factors
from ..layers import AdapterLayer, stores_in_out


@dataclass(frozen=True)
class Amplification:
    """One layer's row of the paper's table 7: norms of W within the leading directions of ΔW, of W and of chance.

    Args:
        rank: how many directions.
        in_update, in_weight, in_random: ‖Uᵀ W V‖ with the directions of ΔW, of W, and random ones.
        weight_norm, update_norm: ‖W‖ and ‖ΔW‖.
        factor: ‖ΔW‖ / in_update.
    """

    rank: int
    in_update: float
    in_weight: float
    in_random: float
    weight_norm: float
    update_norm: float
    factor: float


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """φ for every i and j at once. Shape: (n, r₁), (n, r₂), each with orthonormal columns -> (r₁, r₂), from 0 to 1."""
    shared = (first.T @ second).square().cumsum(0).cumsum(1)
    rows = torch.arange(1, shared.shape[0] + 1)[:, None]
    columns = torch.arange(1, shared.shape[1] + 1)
    return shared / torch.minimum(rows, columns)


def expected_similarity(i: int, j: int, dimensions: int) -> float:
    """The mean of φ over random subspaces: max(i, j) / n, since E ‖U₁ᵀ U₂‖² = i · j / n."""
    return max(i, j) / dimensions


def random_directions(dimensions: int, count: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns that span a uniformly random subspace. Shape: (dimensions, count), float64."""
    drawn = torch.randn(dimensions, count, generator=generator, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(drawn).Q
    return directions


@torch.no_grad()
def directions_of_A(layer: AdapterLayer) -> Tensor:
    """The right singular directions of A, the most important first: what the paper compares. Shape: (in, rank), float64."""
    right: Tensor = torch.linalg.svd(update_factors(layer)[0], full_matrices=False).Vh
    return right.T


@torch.no_grad()
def directions_of_update(layer: AdapterLayer) -> Tensor:
    """The right singular directions of ΔW = scaling · B A: those that B listens to. Shape: (in, rank), float64."""
    return low_rank_svd(*update_factors(layer)).V


@torch.no_grad()
def amplification(layer: AdapterLayer, generator: torch.Generator) -> Amplification:
    """How much of W lies in the directions of ΔW, and how much longer ΔW is there; factor 0 without an update.

    Args:
        generator: where the random directions come from.
    """
    update = low_rank_svd(*update_factors(layer))
    weight = layer.weight.detach().double()
    weight = weight.T if isinstance(layer.base, nn.Embedding) or stores_in_out(layer.base) else weight  # (out, in)
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    out_features, in_features = weight.shape
    rank, norm = len(update.S), update.S.norm().item()
    chance = [random_directions(size, rank, generator) for size in (out_features, in_features)]
    inside = projected_norm(weight, update.U, update.V)
    return Amplification(
        rank=rank,
        in_update=inside,
        in_weight=projected_norm(weight, left[:, :rank], right[:rank].T),
        in_random=projected_norm(weight, chance[0], chance[1]),
        weight_norm=weight.norm().item(),
        update_norm=norm,
        factor=norm / inside if inside else 0.0,
    )


def projected_norm(weight: Tensor, left: Tensor, right: Tensor) -> float:
    """‖Uᵀ W V‖. Shape: weight (out, in), left (out, r), right (in, r)."""
    return float((left.T @ weight @ right).norm())
