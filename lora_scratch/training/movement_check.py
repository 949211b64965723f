"""Check that every adapter tensor learns and that no frozen tensor changes.

The loss can fall by the head alone while the adapter gets no gradient. So after the first steps
every adapter tensor must have changed, and every frozen tensor must have its old bits.

On a GPU, a kernel and a wait for every tensor would take longer than the steps. So the entries of
all tensors are compared together, in blocks of rows. A row has entries of one tensor only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from ..adapter import adapter_layers
from ..errors import TrainingError
from ..runtime.distributed import is_sharded

ROW = 2**10  # entries of a row
BLOCK = 2**20  # entries of a block: 8 MiB as int64
CHECKED_STEP = 3  # at step 1 only B moves, since the gradient of A is proportional to B

BITS = {1: torch.uint8, 2: torch.int16}  # by the bytes of an entry; else int32


class MovementCheck:
    """Keeps the tensors of a model before training and compares them after a few steps."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.adapter = _Snapshot(_adapter_tensors(model), lambda block: block)
        self.frozen = _Snapshot(_frozen_bits(model), _checksums)

    def check(self) -> None:
        """Check that adapter tensors have changed and frozen ones have not.

        Raises:
            TrainingError: naming adapter tensors that have not, or frozen ones that have.
        """
        where = f"after {CHECKED_STEP} optimizer steps"
        tensors = _adapter_tensors(self.model)
        learning = self.adapter.changed(tensors)
        dead = [name for name in tensors if name not in learning]
        if dead:
            raise TrainingError(
                f"{len(dead)} adapter tensors have not moved, first {', '.join(dead[:3])}",
                where=where,
                remedy="the forward pass does not use these modules: choose other targets",
            )
        bits = _frozen_bits(self.model, only=self.frozen.names)
        changed = self.frozen.changed(bits)
        moved = [name for name in bits if name in changed]
        if moved:
            raise TrainingError(f"frozen weights have changed: {', '.join(moved[:3])}", where=where)


class _Snapshot:
    """The digests of tensors, row by row, on their device."""

    def __init__(self, tensors: Mapping[str, Tensor], digest: Callable[[Tensor], Tensor]) -> None:
        self.names, self.digest = set(tensors), digest
        self.before = [self._digests(group) for group in _groups(tensors)]

    def changed(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Return the names of changed tensors. The host waits once for each dtype and device."""
        names: set[str] = set()
        for group, before in zip(_groups(tensors), self.before, strict=True):
            pairs = zip(self._digests(group), before, strict=True)
            rows = iter(torch.cat([(new != old).any(1) for new, old in pairs]).tolist())
            counts = {name: -(-tensor.numel() // ROW) for name, tensor in group.items()}
            names |= {name for name, count in counts.items() if any([*islice(rows, count)])}
        return names

    def _digests(self, group: Mapping[str, Tensor]) -> list[Tensor]:
        return [self.digest(block) for block in _blocks(group.values())]


def _adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{suffix}": tensor.detach()
        for name, layer in adapter_layers(model).items()
        for suffix, tensor in layer.adapter_tensors().items()
        if tensor.requires_grad
    }


def _frozen_bits(model: nn.Module, only: set[str] | None = None) -> dict[str, Tensor]:
    """Return the frozen parameters, or those in `only`, as integers. Shape: (entries,)."""
    parameters = dict(model.named_parameters())
    names = {n for n, p in parameters.items() if not p.requires_grad} if only is None else only
    return {name: _bits(p) for name, p in parameters.items() if name in names}


def _bits(tensor: Tensor) -> Tensor:
    if is_sharded(tensor):  # every process checks its own part
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    flat = tensor.detach().reshape(-1).contiguous()
    return flat.view(BITS.get(tensor.element_size(), torch.int32))


def _groups(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the tensors by dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.dtype, tensor.device), {})[name] = tensor
    return list(groups.values())


def _blocks(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield all entries, each tensor padded with zeros to whole rows. Shape: (rows, ROW)."""
    parts: list[Tensor] = []
    size = 0
    for part in (part for tensor in tensors for part in torch.split(tensor.reshape(-1), BLOCK)):
        parts.append(part)
        if short := -len(part) % ROW:
            parts.append(part.new_zeros(short))
        size += len(part) + short
        if size >= BLOCK:
            yield torch.cat(parts).view(size // ROW, ROW)
            parts, size = [], 0
    if parts:
        yield torch.cat(parts).view(size // ROW, ROW)


def _checksums(block: Tensor) -> Tensor:
    """Return two sums of every row, one weighted by position, so that swapped entries differ too.

    They are exact: 2¹⁰ products of 31 and 10 bits need 51. Shape: (rows, ROW) -> (rows, 2) int64.
    """
    numbers = block.to(torch.int64)
    plain = numbers.sum(1)
    position = torch.arange(1, ROW + 1, device=block.device)
    return torch.stack([plain, numbers.mul_(position).sum(1)], 1)
