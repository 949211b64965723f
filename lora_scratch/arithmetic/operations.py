r"""Adapters as vectors: exact sums, differences and multiples of ΔW, and the nearest lower rank.

    w₁ · B₁ A₁ + w₂ · B₂ A₂ = [w₁ B₁, w₂ B₂] · [A₁; A₂]

A sum concatenates the factors, so ranks add up. (B₁ + B₂)(A₁ + A₂) would hold cross terms B₁ A₂
that no adapter learnt. No dense (out, in) matrix is made.

Trained biases add up by their change against the base. A new head has no such change, because it
starts at random values that no file holds. A head that is equal in all adapters stays. Different
heads are averaged if the weights sum to 1; else the caller names the adapter whose head is used.

Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank,
    Psychometrika 1:211-218; Ilharco et al. 2022, Editing Models with Task Arithmetic,
    arXiv:2212.04089.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ..adapter.config import BIASES, LoRAConfig
from ..adapter.factors import LowRankSVD
from ..errors import BaseMismatchError, ConfigError
from .update import AdapterUpdate, Factors

Updates = Sequence[AdapterUpdate]
Weights = Sequence[float]
Value = TypeVar("Value")


def combine(updates: Updates, weights: Weights, *, heads_from: int | None = None) -> AdapterUpdate:
    """Return Σ wᵢ · ΔWᵢ of every module that one of the adapters changes.

    The rank of a module is the sum of its ranks, at most the smaller side of the layer.

    Args:
        heads_from: the index of the adapter whose heads are used; None combines the heads.

    Raises:
        BaseMismatchError: adapters of different bases.
        ConfigError: weights or shapes that do not fit, or heads that can't be combined.
    """
    _check_weights(updates, weights)
    _check_base(updates)
    _check_shapes(updates)
    pairs = list(zip(updates, weights, strict=True))
    factors = _by_name(_scaled(u.factors, w) for u, w in pairs)
    biases = _by_name({name: w * change for name, change in u.biases.items()} for u, w in pairs)
    combined = AdapterUpdate(
        config=_combine_config(updates, updates[heads_from or 0].config, names=list(factors)),
        factors={name: concatenate(parts) for name, parts in factors.items()},
        biases={name: torch.stack(changes).sum(0) for name, changes in biases.items()},
        heads=_combine_heads(updates, weights) if heads_from is None else updates[heads_from].heads,
        base={name: digest for update in updates for name, digest in update.base.items()},
    )
    _check_no_overlap(combined)
    return combined


def concatenate(parts: Sequence[Factors]) -> Factors:
    """Return [A₁; A₂; ...] and [B₁, B₂, ...]: their product is the sum of the products.

    A rank above the smaller side of the layer is cut to it, without loss.
    """
    lora_A = torch.cat([part.lora_A for part in parts])
    stacked = Factors(lora_A, torch.cat([part.lora_B for part in parts], dim=1))
    largest = min(stacked.shape)
    return stacked if stacked.rank <= largest else leading_factors(stacked.svd(), largest)


def recompress(update: AdapterUpdate, rank: int) -> tuple[AdapterUpdate, dict[str, float]]:
    """Return the nearest update of at most this rank, and every module's ‖ΔW − ΔWᵣ‖ / ‖ΔW‖.

    By Eckart and Young the leading singular directions are nearest in the Frobenius norm, and
    ‖ΔW − ΔWᵣ‖ = √(σ²ᵣ₊₁ + σ²ᵣ₊₂ + ...). Raises ConfigError for a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"found {rank}", where="--rank", expected="at least 1")
    factors, residuals = dict(update.factors), dict.fromkeys(update.factors, 0.0)
    for name, exact in update.factors.items():
        if exact.rank > rank:
            svd = exact.svd()
            norm = svd.S.norm().item()
            factors[name] = leading_factors(svd, rank)
            residuals[name] = svd.S[rank:].norm().item() / norm if norm else 0.0
    return replace(update, factors=factors), residuals


def leading_factors(svd: LowRankSVD, rank: int) -> Factors:
    """Return A = √S Vᵀ and B = U √S of the leading directions. Shape: (rank, in), (out, rank)."""
    root = svd.S[:rank].sqrt()
    return Factors(root[:, None] * svd.V[:, :rank].T, svd.U[:, :rank] * root)


def _scaled(factors: Mapping[str, Factors], weight: float) -> dict[str, Factors]:
    """Return weight · ΔW of every module, with the weight in B."""
    return {name: Factors(part.lora_A, weight * part.lora_B) for name, part in factors.items()}


def _by_name(mappings: Iterable[Mapping[str, Value]]) -> dict[str, list[Value]]:
    """Collect the values of every name, in the order of first appearance."""
    values: dict[str, list[Value]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            values.setdefault(name, []).append(value)
    return values


def _combine_config(updates: Updates, first: LoRAConfig, *, names: list[str]) -> LoRAConfig:
    """Return `first` with the widest bias mode; with the names of the modules if choices differ."""
    bias = max((update.config.bias for update in updates), key=BIASES.index)
    configs = [update.config for update in updates]
    choices = [(config.targets, config.exclude, config.layers) for config in configs]
    same_choice = all(choice == choices[0] for choice in choices)
    if same_choice and all(update.factors.keys() == set(names) for update in updates):
        return replace(first, bias=bias)
    return replace(first, bias=bias, targets=names, exclude=None, layers=None)


def _combine_heads(updates: Updates, weights: Weights) -> dict[str, Tensor]:
    heads = [update.heads for update in updates]
    shapes = _by_name({n: (*t.shape, t.dtype) for n, t in head.items()} for head in heads)
    different = [name for name, s in shapes.items() if len(s) < len(heads) or len(set(s)) > 1]
    if different:
        name = min(different)
        raise _no_average(f"{name} is not trained in all of the adapters, or not in the same shape")
    first = heads[0]
    if all(torch.equal(first[name], head[name]) for head in heads[1:] for name in head):
        return first
    if not math.isclose(sum(weights), 1, abs_tol=1e-9):
        total = f"the weights sum to {sum(weights):g}"
        raise _no_average(f"the heads differ and {total}, so they are no average of heads")
    return {name: _mean(name, [head[name] for head in heads], weights) for name in heads[0]}


def _mean(name: str, tensors: Sequence[Tensor], weights: Weights) -> Tensor:
    """Return the weighted mean, computed in float64."""
    first = tensors[0]
    if all(torch.equal(first, other) for other in tensors[1:]):
        return first
    if not first.is_floating_point():
        raise _no_average(f"{name} holds whole numbers, which differ and have no average")
    terms = [weight * tensor.double() for tensor, weight in zip(tensors, weights, strict=True)]
    return torch.stack(terms).sum(0).to(first.dtype)


def _no_average(problem: str) -> ConfigError:
    return ConfigError(
        problem,
        where="heads",
        expected="the same head in all, or weights that sum to 1",
        remedy="say whose heads to take: heads_from, in the script --heads_from",
    )


def _check_weights(updates: Updates, weights: Weights) -> None:
    if not updates or len(updates) != len(weights):
        problem = f"{len(weights)} weights for {len(updates)} adapters"
        raise ConfigError(problem, where="--weights", expected="one for each")
    wrong = [weight for weight in weights if not math.isfinite(weight) or weight == 0]
    if wrong:
        expected = "finite numbers other than 0"
        raise ConfigError(f"found {wrong[0]}", where="--weights", expected=expected)


def _check_base(updates: Updates) -> None:
    for (i, first), (j, other) in itertools.combinations(enumerate(updates, 1), 2):
        names = sorted({*first.base, *other.base})
        different = [name for name in names if not _same_base(name, first, other)]
        if different:
            problem = f"{len(different)} tensors differ, first {different[0]}"
            raise BaseMismatchError(
                [f"adapters {i} and {j} have different bases ({problem})"],
                where="combine",
                expected="adapters of one base model",
                remedy="train both on the same base",
            )


def _same_base(name: str, first: AdapterUpdate, other: AdapterUpdate) -> bool:
    """Compare a frozen tensor; a tensor that one adapter trains counts as the same."""
    if name in first.base and name in other.base:
        return first.base[name] == other.base[name]
    trained = other if name in first.base else first
    return name in trained.heads or name in trained.biases


def _check_shapes(updates: Updates) -> None:
    for name, parts in _by_name(update.factors for update in updates).items():
        first, *others = dict.fromkeys(part.shape for part in parts)
        if others:
            problem = f"it is {first} in one adapter and {others[0]} in another"
            raise ConfigError(problem, where=name)


def _check_no_overlap(update: AdapterUpdate) -> None:
    """Refuse a module that one adapter trains in full and that another one adapts."""
    heads = update.config.head_modules or []
    for name in (*update.factors, *update.biases):
        if any(name == head or name.startswith(f"{head}.") for head in heads):
            raise ConfigError(
                "it is in a module that one adapter trains in full and that another adapts",
                where=name,
                expected="adapters with the same head modules",
            )
