r"""Keep the strongest singular directions of every update for a while.

    ΔW = U diag(σ) Vᵀ,  σ falling        ΔW_k = Σ_{i ≤ k} σᵢ uᵢ vᵢᵀ

By Eckart and Young ΔW_k is the nearest matrix of rank k. `lora-scratch combine --add ADAPTER --rank k`
writes the same update to a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..adapter import adapter_layers
from ..adapter.factors import low_rank_svd
from ..errors import ConfigError
from ..layers import AdapterLayer, LoRAConv1D, LoRAEmbedding, LoRALinear, stored_tensors

Factors = Mapping[str, tuple[Tensor, Tensor]]
PLAIN = (LoRALinear, LoRAConv1D, LoRAEmbedding)  # exact types: their forward is scaling · B A


@torch.no_grad()
def strongest_first(model: nn.Module) -> Factors:
    """Return A and B of every plain LoRA layer with singular directions as rows of A and columns of B.

    Shape: A (rank, in), B (out, rank) in float32, strongest first. scaling · B A is ΔW up to rounding.
    """
    layers = adapter_layers(model).items()
    return {name: _sorted_factors(layer) for name, layer in layers if type(layer) in PLAIN}


def fixed_rank(model: nn.Module) -> str:
    """Return why the rank of some layer can't be lowered; empty if it can be in all."""
    others = sorted({type(layer).__name__ for layer in adapter_layers(model).values() if type(layer) not in PLAIN})
    return f"the rank of {' and '.join(others)} can't be lowered without changing more than ΔW" if others else ""


@contextmanager
def keep_directions(model: nn.Module, rank: int | None, factors: Factors | None = None) -> Iterator[None]:
    """Keep the `rank` strongest directions of every ΔW inside; all for None.

    A layer of this rank or a lower one keeps its own A and B. Afterwards every layer has them.

    Args:
        factors: what `strongest_first(model)` returned earlier.

    Raises:
        ConfigError: a layer of another kind than plain LoRA, as DoRA.
    """
    lowered = {n: layer for n, layer in adapter_layers(model).items() if rank is not None and layer.rank > rank}
    if lowered and (reason := fixed_rank(model)):
        raise ConfigError(reason, where="rank", expected="plain LoRA")
    sorted_factors = (factors or strongest_first(model)) if lowered else {}
    own = [(p, p.data) for layer in lowered.values() for p in layer.adapter_tensors().values()]
    try:
        for name, layer in lowered.items():
            lora_A, lora_B = layer.adapter_tensors().values()
            lora_A.data, lora_B.data = sorted_factors[name][0][:rank], sorted_factors[name][1][:, :rank]
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def _sorted_factors(layer: AdapterLayer) -> tuple[Tensor, Tensor]:
    lora_A, lora_B = stored_tensors(layer).values()
    svd = low_rank_svd(lora_A.double(), lora_B.double())
    root = svd.S.sqrt()
    return (root[:, None] * svd.V.T).float(), (svd.U * root).float()
