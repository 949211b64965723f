"""Recognize a base by the SHA-256 of every adapted weight, and one of all other frozen tensors.

An adapter is an update of particular numbers. Added to others it gives no error, only nonsense, so
`load_adapter` compares. A base in float32 can be loaded in bfloat16 or float16 later, so digests for
these dtypes are recorded too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..adapter.state import adapter_layers, adapter_state, base_name, is_adapted
from ..layers import NF4Linear
from ..model.wrappers import named_modules, named_parameters

Fingerprint = dict[str, dict[str, str]]  # tensor name -> dtype name -> SHA-256

CASTS = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # what a base in float32 is compared in too
REST = "(all other frozen tensors)"


def fingerprint(model: nn.Module) -> Fingerprint:
    """Hash the base of a model: one entry per adapted weight, one for the other frozen tensors.

    A model without an adapter is all base.
    """
    groups = _groups(model)
    return {name: {_name(d): _digest(ts, d) for d in _reachable(ts)} for name, ts in groups.items()}


def differing(model: nn.Module, recorded: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the names of tensors that are not the recorded ones, or that can't be compared.

    A digest of float32 can't be compared with a model in a narrower dtype.
    """
    groups = _groups(model)
    different = [name for name, ts in groups.items() if not _agrees(ts, recorded.get(name, {}))]
    return different + [name for name in recorded if name not in groups]


def frozen_digests(model: nn.Module) -> dict[str, str]:
    """Hash each frozen tensor of the base, to compare adapters of different targets."""
    return {name: _digest([tensor], tensor.dtype) for name, tensor in _frozen(model).items()}


def file_sha256(content: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def _groups(model: nn.Module) -> dict[str, list[Tensor]]:
    layers = adapter_layers(model)
    adapted: dict[str, list[Tensor]] = {f"{name}.weight": [layer.weight] for name, layer in layers.items()}
    return {**adapted, REST: [t for name, t in _frozen(model).items() if name not in adapted]}


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return the base weights that are not trained, sorted by name; four-bit ones as numbers."""
    layers = adapter_layers(model)
    trained = adapter_state(model).trained_base if is_adapted(model) else {}
    own = {id(p) for layer in layers.values() for p in layer.adapter_tensors().values()}
    base: dict[str, Tensor] = {n: p for n, p in named_parameters(model).items() if id(p) not in own}
    quantized = {n: m for n, m in named_modules(model).items() if isinstance(m, NF4Linear)}
    base |= {f"{name}.weight": module.weight for name, module in quantized.items()}
    base = {base_name(name, layers): tensor for name, tensor in base.items()}
    return {name: base[name] for name in sorted(base) if name not in trained}


def _agrees(tensors: list[Tensor], recorded: Mapping[str, str]) -> bool:
    own = tensors[0].dtype if tensors else torch.float32
    casts = CASTS if own is torch.float32 else {}
    dtypes = [dtype for name, dtype in {_name(own): own, **casts}.items() if name in recorded]
    return any(_digest(tensors, dtype) == recorded[_name(dtype)] for dtype in dtypes[:1])


def _reachable(tensors: list[Tensor]) -> list[torch.dtype]:
    own = tensors[0].dtype if tensors else torch.float32
    return [own, *CASTS.values()] if own is torch.float32 else [own]


def _digest(tensors: Iterable[Tensor], dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
