r"""What an adapter changes: taken out of one model, and put into another.

    ΔW = B A        of every adapted layer; B holds the scaling, so no alpha is needed
    Δb = b − b₀     of every trained bias
    heads           whole: a new head starts at random values, so a difference has no meaning

DoRA is refused: its change of a weight depends on the weight and has no low rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..adapter.config import LoRAConfig
from ..adapter.factors import LowRankSVD, has_factors, low_rank_svd, update_factors
from ..adapter.inject import inject
from ..adapter.state import adapter_layers, adapter_state, base_tensors, trained_biases
from ..errors import ConfigError
from ..layers import AdapterLayer, DoRALinear, NoRandomNumbers
from ..serialization.fingerprint import frozen_digests

NAMES_OF_A = ("lora_A.weight", "lora_embedding_A")


@dataclass(frozen=True)
class Factors:
    """ΔW = B A as (out, in), in float64. Shape: lora_A (rank, in), lora_B (out, rank)."""

    lora_A: Tensor
    lora_B: Tensor

    @property
    def rank(self) -> int:
        """The columns of B; the rank of the product can be lower."""
        return self.lora_A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), the shape of ΔW."""
        return self.lora_B.shape[0], self.lora_A.shape[1]

    def svd(self) -> LowRankSVD:
        """Return the singular value decomposition of ΔW, without making ΔW."""
        return low_rank_svd(self.lora_A, self.lora_B)

    def norm(self) -> float:
        """Return ‖ΔW‖, the Frobenius norm."""
        return float(self.svd().S.norm())


@dataclass(frozen=True)
class AdapterUpdate:
    """The changes of one adapter.

    Args:
        config: the settings; `factors` say the ranks and scalings, not `config`.
        factors: of ΔW, by module name.
        biases: Δb by name, in float64.
        heads: the tensors of the modules trained in full, by name.
        base: the SHA-256 of every frozen tensor of the base, by name.
    """

    config: LoRAConfig
    factors: dict[str, Factors]
    biases: dict[str, Tensor]
    heads: dict[str, Tensor]
    base: dict[str, str]


@torch.no_grad()
def take_update(model: nn.Module) -> AdapterUpdate:
    """Copy the update out of an adapted model; the model is not changed.

    Raises:
        ConfigError: no adapter, or a layer whose change is not ΔW = B A.
    """
    state, layers = adapter_state(model), adapter_layers(model)
    for name, layer in layers.items():
        _check_low_rank(name, layer)
    first, biases = state.trained_base, trained_biases(model).items()
    return AdapterUpdate(
        config=state.config,
        factors={name: _factors(layer) for name, layer in layers.items()},
        biases={name: b.double().cpu() - first[name].double().cpu() for name, b in biases},
        heads={name: t.detach().cpu().clone() for name, t in _head_tensors(model, state.config)},
        base=frozen_digests(model),
    )


@torch.no_grad()
def install_update(model: nn.Module, update: AdapterUpdate, *, seed: int = 0) -> nn.Module:
    """Inject the update into a plain model, in place, as LoRA with scaling 1.

    The numbers are rounded once, to float32.

    Args:
        seed: for the adapter's provenance; no random number is drawn.

    Raises:
        ConfigError: modules or shapes that the model does not have; the model is not changed.
    """
    with NoRandomNumbers():  # every tensor is filled below
        inject(model, stored_settings(update), seed=seed)
    for name, layer in adapter_layers(model).items():
        factors = update.factors[name]
        for suffix, parameter in layer.adapter_tensors().items():
            parameter.copy_(factors.lora_A if suffix in NAMES_OF_A else factors.lora_B)
    tensors, first = base_tensors(model), adapter_state(model).trained_base
    for name, change in update.biases.items():
        tensors[name].copy_(first[name].double() + change.to(first[name].device))
    for name, tensor in _head_tensors(model, update.config):
        tensor.copy_(update.heads[name])
    return model


def stored_settings(update: AdapterUpdate) -> LoRAConfig:
    """Return the settings to store the factors with: alpha = rank in every module, so scaling 1."""
    ranks = {name: factors.rank for name, factors in update.factors.items()}
    rank = max(ranks.values())
    # PEFT takes the first key that matches the end of a name, so longer names come first
    named = sorted(ranks, key=len, reverse=True) if len(set(ranks.values())) > 1 else []
    return replace(
        update.config,
        rank=rank,
        alpha=float(rank),
        rank_pattern={re.escape(name): ranks[name] for name in named},
        alpha_pattern={re.escape(name): float(ranks[name]) for name in named},
        rslora=False,
        init="default",
    )


def _check_low_rank(name: str, layer: AdapterLayer) -> None:
    expected = "adapters of variant lora"
    if isinstance(layer, DoRALinear):
        raise ConfigError(
            "DoRA's change of a weight depends on the weight and has no low rank: adapters of it do not add up",
            where=name,
            expected=expected,
            remedy="merge it into the weights instead",
        )
    if not has_factors(layer):
        problem = f"{type(layer).__name__} has other tensors than LoRA's A and B"
        raise ConfigError(problem, where=name, expected=expected)


def _factors(layer: AdapterLayer) -> Factors:
    lora_A, lora_B = update_factors(layer)
    return Factors(lora_A.cpu(), lora_B.cpu())


def _head_tensors(model: nn.Module, config: LoRAConfig) -> Iterable[tuple[str, Tensor]]:
    for head in config.head_modules or []:
        for name, tensor in model.get_submodule(head).state_dict().items():
            yield f"{head}.{name}", tensor
