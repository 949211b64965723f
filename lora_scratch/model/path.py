"""What a training has to know of the path that its batches take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from ..data import Batch

Backward = Callable[["Batch", int], Tensor]  # the loss of a batch; adds its gradients to the parameters


class ForwardPath:
    """The plain path: it changes nothing. fast/path.py has the other one."""

    width_multiple = 1  # batches are padded to a multiple of this many tokens
    keeps_gradients = False  # whether gradients are zeroed in place instead of set to None

    def backward(self, run: Backward, batch: Batch, rows: int) -> Tensor:
        """Return what `run(batch, rows)` does: the loss, with its gradients added to the parameters."""
        return run(batch, rows)

    def free_memory(self, reason: str) -> bool:
        """Free what the path keeps, after the device ran out of memory. Return whether there was anything."""
        return False

    def choices(self) -> dict[str, Any]:
        """Return what the path chose by measuring, which a resumed run must repeat to get the same bits."""
        return {}
