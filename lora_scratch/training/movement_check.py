"""Is it really learning? Checks that what should move moves, and that nothing else does.

A run can look healthy, with a falling loss from the head alone, while the adapter gets no gradient at all. So after the
first optimizer steps every adapter tensor must have changed and every frozen tensor must be what it was, bit for bit.

A GPU would need a kernel and a wait for every tensor, which takes longer than the steps. So the entries of all tensors are
put together, in rows that belong to one tensor each, and compared in blocks of rows, with one answer for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from ..adapter import adapter_layers
from ..errors import TrainingError
from ..runtime.distributed import is_sharded

ROW = 2**10  # entries that are summed together
BLOCK = 2**20  # entries that are looked at at a time: as int64 they take 8 MiB, where a whole embedding would take 187
STEPS = 3  # at step 1 only B can move, since A's gradient is proportional to B; by step 3 everything has

BITS = {1: torch.uint8, 2: torch.int16}  # the dtype to see bits in, by the bytes of an entry; longer ones are several int32


class MovementCheck:
    """Remembers the tensors of a model before training and compares after a few steps."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.adapter = _Snapshot(_adapter_tensors(model), _entries)
        self.frozen = _Snapshot(_frozen_bits(model), _checksums)

    def check(self) -> None:
        """Raises:
        TrainingError: naming adapter tensors that stand still, or frozen ones that have moved.
        """
        tensors = _adapter_tensors(self.model)
        learning = self.adapter.changed(tensors)
        dead = [name for name in tensors if name not in learning]
        if dead:
            raise TrainingError(
                f"{len(dead)} adapter tensors have not moved, first {', '.join(dead[:3])}",
                where=f"after {STEPS} optimizer steps",
                remedy="these modules take no part in the forward pass or get no gradient: choose other targets",
            )
        bits = _frozen_bits(self.model, only=self.frozen.names)
        changed = self.frozen.changed(bits)
        moved = [name for name in bits if name in changed]
        if moved:
            raise TrainingError(
                f"frozen weights have changed: {', '.join(moved[:3])}", where=f"after {STEPS} optimizer steps"
            )


class _Snapshot:
    """What tensors hold, row by row, as `digest` sees it. It stays on their device."""

    def __init__(self, tensors: Mapping[str, Tensor], digest: Callable[[Tensor], Tensor]) -> None:
        self.names, self.digest = set(tensors), digest
        self.before = [self._digests(group) for group in _groups(tensors)]

    def changed(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """The names of the tensors that hold something else now. The host waits once for each dtype and device."""
        names: set[str] = set()
        for group, before in zip(_groups(tensors), self.before, strict=True):
            pairs = zip(self._digests(group), before, strict=True)
            rows = iter(torch.cat([(now != then).any(1) for now, then in pairs]).tolist())
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
    """The frozen parameters, or those named, as whole numbers. Shape: (entries,)."""
    parameters = dict(model.named_parameters())
    names = {name for name, p in parameters.items() if not p.requires_grad} if only is None else only
    return {name: _bits(p) for name, p in parameters.items() if name in names}


def _bits(tensor: Tensor) -> Tensor:
    if is_sharded(tensor):  # every process checks its own part
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    return tensor.detach().reshape(-1).contiguous().view(BITS.get(tensor.element_size(), torch.int32))


def _groups(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors that can be put together: those of one dtype on one device."""
    groups: dict[tuple[torch.dtype, torch.device], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.dtype, tensor.device), {})[name] = tensor
    return list(groups.values())


def _blocks(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Copies of all entries, each tensor filled up with zeros to whole rows, a block at a time. Shape: (rows, ROW)."""
    pieces: list[Tensor] = []
    held = 0
    for piece in (piece for tensor in tensors for piece in torch.split(tensor.reshape(-1), BLOCK)):
        pieces.append(piece)
        if short := -len(piece) % ROW:
            pieces.append(piece.new_zeros(short))
        held += len(piece) + short
        if held >= BLOCK:
            yield torch.cat(pieces).view(held // ROW, ROW)
            pieces, held = [], 0
    if pieces:
        yield torch.cat(pieces).view(held // ROW, ROW)


def _entries(block: Tensor) -> Tensor:
    """The entries themselves. Shape: (rows, ROW) -> (rows, ROW)."""
    return block


def _checksums(block: Tensor) -> Tensor:
    """Two sums over the bits of every row, one plain and one weighted by position, so that swapped values show too.

    They are exact: 2¹⁰ products of 31 and 10 bits have 51. Shape: (rows, ROW) -> (rows, 2) int64.
    """
    numbers = block.to(torch.int64)
    plain = numbers.sum(1)
    place = torch.arange(1, ROW + 1, device=block.device)
    return torch.stack([plain, numbers.mul_(place).sum(1)], 1)
