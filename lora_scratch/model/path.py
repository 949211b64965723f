"""The forward path of a training: the plain one, with the methods that the fast one overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from ..data import Batch, Encoded


class Steps(Protocol):
    """The two computations of a step, and what they change. training/step.py has them."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The trained tensors."""

    optimizer: Any
    scaler: Any

    def compute_gradients(self, batch: Batch, rows: int) -> Tensor:
        """Add the gradients of a batch. Return its loss over `rows`. Shape: -> ()."""

    def update(self, loss: Tensor) -> Tensor:
        """Change the parameters by their gradients. Return loss and gradient norm. Shape: -> (2,)."""

    def changing(self) -> list[Tensor]:
        """Return every tensor that a step changes, but for the gradients."""


class ForwardPath:
    """The plain path, which changes nothing. `FastPath` in fast/path.py is the other one."""

    width_multiple = 1  # batches are padded to a multiple of this many tokens
    records_steps = False  # True: tensors stay where they are, gradients and learning rates too

    def batch(self, encoded: Encoded, rows: Sequence[int]) -> Batch | None:
        """Return the batch of these rows in the path's own form; None to have it collated."""
        return None

    def backward(self, steps: Steps, batch: Batch, rows: int) -> Tensor:
        """Return `steps.compute_gradients(batch, rows)`."""
        return steps.compute_gradients(batch, rows)

    def update(self, steps: Steps, loss: Tensor) -> Tensor:
        """Return `steps.update(loss)`."""
        return steps.update(loss)

    def free_memory(self, reason: str) -> bool:
        """Free what the path keeps, when memory runs out. Return whether there was anything."""
        return False

    def choices(self) -> dict[str, Any]:
        """Return choices made by timing this machine. A resumed run reuses them to get the same bits."""
        return {}
