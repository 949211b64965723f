"""On a GPU: the forward and backward pass of a batch shape recorded once and replayed, one launch in place of a thousand.

A training step of an encoder is about a thousand kernels of some microseconds each, and the host takes longer to launch
them than the GPU to run them. A CUDA graph is launched as a whole. It reads and writes the same memory at every replay, so

    the batch           is copied into the buffers that the graph was recorded with
    a gradient          is added into the tensor that the parameter had before the recording: gradients stay allocated
    random numbers      come from torch's generator, which a recorded graph moves on as the same kernels launched one by one
    widths              are rounded up to a multiple of WIDTH_MULTIPLE, so that a handful of graphs serves all batches

The first batch of a shape goes through as usual, which also warms up the libraries; the second is recorded. Whatever can't
be recorded goes on as usual, and a warning says so once.

Source: Nguyen et al. 2021, Accelerating PyTorch with CUDA Graphs; CUDA semantics in the documentation of torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data import Batch

WIDTH_MULTIPLE = 16  # tokens; a row of up to 128 has eight widths

Backward = Callable[[Batch, int], Tensor]  # the loss of a batch; its gradients are added into the parameters
Computation = Callable[[], Tensor]


class CudaRecorder:
    """Runs and records computations on one stream of its own: autograd remembers the stream that a parameter was used on."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def run(self, computation: Computation) -> Tensor:
        """Its result; on the GPU's clock it stands between what was launched before it and what comes after it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = computation()
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def record(self, computation: Computation) -> tuple[Callable[[], None], Tensor]:
        """What replays it, and the tensor that holds its result after a replay. It is not run here."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            result = computation()
        return graph.replay, result


@dataclass
class _Recorded:
    batch: Batch
    replay: Callable[[], None]
    loss: Tensor


class GraphedBackward:
    """`backward`, replayed from the second batch of a shape on. The gradients must not be set to None between batches.

    Args:
        recorder: a `CudaRecorder`, or what does as it does.
    """

    def __init__(self, backward: Backward, recorder: Any) -> None:
        self.backward, self.recorder = backward, recorder
        self.seen: set[tuple[Any, ...]] = set()
        self.recorded: dict[tuple[Any, ...], _Recorded] = {}
        self.refused = False

    def __call__(self, batch: Batch, rows: int) -> Tensor:
        """The loss, as `backward` gives it. Shape: -> ()."""
        shape = (*batch.input_ids.shape, rows)
        if shape in self.seen and shape not in self.recorded and not self.refused:
            self._record(shape, batch, rows)
        self.seen.add(shape)
        recorded = self.recorded.get(shape)
        if recorded is None:
            return self.recorder.run(partial(self.backward, batch, rows))  # type: ignore[no-any-return]
        for field in fields(Batch):
            getattr(recorded.batch, field.name).copy_(getattr(batch, field.name))
        recorded.replay()
        return recorded.loss.clone()

    def _record(self, shape: tuple[Any, ...], batch: Batch, rows: int) -> None:
        buffers = Batch(*(getattr(batch, field.name).clone() for field in fields(Batch)))
        try:
            self.recorded[shape] = _Recorded(buffers, *self.recorder.record(partial(self.backward, buffers, rows)))
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.refused = True
            warnings.warn(f"trains without CUDA graphs: {str(error).splitlines()[0]}", stacklevel=2)
