"""Is it really learning? Checks that what should move moves, and that nothing else does.

A run can look healthy, with a falling loss from the head alone, while the adapter gets no gradient at all. So after the
first optimizer steps every adapter tensor must have changed and every frozen tensor must be what it was, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..adapter import adapter_layers
from ..errors import TrainingError
from ..runtime.distributed import is_sharded

PIECE = 2**16  # entries that are summed at a time
STEPS = 3  # at step 1 only B can move, since A's gradient is proportional to B; by step 3 everything has


class MovementGuard:
    """Remembers the tensors of a model before training and compares after a few steps."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.frozen = {name: _checksum(p) for name, p in model.named_parameters() if not p.requires_grad}
        self.adapter = {name: tensor.detach().clone() for name, tensor in _adapter_tensors(model).items()}

    def check(self) -> None:
        """Raises:
        TrainingError: naming adapter tensors that stand still, or frozen ones that have moved.
        """
        dead = [name for name, tensor in _adapter_tensors(self.model).items() if torch.equal(tensor, self.adapter[name])]
        if dead:
            raise TrainingError(
                f"{len(dead)} adapter tensors have not moved, first {', '.join(dead[:3])}",
                where=f"after {STEPS} optimizer steps",
                remedy="these modules take no part in the forward pass or get no gradient: choose other targets",
            )
        parameters = dict(self.model.named_parameters())
        moved = [name for name, checksum in self.frozen.items() if _checksum(parameters[name]) != checksum]
        if moved:
            raise TrainingError(
                f"frozen weights have changed: {', '.join(moved[:3])}", where=f"after {STEPS} optimizer steps"
            )


def _adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{suffix}": tensor
        for name, layer in adapter_layers(model).items()
        for suffix, tensor in layer.adapter_tensors().items()
        if tensor.requires_grad
    }


def _checksum(tensor: Tensor) -> list[int]:
    """Two sums over the bits of every piece, one plain and one weighted by position, so that swapped values show too.

    In pieces, since the sums are over int64 copies: of a whole embedding they would be the largest tensors of the training.
    """
    if is_sharded(tensor):  # every process checks its own part
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    bits = tensor.detach().flatten().view(torch.uint8 if tensor.element_size() == 1 else torch.int16)
    place = torch.arange(1, PIECE + 1, device=bits.device)
    sums = [_sums(piece.to(torch.int64), place) for piece in torch.split(bits, PIECE)]
    found: list[int] = torch.cat(sums).tolist() if sums else []
    return found


def _sums(bits: Tensor, place: Tensor) -> Tensor:
    return torch.stack([bits.sum(), (bits * place[: len(bits)]).sum()])
