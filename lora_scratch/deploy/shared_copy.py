"""Load an adapter into a copy of the base that shares its memory.

Only the tensors that an adapter replaces (head, biases) are new, so the copy needs little memory. The
adapter is read by `load_adapter`, so every check of an adapter folder is made.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..adapter.config import LoRAConfig
from ..errors import AdapterFileError
from ..serialization import Provenance, load_adapter, read_provenance, save_adapter
from ..serialization.adapter_folder import read_tensors
from ..serialization.peft_format import PREFIX
from .bank_layers import BankLayer


@dataclass(frozen=True)
class SharedCopy:
    """A copy of a base with an adapter in it.

    Args:
        labels: the names of the head's outputs: from provenance.json, or transformers' LABEL_0, ...
    """

    model: nn.Module
    config: LoRAConfig
    labels: tuple[str, ...]


def load_into_shared_copy(
    model: nn.Module, source: str | Path | nn.Module, *, verify_base: bool = True, must_cover: Collection[str] = ()
) -> SharedCopy:
    """Load the adapter of `source` into a copy of `model` (plain, or in a bank).

    The adapter's head may have another number of outputs than the model's own.

    Args:
        source: an adapter folder, or a model that is adapted.
        verify_base, must_cover: as for `load_adapter`.

    Raises:
        AdapterFileError, BaseMismatchError: as for `load_adapter`.
    """
    with _as_folder(source) as folder:
        provenance = read_provenance(folder)
        tensors = read_tensors(folder, provenance)
        shared = _plain_copy(model, tensors)
        outputs = _fit_outputs(shared, tensors)
        config = load_adapter(shared, folder, verify_base=verify_base, must_cover=must_cover)
        return SharedCopy(shared, config, _labels(provenance, outputs, where=str(folder)))


def own_labels(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the model's own outputs, where its config has them."""
    return tuple(str(label) for label in getattr(getattr(model, "config", None), "id2label", {}).values())


def _plain_copy(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy the model without its bank, in the same memory but for tensors of the file."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    memo |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    for layer in [module for module in model.modules() if isinstance(module, BankLayer)]:
        memo[id(layer)] = copy.deepcopy(layer.base, memo)
    shared = copy.deepcopy(model, memo)
    for name, tensor in (*shared.named_parameters(), *shared.named_buffers()):
        if PREFIX + name in tensors or name.endswith("bias"):
            tensor.data = tensor.data.clone()
    return shared


def _fit_outputs(shared: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Give the head as many outputs as the file's has. Return their number if it is known."""
    outputs = getattr(getattr(shared, "config", None), "num_labels", None)
    wanted: dict[nn.Module, int] = {}
    for owner, module in shared.named_modules():
        names = [name for name, p in module.named_parameters(recurse=False) if p.shape[:1] == (outputs,)]
        stored = {tensors[key].shape[:1] for name in names if (key := f"{PREFIX}{owner}.{name}") in tensors}
        if len(stored) == 1 and stored != {(outputs,)}:  # weight and bias agree
            wanted[module] = next(iter(stored)).numel()
    if len(set(wanted.values())) != 1:
        return outputs
    for module, count in wanted.items():
        for name, p in list(module.named_parameters(recurse=False)):
            if p.shape[:1] == (outputs,):
                setattr(module, name, nn.Parameter(p.new_empty(count, *p.shape[1:])))
    return next(iter(wanted.values()))


def _labels(provenance: Provenance | None, outputs: int | None, *, where: str) -> tuple[str, ...]:
    """Return the label names in provenance.json, or else LABEL_0, ... as transformers does."""
    labels = provenance.labels if provenance else ()
    if labels and outputs and len(labels) != outputs:
        problem = f"provenance.json has {len(labels)} labels and the head {outputs} outputs"
        raise AdapterFileError([problem], where=where)
    return labels or tuple(f"LABEL_{index}" for index in range(outputs or 0))


@contextmanager
def _as_folder(source: str | Path | nn.Module) -> Iterator[Path]:
    """Yield the folder itself, or a temporary one with the adapter of an adapted model."""
    if not isinstance(source, nn.Module):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as place:
        labels = own_labels(source)
        yield save_adapter(source, Path(place) / "adapter", notes={"labels": list(labels)} if labels else {})
