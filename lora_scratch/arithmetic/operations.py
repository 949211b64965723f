r"""Adapters as vectors: sums, differences and multiples of ΔW, exact; and the best approximation of a lower rank.

    w₁ · B₁ A₁ + w₂ · B₂ A₂ = [w₁ B₁, w₂ B₂] · [A₁; A₂]        adding updates is concatenating their factors: ranks add up

Adding up the A's and the B's apart would give (B₁ + B₂)(A₁ + A₂), with cross terms B₁ A₂ that no adapter ever learnt. What
is said here is said of ΔW.

`recompress` keeps the leading singular directions. By Eckart and Young no matrix of that rank is nearer to ΔW in the
Frobenius norm, and what is lost is √(σ²ᵣ₊₁ + σ²ᵣ₊₂ + ...). It works on the factors: a dense (out, in) matrix is never made.

Trained biases add up by their change against the base. Heads are points, not differences: the first value of a new head is
random and in no file. So a head that all adapters have alike is kept, others can be averaged (weights that sum to 1, for
which the first value cancels out), and otherwise one adapter has to be named whose head is taken.

Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank, Psychometrika 1:211-218;
    Ilharco et al. 2022, Editing Models with Task Arithmetic, arXiv:2212.04089.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..adapter.config import BIASES, LoRAConfig
from ..adapter.factors import LowRankSVD, low_rank_svd
from ..errors import BaseMismatchError, ConfigError
from .update import AdapterUpdate, Factors


def combine(updates: Sequence[AdapterUpdate], weights: Sequence[float], *, heads_from: int | None = None) -> AdapterUpdate:
    """Σ wᵢ · ΔWᵢ of every module that any of them adapts; a module that an adapter leaves alone counts as zero in it.

    The rank of a module is the sum of its ranks, at most the smaller side of the layer.

    Args:
        heads_from: the index of the adapter whose heads are taken; None combines them as the head of the file says.

    Raises:
        BaseMismatchError: adapters of different bases.
        ConfigError: weights or shapes that do not fit, or heads whose combination has no meaning.
    """
    _check_weights(updates, weights)
    _check_base(updates)
    _check_shapes(updates)
    pairs = list(zip(updates, weights, strict=True))
    combined = AdapterUpdate(
        config=_config(updates, updates[heads_from or 0].config),
        factors={
            name: concatenate([scaled_factors(each.factors[name], w) for each, w in pairs if name in each.factors])
            for name in _union(each.factors for each in updates)
        },
        biases={
            name: torch.stack([w * each.biases[name] for each, w in pairs if name in each.biases]).sum(0)
            for name in _union(each.biases for each in updates)
        },
        heads=_combine_heads(updates, weights) if heads_from is None else updates[heads_from].heads,
        base={name: digest for each in updates for name, digest in each.base.items()},
    )
    _check_apart(combined)
    return combined


def add(*updates: AdapterUpdate, heads_from: int | None = None) -> AdapterUpdate:
    """ΔW₁ + ΔW₂ + ..."""
    return combine(updates, [1.0] * len(updates), heads_from=heads_from)


def subtract(minuend: AdapterUpdate, subtrahend: AdapterUpdate, *, heads_from: int | None = None) -> AdapterUpdate:
    """ΔW₁ − ΔW₂."""
    return combine([minuend, subtrahend], [1.0, -1.0], heads_from=heads_from)


def scale(update: AdapterUpdate, factor: float) -> AdapterUpdate:
    """factor · ΔW, and factor · Δb; the heads stay, as with the dial `scaled`."""
    return combine([update], [factor])


def average(*updates: AdapterUpdate, heads_from: int | None = None) -> AdapterUpdate:
    """(ΔW₁ + ... + ΔWₙ) / n."""
    return combine(updates, [1 / len(updates)] * len(updates), heads_from=heads_from)


def concatenate(parts: Sequence[Factors]) -> Factors:
    """[A₁; A₂; ...] and [B₁, B₂, ...], whose product is the sum of the products.

    Ranks add up; above the smaller side of the layer, which no matrix's rank exceeds, they are cut to it without a loss.
    """
    stacked = Factors(torch.cat([part.lora_A for part in parts]), torch.cat([part.lora_B for part in parts], dim=1))
    return stacked if stacked.rank <= min(stacked.shape) else leading(_svd(stacked), min(stacked.shape))


def scaled_factors(factors: Factors, factor: float) -> Factors:
    """factor · ΔW, sign and size in B."""
    return Factors(factors.lora_A, factor * factors.lora_B)


def recompress(update: AdapterUpdate, rank: int) -> tuple[AdapterUpdate, dict[str, float]]:
    """The nearest update of at most this rank in every module, and what each lost: ‖ΔW − ΔWᵣ‖ / ‖ΔW‖, 0 where ΔW is zero.

    A module of this rank or less stays as it is.

    Raises:
        ConfigError: a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"found {rank}", where="--rank", expected="at least 1")
    factors, residuals = {}, {}
    for name, each in update.factors.items():
        if each.rank <= rank:
            factors[name], residuals[name] = each, 0.0
        else:
            found = _svd(each)
            norm = found.S.norm().item()
            factors[name], residuals[name] = leading(found, rank), found.S[rank:].norm().item() / norm if norm else 0.0
    return replace(update, factors=factors), residuals


def leading(found: LowRankSVD, rank: int) -> Factors:
    """The leading part, shared between the factors: A = √S Vᵀ and B = U √S. Shape: (rank, in), (out, rank)."""
    root = found.S[:rank].sqrt()
    return Factors(root[:, None] * found.V[:, :rank].T, found.U[:, :rank] * root)


def update_norm(factors: Factors) -> float:
    """‖B A‖, the Frobenius norm."""
    return float(_svd(factors).S.norm())


def _svd(factors: Factors) -> LowRankSVD:
    return low_rank_svd(factors.lora_A, factors.lora_B)


def _combine_heads(updates: Sequence[AdapterUpdate], weights: Sequence[float]) -> dict[str, Tensor]:
    heads = [each.heads for each in updates]
    if all(_same_head(heads[0], other) for other in heads[1:]):
        return heads[0]
    shapes = [_shapes(head) for head in heads]
    odd = sorted(name for name in _union(shapes) if any(each.get(name) != shapes[0].get(name) for each in shapes))
    if odd:
        raise _no_meaning(f"{odd[0]} is not trained in all of the adapters, or not in the same shape")
    if not math.isclose(sum(weights), 1, abs_tol=1e-9):
        raise _no_meaning(f"the heads differ and the weights sum to {sum(weights):g}, so they are no average of heads")
    return {name: _mean(name, [head[name] for head in heads], weights) for name in heads[0]}


def _mean(name: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if all(torch.equal(tensors[0], other) for other in tensors[1:]):
        return tensors[0]
    if not tensors[0].is_floating_point():
        raise _no_meaning(f"{name} holds whole numbers, which differ and have no average")
    total = torch.stack([w * tensor.double() for tensor, w in zip(tensors, weights, strict=True)]).sum(0)
    return total.to(tensors[0].dtype)


def _no_meaning(found: str) -> ConfigError:
    return ConfigError(
        found,
        where="heads",
        expected="the same head in all, or weights that sum to 1",
        remedy="say whose heads to take: heads_from, in the script --heads_from",
    )


def _same_head(first: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return _shapes(first) == _shapes(other) and all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def _shapes(head: dict[str, Tensor]) -> dict[str, tuple[object, ...]]:
    return {name: (*tensor.shape, tensor.dtype) for name, tensor in head.items()}


def _config(updates: Sequence[AdapterUpdate], first: LoRAConfig) -> LoRAConfig:
    """Which modules: as it was said where all say the same, else by name; biases of the widest mode."""
    bias = max((each.config.bias for each in updates), key=BIASES.index)
    choices = [(each.config.targets, each.config.exclude, each.config.layers) for each in updates]
    if all(choice == choices[0] for choice in choices) and all(
        each.factors.keys() == updates[0].factors.keys() for each in updates
    ):
        return replace(first, bias=bias)
    return replace(first, bias=bias, targets=_union(each.factors for each in updates), exclude=None, layers=None)


def _check_weights(updates: Sequence[AdapterUpdate], weights: Sequence[float]) -> None:
    if not updates or len(updates) != len(weights):
        raise ConfigError(f"{len(weights)} weights for {len(updates)} adapters", where="--weights", expected="one for each")
    wrong = [weight for weight in weights if not math.isfinite(weight) or weight == 0]
    if wrong:
        raise ConfigError(f"found {wrong[0]}", where="--weights", expected="finite numbers other than 0")


def _check_base(updates: Sequence[AdapterUpdate]) -> None:
    for (number, first), (other_number, other) in itertools.combinations(enumerate(updates, 1), 2):
        different = [name for name in sorted({*first.base, *other.base}) if not _same_base(name, first, other)]
        if different:
            found = f"{len(different)} tensors differ, first {different[0]}"
            raise BaseMismatchError(
                [f"adapters {number} and {other_number} have different bases ({found})"],
                where="combine",
                expected="adapters of one base model",
                remedy="train both on the same base",
            )


def _same_base(name: str, first: AdapterUpdate, other: AdapterUpdate) -> bool:
    """A tensor that one adapter trains is not among its frozen ones: there is nothing to compare it with then."""
    if name in first.base and name in other.base:
        return first.base[name] == other.base[name]
    trained = other if name in first.base else first
    return name in trained.heads or name in trained.biases


def _check_shapes(updates: Sequence[AdapterUpdate]) -> None:
    shapes: dict[str, tuple[int, int]] = {}
    for each in updates:
        for name, factors in each.factors.items():
            if shapes.setdefault(name, factors.shape) != factors.shape:
                raise ConfigError(f"it is {shapes[name]} in one adapter and {factors.shape} in another", where=name)


def _check_apart(update: AdapterUpdate) -> None:
    """What one adapter trains as its head, another may not adapt or train the bias of: the parts would overlap."""
    heads = update.config.head_modules or []
    for name in (*update.factors, *update.biases):
        if any(name == head or name.startswith(f"{head}.") for head in heads):
            raise ConfigError(
                "it is in a module that one adapter trains in full and that another adapts",
                where=name,
                expected="adapters with the same head modules",
            )


def _union(parts: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))
