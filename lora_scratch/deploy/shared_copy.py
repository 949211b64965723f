"""Load an adapter into a copy of the base that shares its memory.

Only the tensors that the adapter replaces (head, biases) are new. `load_adapter` reads the adapter,
so every check of an adapter folder is made.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..adapter.config import LoRAConfig
from ..errors import AdapterFileError
from ..serialization import Provenance, load_adapter, read_provenance, save_adapter
from ..serialization.adapter_folder import read_tensors
from ..serialization.peft_format import PREFIX
from .bank_layers import BankLayer

Source = str | Path | nn.Module  # an adapter folder, or an adapted model


@dataclass(frozen=True)
class SharedCopy:
    """A copy of a base with an adapter, and the labels of its outputs."""

    model: nn.Module
    config: LoRAConfig
    labels: tuple[str, ...]


def load_into_shared_copy(
    model: nn.Module, source: Source, *, verify_base: bool = True, must_cover: Collection[str] = ()
) -> SharedCopy:
    """Load an adapter into a copy of `model` (plain, or in a bank).

    Its head can have another number of outputs. Other arguments and errors: as for `load_adapter`.
    """
    with _as_folder(source) as folder:
        provenance = read_provenance(folder)
        tensors = read_tensors(folder, provenance)
        shared = _plain_copy(model, tensors)
        outputs = _fit_outputs(shared, tensors)
        config = load_adapter(shared, folder, verify_base=verify_base, must_cover=must_cover)
        return SharedCopy(shared, config, _labels(provenance, outputs, where=str(folder)))


def own_labels(model: nn.Module) -> tuple[str, ...]:
    """Return the labels in the model's config, if there are any."""
    labels = getattr(getattr(model, "config", None), "id2label", {})
    return tuple(map(str, labels.values()))


def _plain_copy(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy the model without its bank. Only biases and tensors of the file get new memory."""
    memo: dict[int, Any] = {id(buffer): buffer.detach() for buffer in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach(), requires_grad=False)
    for layer in [module for module in model.modules() if isinstance(module, BankLayer)]:
        memo[id(layer)] = copy.deepcopy(layer.base, memo)
    shared = copy.deepcopy(model, memo)
    for name, tensor in (*shared.named_parameters(), *shared.named_buffers()):
        if PREFIX + name in tensors or name.endswith("bias"):
            tensor.data = tensor.data.clone()
    return shared


def _fit_outputs(shared: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Give the head as many outputs as the file's head has. Return their number, if known."""
    outputs = getattr(getattr(shared, "config", None), "num_labels", None)
    counts: dict[nn.Module, int] = {}
    for owner, module in shared.named_modules():
        keys = [f"{PREFIX}{owner}.{name}" for name in _rows_by_output(module, outputs)]
        stored = {tensors[key].shape[:1] for key in keys if key in tensors}
        if len(stored) == 1 and stored != {(outputs,)}:  # weight and bias agree
            counts[module] = stored.pop().numel()
    if len(set(counts.values())) != 1:
        return outputs
    for module, count in counts.items():
        for name, p in _rows_by_output(module, outputs).items():
            setattr(module, name, nn.Parameter(p.new_empty(count, *p.shape[1:])))
    return count


def _rows_by_output(module: nn.Module, outputs: int | None) -> dict[str, nn.Parameter]:
    """Return the module's own parameters that have a row for every output."""
    own = module.named_parameters(recurse=False)
    return {name: p for name, p in own if p.shape[:1] == (outputs,)}


def _labels(provenance: Provenance | None, outputs: int | None, *, where: str) -> tuple[str, ...]:
    """Return the labels in provenance.json, or else LABEL_0, ... as transformers does."""
    labels = provenance.labels if provenance else ()
    if labels and outputs and len(labels) != outputs:
        problem = f"provenance.json has {len(labels)} labels and the head {outputs} outputs"
        raise AdapterFileError([problem], where=where)
    return labels or tuple(f"LABEL_{index}" for index in range(outputs or 0))


@contextmanager
def _as_folder(source: Source) -> Iterator[Path]:
    """Yield the folder, or a temporary one with the adapter of an adapted model."""
    if not isinstance(source, nn.Module):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as place:
        labels = list(own_labels(source))
        notes = {"labels": labels} if labels else {}
        yield save_adapter(source, Path(place) / "adapter", notes=notes)
