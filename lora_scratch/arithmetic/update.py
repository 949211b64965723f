r"""What an adapter changes, taken out of its model: what adapters of one base can be added up by, and put back as one.

    ΔW = B A        of every adapted layer, with the scaling in B: updates of any alpha, rank and rsLoRA are alike then
    Δb = b − b₀     of every trained bias
    heads           as they are: the value from which a new head was trained is random, so a difference means nothing

DoRA's change of a weight is no ΔW = B A: it depends on the weight and has no low rank. It is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..adapter.config import LoRAConfig
from ..adapter.factors import has_factors, update_factors
from ..adapter.inject import inject
from ..adapter.state import adapter_layers, adapter_state, base_tensors, trained_biases
from ..errors import ConfigError
from ..layers import AdapterLayer, DoRALinear, NoRandomNumbers
from ..serialization.fingerprint import frozen_digests


@dataclass(frozen=True)
class Factors:
    """ΔW = B A, in the orientation (out, in) and in float64. Shape: lora_A (rank, in), lora_B (out, rank)."""

    lora_A: Tensor
    lora_B: Tensor

    @property
    def rank(self) -> int:
        """The rank that the factors can hold; that of their product may be less."""
        return self.lora_A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), that of ΔW."""
        return self.lora_B.shape[0], self.lora_A.shape[1]


@dataclass(frozen=True)
class AdapterUpdate:
    """What an adapter changes.

    Args:
        config: which modules, with what dropout; its rank and alpha play no part, those of `factors` hold.
        factors: of every ΔW, by module name.
        biases: Δb by name, in float64.
        heads: the tensors of the modules trained in full, by name.
        base: SHA-256 of every frozen tensor of the base, by name.
    """

    config: LoRAConfig
    factors: dict[str, Factors]
    biases: dict[str, Tensor]
    heads: dict[str, Tensor]
    base: dict[str, str]


@torch.no_grad()
def take_update(model: nn.Module) -> AdapterUpdate:
    """The update of an adapted model, copied; the model is not changed.

    Raises:
        ConfigError: no adapter, or one whose change of a weight is not ΔW = B A.
    """
    state, layers = adapter_state(model), adapter_layers(model)
    for name, layer in layers.items():
        if isinstance(layer, DoRALinear):
            raise ConfigError(
                "DoRA's change of a weight depends on the weight and has no low rank: adapters of it do not add up",
                where=name,
                expected="adapters of variant lora",
                remedy="merge it into the weights instead",
            )
        if not has_factors(layer):
            found = f"{type(layer).__name__} has other tensors than LoRA's A and B"
            raise ConfigError(found, where=name, expected="adapters of variant lora")
    return AdapterUpdate(
        config=state.config,
        factors={name: _factors(layer) for name, layer in layers.items()},
        biases={
            name: b.double().cpu() - state.trained_base[name].double().cpu() for name, b in trained_biases(model).items()
        },
        heads={name: tensor.detach().cpu().clone() for name, tensor in _heads(model, state.config.head_modules or [])},
        base=frozen_digests(model),
    )


@torch.no_grad()
def install_update(model: nn.Module, update: AdapterUpdate, *, seed: int = 0) -> nn.Module:
    """Inject the update into a plain model as LoRA of scaling 1, in place; its numbers are rounded to float32 once.

    Args:
        seed: what the adapter's provenance will say; no number is drawn.

    Raises:
        ConfigError: modules or shapes that the model does not have; it is as it was.
    """
    with NoRandomNumbers():  # every tensor is about to be filled
        inject(model, stored_settings(update), seed=seed)
    for name, layer in adapter_layers(model).items():
        factors = update.factors[name]
        for suffix, parameter in layer.adapter_tensors().items():
            parameter.copy_(factors.lora_A if suffix in ("lora_A.weight", "lora_embedding_A") else factors.lora_B)
    tensors, first = base_tensors(model), adapter_state(model).trained_base
    for name, change in update.biases.items():
        tensors[name].copy_(first[name].double() + change.to(first[name].device))
    for name, tensor in _heads(model, update.config.head_modules or []):
        tensor.copy_(update.heads[name])
    return model


def stored_settings(update: AdapterUpdate) -> LoRAConfig:
    """The settings that the factors need: alpha = rank everywhere, which is a scaling of 1."""
    ranks = {name: factors.rank for name, factors in update.factors.items()}
    rank = max(ranks.values())
    # the first key that fits the end of a name counts: a name comes before those that it ends in
    differ = sorted(ranks, key=len, reverse=True) if len(set(ranks.values())) > 1 else []
    return replace(
        update.config,
        rank=rank,
        alpha=float(rank),
        rank_pattern={re.escape(name): ranks[name] for name in differ},
        alpha_pattern={re.escape(name): float(ranks[name]) for name in differ},
        rslora=False,
        init="default",
    )


def _factors(layer: AdapterLayer) -> Factors:
    lora_A, lora_B = update_factors(layer)
    return Factors(lora_A.cpu(), lora_B.cpu())


def _heads(model: nn.Module, heads: Iterable[str]) -> list[tuple[str, Tensor]]:
    return [(f"{head}.{name}", t) for head in heads for name, t in model.get_submodule(head).state_dict().items()]
