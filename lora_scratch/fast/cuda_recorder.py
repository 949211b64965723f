"""Records computations as CUDA graphs, and tells the model's code of it, so that no host waits.

The workarounds here are for torch up to 2.13; each names what it is for.

Source: CUDA semantics, section CUDA Graphs, in torch's manual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .forwards import has_own_forward, replaced_forwards

Computation = Callable[[], Tensor]

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
    with replaced_forwards({model: without_waits(model.forward)}):
        yield


def without_waits(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward pass whose mask is built without a look at the numbers."""

    @wraps(forward)
    def quiet(*args: Any, **inputs: Any) -> Any:
        with _answering_as_in_a_capture():
            return forward(*args, **inputs)

    return quiet


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
