"""Which base weights an adapter belongs to: SHA-256 of every adapted weight, and one over all other frozen tensors.

An adapter is an update of particular numbers. Added to others it gives no error, only nonsense, so `load_adapter` compares.
A base stored in float32 may be loaded in bfloat16 or float16 later, so its digests are recorded for those dtypes too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..adapter.state import adapter_layers, adapter_state, base_name, is_adapted
from ..layers import NF4Linear

Fingerprint = dict[str, dict[str, str]]  # tensor name -> dtype name -> SHA-256

REST = "(all other frozen tensors)"


def fingerprint(model: nn.Module) -> Fingerprint:
    """The digests of an adapted model's base: one entry per adapted weight, one for the rest of what is frozen.

    Of a model without an adapter all of it is the base.
    """
    groups = _groups(model)
    return {name: {_name(d): _digest(tensors, d) for d in _reachable(tensors)} for name, tensors in groups.items()}


def differing(model: nn.Module, recorded: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The names whose tensors are not the recorded ones, or can't be compared because the model is in a narrower dtype."""
    groups = _groups(model)
    different = [name for name, tensors in groups.items() if not _agrees(tensors, recorded.get(name, {}))]
    return different + [name for name in recorded if name not in groups]


def frozen_digests(model: nn.Module) -> dict[str, str]:
    """SHA-256 of each frozen tensor of the base, by its name there: comparable between adapters of different targets."""
    return {name: _digest([tensor], tensor.dtype) for name, tensor in _frozen(model).items()}


def file_sha256(content: bytes) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def _groups(model: nn.Module) -> dict[str, list[Tensor]]:
    adapted: dict[str, list[Tensor]] = {f"{name}.weight": [layer.weight] for name, layer in adapter_layers(model).items()}
    return {**adapted, REST: [tensor for name, tensor in _frozen(model).items() if name not in adapted]}


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the base that the adapter does not train, sorted by name; four-bit ones as numbers."""
    layers = adapter_layers(model)
    trained = adapter_state(model).trained_base if is_adapted(model) else {}
    own = {id(p) for layer in layers.values() for p in layer.adapter_tensors().values()}
    base: dict[str, Tensor] = {base_name(name, layers): p for name, p in model.named_parameters() if id(p) not in own}
    quantized = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, NF4Linear)}
    base |= {base_name(name, layers): m.weight for name, m in quantized.items()}
    return {name: base[name] for name in sorted(base) if name not in trained}


def _agrees(tensors: list[Tensor], recorded: Mapping[str, str]) -> bool:
    own = _name(tensors[0].dtype if tensors else torch.float32)
    comparable = [own] if own in recorded else [name for name in recorded if own == "float32"]
    return bool(comparable) and _digest(tensors, getattr(torch, comparable[0])) == recorded[comparable[0]]


def _reachable(tensors: list[Tensor]) -> list[torch.dtype]:
    own = tensors[0].dtype if tensors else torch.float32
    return [own, torch.bfloat16, torch.float16] if own is torch.float32 else [own]


def _digest(tensors: Iterable[Tensor], dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
