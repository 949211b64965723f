"""The forward path of a training: the plain one, with the methods that the fast one overrides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from ..data import Batch

Backward = Callable[["Batch", int], Tensor]  # the loss of a batch; adds gradients to the parameters


class ForwardPath:
    """The plain path, which changes nothing. `FastPath` in fast/path.py is the other one."""

    width_multiple = 1  # batches are padded to a multiple of this many tokens
    keeps_gradients = False  # True: gradients are zeroed in place, not set to None

    def backward(self, run: Backward, batch: Batch, rows: int) -> Tensor:
        """Return the loss `run(batch, rows)`, with its gradients added to the parameters."""
        return run(batch, rows)

    def free_memory(self, reason: str) -> bool:
        """Free what the path keeps, when memory runs out. Return whether there was anything."""
        return False

    def choices(self) -> dict[str, Any]:
        """Return choices made by timing this machine. A resumed run reuses them to get the same bits."""
        return {}
