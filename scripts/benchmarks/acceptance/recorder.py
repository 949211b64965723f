"""A fake of CUDA graphs for a machine without a GPU: a replay computes again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Computation = Callable[[], Tensor]


class _Repeated:
    """A recording. A replay writes the result of the computation into the same tensor."""

    def __init__(self, computation: Computation, result: Tensor) -> None:
        self.computation, self.result = computation, result

    def replay(self) -> None:
        """Compute again."""
        self.result.copy_(self.computation())

    def reset(self) -> None:
        """Do nothing: no memory is held."""


class RepeatingRecorder:
    """Runs and records as `CudaRecorder` does, on any device.

    Args:
        refuses: the method that raises an error, `rehearse` or `record`, as for a model that can't
            be captured.
    """

    def __init__(self, *, refuses: str = "") -> None:
        self.refuses = refuses

    def run(self, computation: Computation) -> Tensor:
        """Return its result."""
        return computation()

    def rehearse(self, computation: Computation) -> Tensor:
        """Return its result.

        Raises:
            RuntimeError: the recorder refuses it.
        """
        self._refuse("rehearse")
        result = computation()
        self.shape = result.shape
        return result

    def record(self, computation: Computation) -> tuple[_Repeated, Tensor]:
        """Return a recording of what was rehearsed last, and the tensor that holds its result. Run nothing.

        Raises:
            RuntimeError: the recorder refuses it.
        """
        self._refuse("record")
        result = torch.zeros(self.shape)
        return _Repeated(computation, result), result

    def _refuse(self, method: str) -> None:
        if self.refuses == method:
            message = "operation not permitted when stream is capturing (refused by a fake)"
            raise RuntimeError(message)
