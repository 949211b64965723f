"""On a GPU: the forward and backward pass of a batch shape recorded once and replayed, one launch in place of a thousand.

A training step of an encoder is about a thousand kernels of some microseconds each, and the host takes longer to launch
them than the GPU to run them. A CUDA graph is launched as a whole. It reads and writes the same memory at every replay, so

    the batch           is copied into the buffers that the graph was recorded with
    a gradient          is added into the tensor that the parameter had before the recording: gradients stay allocated
    the loss            is copied out at once: all graphs share one memory, and the next replay may write there
    random numbers      come from torch's generator, which a recorded graph moves on as the same kernels launched one by one
    widths              are rounded up to a multiple of WIDTH_MULTIPLE, so that few graphs serve all batches

The first batch of a shape is run as usual, which warms up the libraries and allocates the gradients. The second one is a
rehearsal: it is run as usual too, but an operation that makes the host wait is an error. The third one is recorded. Where
one of the three fails, gradients and random numbers are put back, all recordings are dropped, and training goes on without
graphs; a warning says so once.

Source: Nguyen et al. 2021, Accelerating PyTorch with CUDA Graphs; CUDA semantics in the documentation of torch.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data import Batch
from ..runtime.device import is_out_of_memory

WIDTH_MULTIPLE = 8  # tokens; on the emotion data 19 % more tokens than without rounding, 36 % with 16
UNWRITTEN = -1.0  # cross entropy is never negative

Backward = Callable[[Batch, int], Tensor]  # the loss of a batch; its gradients are added into the parameters
Computation = Callable[[], Tensor]

# Up to torch 2.13, a capture that failed leaves a reference to its graph in the allocator of pinned host memory.
_failed_graphs: list[Any] = []


class CudaRecorder:
    """Run and record computations on one stream of its own: autograd remembers the stream that a parameter was used on.

    Where a computation fails, the current stream and the random numbers are afterwards what they were before.

    Args:
        device: the device of the model; it need not be the current one.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()  # one memory for all graphs: that of the largest, not the sum

    def run(self, computation: Computation) -> Tensor:
        """Return its result, computed after what was launched before and before what is launched next."""
        with self._unchanged_on_failure(), _as_while_capturing():
            outside = torch.cuda.current_stream()
            self.stream.wait_stream(outside)
            try:
                with torch.cuda.stream(self.stream):
                    return computation()
            finally:
                outside.wait_stream(self.stream)

    def rehearse(self, computation: Computation) -> Tensor:
        """Return its result, as `run` does. Raise RuntimeError where the host would wait, which no capture permits."""
        with torch.cuda.device(self.device), _waiting_is_an_error():
            return self.run(computation)

    def record(self, computation: Computation) -> tuple[Any, Tensor]:
        """Return the graph, with `replay` and `reset`, and the tensor that a replay writes its result to. Run nothing."""
        with self._unchanged_on_failure():
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                    return graph, computation()
            except BaseException:
                self._end_capture(graph)
                raise

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """On this device; put back its current stream and its random numbers after an error.

        Up to torch 2.13, a capture whose end fails keeps its own stream the current one; in torch 2.11 the generator counts
        as captured for ever, and the next dropout raises. A clone of its state from before is not captured.
        """
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            generator = torch.cuda.default_generators[self.device.index]
            device_state, host_state = generator.clone_state(), torch.get_rng_state()
            try:
                yield
            except BaseException:
                torch.cuda.set_stream(stream)
                generator.graphsafe_set_state(device_state)
                torch.set_rng_state(host_state)
                raise

    def _end_capture(self, graph: Any) -> None:
        """Free a graph whose capture failed. Up to torch 2.13 its end then leaves the allocator capturing."""
        _failed_graphs.append(graph)
        graph.reset()
        try:
            torch._C._cuda_endAllocateToPool(self.device.index, self.pool)
        except RuntimeError:
            return  # it had ended, and `reset` has released the pool
        torch._C._cuda_releasePool(self.device.index, self.pool)


@contextmanager
def _as_while_capturing() -> Iterator[None]:
    """Inside, code that asks whether a graph is being captured is told so: a warm-up runs what will be captured.

    transformers looks whether a batch has padding, which makes the host wait, and leaves out the mask of one that has none,
    which chooses another attention kernel. In a capture it does neither.
    """
    answer = torch.cuda.is_current_stream_capturing
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = answer


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@dataclass
class _Recorded:
    batch: Batch
    graph: Any
    loss: Tensor

    def replay(self, batch: Batch) -> Tensor:
        """Return the loss of another batch of the same shape, in memory of its own."""
        for field in fields(Batch):
            getattr(self.batch, field.name).copy_(getattr(batch, field.name))
        self.graph.replay()
        return self.loss.clone()  # in the order of launching, so before the replay of another graph writes there


class GraphedBackward:
    """Replay the backward pass from the third batch of a shape on. Gradients must not be set to None between batches.

    It keeps no reference to the backward pass, whose owner refers to it: recordings are freed with their owner.

    Args:
        recorder: a `CudaRecorder`, or a fake with its methods.
        parameters: those that get a gradient.
    """

    def __init__(self, recorder: Any, parameters: Sequence[Tensor]) -> None:
        self.recorder, self.parameters = recorder, parameters
        self.seen: Counter[tuple[int, ...]] = Counter()
        self.recorded: dict[tuple[int, ...], _Recorded] = {}
        self.refused = False

    def __call__(self, backward: Backward, batch: Batch, rows: int) -> Tensor:
        """Return the loss as `backward` does. Shape: -> ()."""
        shape = (*batch.input_ids.shape, rows)
        if shape in self.recorded:
            return self.recorded[shape].replay(batch)
        usual = partial(backward, batch, rows)
        if self.refused:
            return usual()
        self.seen[shape] += 1
        first = {1: partial(self.recorder.run, usual), 2: partial(self.recorder.rehearse, usual)}
        attempt = first.get(self.seen[shape], partial(self._record, shape, backward, batch, rows))
        return self._attempt(attempt, usual)

    def drop(self) -> None:
        """Free all recordings and record no more."""
        self.refused = True
        for recorded in self.recorded.values():
            recorded.graph.reset()
        self.recorded.clear()

    def refuse(self, reason: str) -> None:
        """`drop`, and warn once."""
        if not self.refused:
            warnings.warn(f"trains without CUDA graphs: {reason}", stacklevel=2)
        self.drop()

    def _attempt(self, attempt: Computation, usual: Computation) -> Tensor:
        gradients = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        try:
            return attempt()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # the stepper makes room
            reason = _reason(error)
        # past the handler, whose error keeps the failed pass alive
        self.refuse(reason)
        self._put_back(gradients)
        return usual()

    def _record(self, shape: tuple[int, ...], backward: Backward, batch: Batch, rows: int) -> Tensor:
        """Record the shape and return the loss of its first replay. Here the host waits, as it does for the capture."""
        buffers = Batch(*(getattr(batch, field.name).clone() for field in fields(Batch)))
        without = [p for p in self.parameters if p.grad is None]
        graph, loss = self.recorder.record(partial(backward, buffers, rows))
        if any(p.grad is not None for p in without):
            raise RuntimeError("a gradient was allocated in the memory that all graphs write to")
        recorded = _Recorded(buffers, graph, loss.fill_(UNWRITTEN))
        result = recorded.replay(batch)
        if float(result) == UNWRITTEN:
            raise RuntimeError("the recorded graph is empty")
        self.recorded[shape] = recorded
        return result

    def _put_back(self, gradients: Sequence[Tensor | None]) -> None:
        for p, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None or p.grad is None:
                p.grad = gradient
            else:
                p.grad.copy_(gradient)


def _reason(error: BaseException) -> str:
    """The first line of the error that came first: the end of a failed capture raises one more."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or repr(error)).splitlines()[0]
