"""On a GPU: record a computation of a training step once, and replay it.

A training step of an encoder is about a thousand short kernels, and the host takes longer to launch
them than the GPU to run them. A CUDA graph is one launch. Two are recorded for a step:

    the gradients    of a batch, from its row numbers or padded ids; one graph for each shape
    the update       unscale, clip, test for finite numbers, AdamW, zero; one graph for all shapes

One graph of both would save a launch, but would record the update for every shape, could not serve
accumulated micro-batches, and would leave no place for the hooks that measure some of the updates.

Every replay uses the same memory, so inputs are copied into the buffers of the recording, gradients
are added into tensors that stay allocated, the learning rate is a tensor, and the result is copied
out at once: all graphs share one memory. Random numbers come from torch's generator, which a replay
advances as the kernels would.

The first computation of a shape runs as usual: libraries warm up, gradients are allocated. The
second is run with an error for every wait of the host, undone, recorded and replayed, and the
replay is compared with the run. If any of this fails, all that a step changes is put back, and
training continues without graphs, with one line that says why.

Source: Nguyen et al. 2021, Accelerating PyTorch with CUDA Graphs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..model.path import Steps
from ..runtime.device import is_out_of_memory
from ..runtime.random_state import random_state, set_random_state

WIDTH_MULTIPLE = 8  # tokens of a padded row; 19 % more on the emotion data, where 16 would add 36 %
UNWRITTEN = -1.0  # no loss is negative
TOLERANCE = 5e-2  # of a replay, relative; attention adds up its gradients in an order that varies

Tensors = Mapping[str, Tensor]
Key = tuple[object, ...]


@dataclass
class _Recording:
    buffers: Tensors
    graph: Any
    result: Tensor

    def replay(self, tensors: Tensors) -> Tensor:
        """Return a copy of the result for other tensors of the same shapes."""
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[name])
        self.graph.replay()
        return self.result.clone()  # before the replay of another graph, which may write there


class Graphs:
    """Replays computations from the third time on.

    Nothing here refers to the stepper, so that recordings are freed with their owner.

    Args:
        recorder: a `CudaRecorder`, or a fake with its methods; None to record nothing.
    """

    def __init__(self, recorder: Any | None) -> None:
        self.recorder: Any = recorder
        self.stopped = recorder is None
        self.warm: set[Key] = set()
        self.recorded: dict[Key, _Recording] = {}

    def __call__(self, key: Key, compute: Callable[[Tensors], Tensor], tensors: Tensors, steps: Steps) -> Tensor:
        """Return `compute(tensors)`.

        Args:
            key: names all that the kernels depend on, but for the values of `tensors`.
        """
        if key in self.recorded:
            return self.recorded[key].replay(tensors)
        usual = partial(compute, tensors)
        if self.stopped:
            return usual()
        before = Snapshot(steps)
        attempt = partial(self._record, key, compute, tensors, before)
        if key not in self.warm:
            self.warm.add(key)
            attempt = partial(self.recorder.run, usual)
        try:
            return attempt()
        except RuntimeError as error:
            before.restore()
            if is_out_of_memory(error):
                raise  # the stepper frees memory
            reason = _first_reason(error)
        # after the handler, whose error keeps the failed pass alive
        self.stop(reason)
        return usual()

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

    def _record(self, key: Key, compute: Callable[[Tensors], Tensor], tensors: Tensors, before: Snapshot) -> Tensor:
        """Run, undo, record, replay and compare. The host waits for the result."""
        expected = self.recorder.rehearse(partial(compute, tensors)).clone()
        after = before.again()
        before.restore()
        buffers = {name: tensor.clone() for name, tensor in tensors.items()}
        graph, result = self.recorder.record(partial(compute, buffers))
        if before.has_new_gradients():
            raise RuntimeError("a gradient was allocated in the memory that all graphs write to")
        recording = _Recording(buffers, graph, result.fill_(UNWRITTEN))
        result = recording.replay(tensors)
        close = torch.allclose(result, expected, rtol=TOLERANCE, equal_nan=True)
        if not close or not before.again().is_near(after, before):
            raise RuntimeError("a recorded graph computes something else than the step")
        self.recorded[key] = recording
        return result


class Snapshot:
    """Copies of all that a step changes: weights, moments, counters, gradients, random numbers."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.random = random_state()
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in steps.changing()]
        self.gradients = [None if p.grad is None else p.grad.clone() for p in steps.parameters]

    def again(self) -> Snapshot:
        """Return one of now."""
        return Snapshot(self.steps)

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, in the same memory."""
        set_random_state(self.random)
        getattr(self.steps.scaler, "_per_optimizer_states", {}).clear()  # of an update cut short
        for tensor, copy in self.tensors:
            tensor.copy_(copy)
        for p, gradient in zip(self.steps.parameters, self.gradients, strict=True):
            if gradient is None or p.grad is None:
                p.grad = gradient
            else:
                p.grad.copy_(gradient)

    def has_new_gradients(self) -> bool:
        """Return whether a parameter has a gradient now that had none."""
        pairs = zip(self.steps.parameters, self.gradients, strict=True)
        return any(gradient is None and p.grad is not None for p, gradient in pairs)

    def is_near(self, other: Snapshot, before: Snapshot) -> bool:
        """Return whether both have moved from `before` alike: all gradients together, the rest one by one.

        A gradient that is zero in exact arithmetic holds rounding errors alone, so none is judged alone. The same
        generators must have moved: a replay that draws the same numbers again, or none, is no step.
        """
        if self._drew(before) != other._drew(before):
            return False
        mine, others, start = (snapshot._values() for snapshot in (self, other, before))
        apart, moved = _distances(others, mine), _distances(others, start)
        return bool((torch.stack(apart) <= TOLERANCE * torch.stack(moved)).all())

    def _drew(self, before: Snapshot) -> list[bool]:
        states = ((state, before.random[name]) for name, state in self.random.items())
        return [not torch.equal(*two) for two in states if isinstance(two[0], Tensor)]

    def _values(self) -> list[list[Tensor]]:
        pairs = zip(self.steps.parameters, self.gradients, strict=True)
        gradients = [torch.zeros_like(p) if gradient is None else gradient for p, gradient in pairs]
        return [gradients, *([copy] for _, copy in self.tensors)]


def _distances(one: list[list[Tensor]], other: list[list[Tensor]]) -> list[Tensor]:
    """Return the Euclidean distance of each group. What is infinite in both does not count."""
    groups = (zip(*group, strict=True) for group in zip(one, other, strict=True))
    return [torch.stack([(x.double() - y.double()).nan_to_num(0.0).norm() for x, y in group]).norm() for group in groups]


def _first_reason(error: BaseException) -> str:
    """Return the first line of the first error: the end of a failed capture raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or repr(error)).splitlines()[0]
