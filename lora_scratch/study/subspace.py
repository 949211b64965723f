r"""The measures of section 7 of the paper: similarity of subspaces, and amplification of a weight.

    φ(U₁, U₂, i, j) = ‖U₁ᵢᵀ U₂ⱼ‖² / min(i, j)     U₁ᵢ the first i columns
    amplification   = ‖ΔW‖ / ‖Uᵀ W V‖             U, V the leading singular directions of ΔW

φ is 0 for orthogonal subspaces, and 1 if one lies within the other.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, sections 7.2 and 7.3, equation 4; Hamm and Lee 2008,
    Grassmann Discriminant Analysis, for the projection metric of φ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapter.factors import low_rank_svd, update_factors, weight_out_in
from ..layers import AdapterLayer


@dataclass(frozen=True)
class Amplification:
    """One layer's row of the paper's table 7.

    Args:
        rank: the number of directions.
        in_update, in_weight, in_random: ‖Uᵀ W V‖ with the directions of ΔW, of W, random ones.
        weight_norm, update_norm: ‖W‖ and ‖ΔW‖.
        factor: ‖ΔW‖ / in_update, 0 without an update.
    """

    rank: int
    in_update: float
    in_weight: float
    in_random: float
    weight_norm: float
    update_norm: float
    factor: float


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return φ for every i and j. Shape: orthonormal (n, r₁), (n, r₂) -> (r₁, r₂), from 0 to 1."""
    shared = (first.T @ second).square().cumsum(0).cumsum(1)
    rows = torch.arange(1, shared.shape[0] + 1)[:, None]
    columns = torch.arange(1, shared.shape[1] + 1)
    return shared / torch.minimum(rows, columns)


def expected_similarity(i: int, j: int, dimensions: int) -> float:
    """Return the mean φ of random subspaces, max(i, j) / n, since E ‖U₁ᵀ U₂‖² = i · j / n."""
    return max(i, j) / dimensions


def random_directions(dimensions: int, count: int, generator: torch.Generator) -> Tensor:
    """Return an orthonormal basis of a uniformly random subspace. Shape: (n, count), float64."""
    drawn = torch.randn(dimensions, count, generator=generator, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(drawn).Q
    return directions


@torch.no_grad()
def directions_of_A(layer: AdapterLayer) -> Tensor:
    """Return the right singular directions of A, strongest first. Shape: (in, rank), float64."""
    right: Tensor = torch.linalg.svd(update_factors(layer)[0], full_matrices=False).Vh
    return right.T


@torch.no_grad()
def directions_of_update(layer: AdapterLayer) -> Tensor:
    """Return the right singular directions of ΔW = scaling · B A. Shape: (in, rank), float64."""
    return low_rank_svd(*update_factors(layer)).V


@torch.no_grad()
def amplification(layer: AdapterLayer, generator: torch.Generator) -> Amplification:
    """Compare ΔW with W in the directions of ΔW; `generator` draws the random directions."""
    update, weight = low_rank_svd(*update_factors(layer)), weight_out_in(layer, layer.weight)
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    rank, norm = len(update.S), update.S.norm().item()
    random_left, random_right = (random_directions(n, rank, generator) for n in weight.shape)
    inside = projected_norm(weight, update.U, update.V)
    return Amplification(
        rank=rank,
        in_update=inside,
        in_weight=projected_norm(weight, left[:, :rank], right[:rank].T),
        in_random=projected_norm(weight, random_left, random_right),
        weight_norm=weight.norm().item(),
        update_norm=norm,
        factor=norm / inside if inside else 0.0,
    )


def projected_norm(weight: Tensor, left: Tensor, right: Tensor) -> float:
    """Return ‖Uᵀ W V‖. Shape: weight (out, in), left (out, r), right (in, r)."""
    return float((left.T @ weight @ right).norm())
