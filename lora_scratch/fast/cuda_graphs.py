"""On a GPU: record the forward and backward pass of a batch shape once, and replay it.

A training step of an encoder is about a thousand short kernels, and the host takes longer to launch
them than the GPU to run them. A CUDA graph is one launch. Every replay uses the same memory, so

    batch            is copied into the buffers of the recording
    gradients        are added into the tensors of the recording, which stay allocated
    loss             is copied out at once: all graphs share one memory
    random numbers   come from torch's generator, which a replay advances as the kernels would
    widths           are multiples of WIDTH_MULTIPLE, so that few graphs serve all batches

The first batch of a shape runs as usual: libraries warm up, gradients are allocated. The second is
a rehearsal: an operation that makes the host wait is an error. The third is recorded. If one of
them fails, gradients and random numbers are restored, and training continues without graphs.

Source: Nguyen et al. 2021, Accelerating PyTorch with CUDA Graphs; CUDA semantics in torch's manual.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data import Batch
from ..model.path import Backward
from ..runtime.device import is_out_of_memory
from .forwards import has_own_forward, replaced_forwards

WIDTH_MULTIPLE = 8  # tokens; 19 % more tokens on the emotion data, where 16 would add 36 %
UNWRITTEN = -1.0  # no loss is negative

Computation = Callable[[], Tensor]
Shape = tuple[int, ...]  # of the ids, and the rows of the step

# Up to torch 2.13 the allocator of pinned memory refers to a graph whose capture failed.
_failed_graphs: list[Any] = []


class CudaRecorder:
    """Runs and records computations on one stream, since autograd remembers a parameter's stream.

    If a computation fails, the current stream and the random numbers are restored.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()  # one memory: that of the largest graph

    def run(self, computation: Computation) -> Tensor:
        """Return its result. It runs after what was launched before it."""
        with self._restored_after_an_error(), _answering_as_in_a_capture():
            outside = torch.cuda.current_stream()
            self.stream.wait_stream(outside)
            try:
                with torch.cuda.stream(self.stream):
                    return computation()
            finally:
                outside.wait_stream(self.stream)

    def rehearse(self, computation: Computation) -> Tensor:
        """Return its result as `run` does. Raise RuntimeError where the host would wait."""
        with torch.cuda.device(self.device), _waiting_is_an_error():
            return self.run(computation)

    def record(self, computation: Computation) -> tuple[Any, Tensor]:
        """Return the graph, and the tensor that a replay writes its result to. Run nothing."""
        with self._restored_after_an_error():
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                    return graph, computation()
            except BaseException:
                self._end_capture(graph)
                raise

    @contextmanager
    def _restored_after_an_error(self) -> Iterator[None]:
        """Select the device. After an error restore its current stream and the random numbers.

        Up to torch 2.13, a capture that fails at its end leaves its own stream the current one. In
        2.11 the generator's state then counts as captured; a clone from before does not.
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
        """Free a graph whose capture failed. Up to torch 2.13 the allocator still captures then."""
        _failed_graphs.append(graph)
        graph.reset()
        try:
            torch._C._cuda_endAllocateToPool(self.device.index, self.pool)
        except RuntimeError:
            return  # it had ended, and `reset` has released the pool
        torch._C._cuda_releasePool(self.device.index, self.pool)


@contextmanager
def without_host_waits(model: Any) -> Iterator[None]:
    """Let the model's forward pass not wait for the host inside, for example in prediction."""
    if has_own_forward(model):
        yield
        return
    original = model.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        """Run the model's own forward pass; its mask is built without a look at the numbers."""
        with _answering_as_in_a_capture():
            return original(*args, **inputs)

    with replaced_forwards({model: forward}):
        yield


@contextmanager
def _answering_as_in_a_capture() -> Iterator[None]:
    """Say that a graph is being captured, so that a warm-up runs what will be captured.

    Outside captures transformers checks whether a batch has padding, for which the host waits, and
    leaves out the mask of one without, which selects another attention kernel.
    """
    original = torch.cuda.is_current_stream_capturing
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = original


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@dataclass
class _Recording:
    batch: Batch
    graph: Any
    loss: Tensor

    def replay(self, batch: Batch) -> Tensor:
        """Return a copy of the loss of another batch of the same shape."""
        for name, buffer in self.batch.tensors.items():
            buffer.copy_(batch.tensors[name])
        self.graph.replay()
        return self.loss.clone()  # before the replay of another graph, which may write there


class GraphedBackward:
    """Replays the backward pass from the third batch of a shape on.

    Gradients must not be set to None between batches. Nothing here refers to the backward pass, so
    recordings are freed with its owner.

    Args:
        recorder: a `CudaRecorder`, or a fake with its methods; None to record nothing.
        parameters: those that get a gradient.
    """

    def __init__(self, recorder: Any | None, parameters: Sequence[Tensor]) -> None:
        self.recorder: Any = recorder
        self.parameters, self.stopped = parameters, recorder is None
        self.batches: Counter[Shape] = Counter()  # that were not replayed
        self.recorded: dict[Shape, _Recording] = {}

    def __call__(self, backward: Backward, batch: Batch, rows: int) -> Tensor:
        """Return the loss as `backward` does. Shape: -> ()."""
        shape = (*batch.input_ids.shape, rows)
        if shape in self.recorded:
            return self.recorded[shape].replay(batch)
        usual = partial(backward, batch, rows)
        if self.stopped:
            return usual()
        self.batches[shape] += 1
        first = {1: partial(self.recorder.run, usual), 2: partial(self.recorder.rehearse, usual)}
        record = partial(self._record, shape, backward, batch)
        return self._attempt(first.get(self.batches[shape], record), usual)

    def stop(self, reason: str | None = None) -> bool:
        """Free all recordings and record no more. Return False if it had stopped before."""
        if self.stopped:
            return False
        if reason is not None:
            warnings.warn(f"trains without CUDA graphs: {reason}", stacklevel=2)
        self.stopped = True
        for recording in self.recorded.values():
            recording.graph.reset()
        self.recorded.clear()
        return True

    def _attempt(self, attempt: Computation, usual: Computation) -> Tensor:
        """Return the result of `attempt`; if it fails, restore gradients and return `usual`'s."""
        gradients = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        try:
            return attempt()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # the stepper frees memory
            reason = _first_reason(error)
        # after the handler, whose error keeps the failed pass alive
        self.stop(reason)
        for p, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None or p.grad is None:
                p.grad = gradient
            else:
                p.grad.copy_(gradient)
        return usual()

    def _record(self, shape: Shape, backward: Backward, batch: Batch) -> Tensor:
        """Record the shape and return the loss of its first replay, for which the host waits."""
        buffers = Batch(**{name: tensor.clone() for name, tensor in batch.tensors.items()})
        without = [p for p in self.parameters if p.grad is None]
        graph, loss = self.recorder.record(partial(backward, buffers, shape[-1]))
        if any(p.grad is not None for p in without):
            raise RuntimeError("a gradient was allocated in the memory that all graphs write to")
        recording = _Recording(buffers, graph, loss.fill_(UNWRITTEN))
        result = recording.replay(batch)
        if float(result) == UNWRITTEN:
            raise RuntimeError("the recorded graph is empty")
        self.recorded[shape] = recording
        return result


def _first_reason(error: BaseException) -> str:
    """Return the first line of the first error: the end of a failed capture raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or repr(error)).splitlines()[0]
