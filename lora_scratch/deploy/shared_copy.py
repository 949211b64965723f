"""An adapter as it works, without the model it is for: a twin of the base with the adapter in it.

The twin has the base's own memory, all but the few tensors that an adapter replaces (head, biases), so it costs next to
nothing; and it is read by `load_adapter`, so every check of an adapter folder is made.
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
from ..serialization.peft_format import PREFIX
from ..serialization.save_load import load_adapter, read_provenance, read_tensors, save_adapter
from .bank_layers import BankLayer


@dataclass(frozen=True)
class SharedCopy:
    """A twin of a base, adapted.

    Args:
        labels: the names of the head's outputs: from provenance.json, or transformers' LABEL_0, ... where it has none.
    """

    model: nn.Module
    config: LoRAConfig
    labels: tuple[str, ...]


def load_into_shared_copy(
    model: nn.Module, source: str | Path | nn.Module, *, verify_base: bool = True, must_cover: Collection[str] = ()
) -> SharedCopy:
    """A twin of `model` (plain, or in a bank) with the adapter of `source` in it; the model is not touched.

    The head may have another number of outputs than the model's own.

    Args:
        source: an adapter folder, or a model that is adapted.
        verify_base, must_cover: as for `load_adapter`.

    Raises:
        AdapterFileError, BaseMismatchError: as for `load_adapter`.
    """
    with _as_folder(source) as folder:
        tensors = read_tensors(folder)
        twin = _plain_twin(model, tensors)
        outputs = _fit_outputs(twin, tensors)
        config = load_adapter(twin, folder, verify_base=verify_base, must_cover=must_cover)
        return SharedCopy(twin, config, _labels_in(folder, outputs))


def own_labels(model: nn.Module) -> tuple[str, ...]:
    """The names of the model's own outputs, where its config has them."""
    return tuple(str(label) for label in getattr(getattr(model, "config", None), "id2label", {}).values())


def _plain_twin(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model without its bank, in the same memory but for what the file's tensors will be written to."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    memo |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    for layer in [module for module in model.modules() if isinstance(module, BankLayer)]:
        memo[id(layer)] = copy.deepcopy(layer.base, memo)
    twin = copy.deepcopy(model, memo)
    for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
        if PREFIX + name in tensors or name.endswith("bias"):
            tensor.data = tensor.data.clone()
    return twin


def _fit_outputs(twin: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Give the twin's head as many outputs as the file's has; None if the model does not say how many it has itself."""
    outputs = getattr(getattr(twin, "config", None), "num_labels", None)
    wanted: dict[nn.Module, int] = {}
    for owner, module in twin.named_modules():
        names = [name for name, p in module.named_parameters(recurse=False) if p.shape[:1] == (outputs,)]
        stored = {tensors[key].shape[:1] for name in names if (key := f"{PREFIX}{owner}.{name}") in tensors}
        if len(stored) == 1 and stored != {(outputs,)}:  # weight and bias of one mind
            wanted[module] = next(iter(stored)).numel()
    if len(set(wanted.values())) != 1:
        return outputs
    for module, count in wanted.items():
        for name, p in list(module.named_parameters(recurse=False)):
            if p.shape[:1] == (outputs,):
                setattr(module, name, nn.Parameter(p.new_empty(count, *p.shape[1:])))
    return next(iter(wanted.values()))


def _labels_in(folder: Path, outputs: int | None) -> tuple[str, ...]:
    """The label names in provenance.json, or transformers' own for a folder that has none."""
    labels = read_provenance(folder).get("labels")
    if labels and outputs and len(labels) != outputs:
        raise AdapterFileError(
            [f"provenance.json has {len(labels)} labels and the head {outputs} outputs"], where=str(folder)
        )
    return tuple(map(str, labels or (f"LABEL_{index}" for index in range(outputs or 0))))


@contextmanager
def _as_folder(source: str | Path | nn.Module) -> Iterator[Path]:
    """The folder itself; an adapted model's adapter in one that is gone afterwards."""
    if not isinstance(source, nn.Module):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as place:
        labels = own_labels(source)
        yield save_adapter(source, Path(place) / "adapter", notes={"labels": list(labels)} if labels else {})
