"""A fake of CUDA graphs for machines without a GPU: a replay computes again, from the buffers of the recording."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Computation = Callable[[], Tensor]


class _Repeated:
    """What a recording gives: a replay writes the result of the computation into the same tensor."""

    def __init__(self, computation: Computation, result: Tensor) -> None:
        self.computation, self.result = computation, result

    def replay(self) -> None:
        """Compute again."""
        self.result.copy_(self.computation())

    def reset(self) -> None:
        """Nothing is held."""


class RepeatingRecorder:
    """Runs and records as `CudaRecorder` does, on any device.

    Args:
        refuses: what raises an error, `rehearse` or `record`, as for a model that can't be captured.
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
        return computation()

    def record(self, computation: Computation) -> tuple[_Repeated, Tensor]:
        """Return what replays it and the tensor that holds its result. Run nothing.

        Raises:
            RuntimeError: the recorder refuses it.
        """
        self._refuse("record")
        result = torch.zeros(())
        return _Repeated(computation, result), result

    def _refuse(self, method: str) -> None:
        if self.refuses == method:
            raise RuntimeError("operation not permitted when stream is capturing (a fake recorder refuses it)")
