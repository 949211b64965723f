"""The fast path: the same numbers, sooner. Each lever is a file with its reason and its worth.

How many times as fast a training step gets: CPU time against the plain path in the same run (bf16,
32 rows of the emotion data, dropout 0.1, one thread of an AMD EPYC, medians):

    file                lever                                        equal in   MiniLM  DistilBERT
    dropout.py          cheap dropout masks                          law          1.17        1.11
    packed.py           no padding, attention as one node            rounding     1.10        1.07
                        first tokens alone in the last block         rounding     1.16        1.19
    frozen_weights.py   frozen weights rounded once                  bits         1.00        1.05
    fused_lora.py       the update as one node of the graph          rounding     1.08        1.02
    all of these                                                                  1.51        1.32
    onednn.py           float32 products through oneDNN              rounding        -        1.16
    frozen_weights.py   weights packed for oneDNN, bf16              bits         1.05        1.05
    first_tokens.py     the last block's keys and values absorbed    rounding        -        1.02
    attention.py        attention as one node stores 132 kB a token instead of 160
    onednn.py           small kernel caches: memory does not grow with the steps

and with matrix registers (two threads of an Intel Xeon with AMX, wall time, DistilBERT alone):

    packed.py           batches filled up to 64 tokens               rounding     1.05   1.04-1.13
    onednn.py           products of one idle thread cut into pieces  rounding        -   1.07-1.13
    norms.py            the blocks' sums stay in bfloat16            rounding        -        1.03
    dropout.py          masks applied to the bits of numbers         bits            -        1.03

and without, later (two threads of an AMD EPYC, Zen 5, the last lever on Zen 4, wall time):

    packed.py           batches filled up to 32 tokens, 200 steps    rounding     1.09        0.99
    norms.py            the blocks' sums stay in bfloat16            rounding     1.04        1.02
    dropout.py          nine bits an entry in place of sixteen       law          1.03        1.02
    self_attention.py   attention and its projections as one node    rounding     1.08        1.02

On a GPU, where none of this is measured yet (docs/results/gpu.md):

    row_batch.py, segments.py    batches by row numbers, without padding, torch's own kernels
    cuda_graphs.py               recorded steps are replayed

A lever of these that fails its test on the GPU at hand is left out, with one line that says so. The
flag `--plain` turns everything off.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ..data import Batch, Encoded
from ..model.path import ForwardPath, Steps
from ..runtime.distributed import world_size
from ..runtime.precision import Precision
from . import onednn
from .cuda_graphs import WIDTH_MULTIPLE, Graphs
from .cuda_recorder import CudaRecorder, without_host_waits
from .dropout import cheap_dropouts
from .frozen_weights import fast_products
from .fused_lora import fused_updates
from .norms import half_precision_norms
from .packed import is_packed, packed
from .row_batch import can_fill_up, row_batch
from .segments import Kernel, choose_kernel, head_dim_of
from .self_attention import self_attentions

GRADIENTS, UPDATE = "gradients", "update"  # the two recordings of a step
LEVERS = GRAPHS, PACKING = "graphs", "packing"  # on a GPU


class FastPath(ForwardPath):
    """The path of a training with the levers on.

    Args:
        recorder: as for `Graphs`.
        kernel: computes attention of batches by row numbers; None for padded batches.
    """

    def __init__(self, recorder: Any | None, kernel: Kernel | None = None) -> None:
        self.graphs, self.kernel = Graphs(recorder), kernel
        self.records_steps = recorder is not None
        self.width_multiple = 1 if recorder is None else WIDTH_MULTIPLE

    def batch(self, encoded: Encoded, rows: Sequence[int]) -> Batch | None:
        """Return the batch of these rows by their numbers, if there is a kernel for it."""
        return row_batch(encoded, rows, self.kernel) if self.kernel and can_fill_up(encoded) else None

    def backward(self, steps: Steps, batch: Batch, rows: int) -> Tensor:
        """Return the loss of a batch, replayed if its shape was recorded."""

        def compute(tensors: Mapping[str, Tensor]) -> Tensor:
            return steps.compute_gradients(batch.with_tensors(tensors), rows)

        return self.graphs((GRADIENTS, *batch.shape, rows), compute, batch.tensors, steps)

    def update(self, steps: Steps, loss: Tensor) -> Tensor:
        """Change the parameters, replayed from the fourth time on: the first creates AdamW's moments."""
        if not steps.optimizer.state:
            return steps.update(loss)
        return self.graphs((UPDATE,), lambda tensors: steps.update(tensors["loss"]), {"loss": loss}, steps)

    def free_memory(self, reason: str) -> bool:
        """Free the recorded graphs, which may hold as much memory as a step."""
        return self.graphs.stop(reason)

    def close(self) -> None:
        """Free the recorded graphs and record no more."""
        self.graphs.stop()

    def choices(self) -> dict[str, Any]:
        """Return whether float32 products go through oneDNN."""
        return {"onednn": onednn.choice()}


@contextmanager
def fast_path(
    model: Any,
    precision: Precision,
    *,
    choices: Mapping[str, Any] | None = None,
) -> Iterator[FastPath]:
    """Make `classify(model, batch)` fast inside. Afterwards only trained tensors have changed.

    Args:
        choices: the `choices()` of an earlier process, to be repeated.
    """
    if choices:
        onednn.set_choice(choices["onednn"])
    with ExitStack() as levers:
        levers.enter_context(fast_products(model, precision))
        levers.enter_context(fused_updates(model))
        on_cpu = precision.device.type == "cpu"
        if on_cpu:
            levers.enter_context(cheap_dropouts(model))
        levers.enter_context(packed(model))
        if is_packed(model):
            levers.enter_context(half_precision_norms(model, precision))
            levers.enter_context(self_attentions(model))
        if on_cpu and not is_packed(model):
            warnings.warn(f"{type(model).__name__} is computed with padding: no packing for it", stacklevel=3)
        if not on_cpu:
            levers.enter_context(without_host_waits(model))  # no change to a packed model
        path = FastPath(None) if on_cpu else gpu_path(model, precision)
        levers.callback(path.close)
        yield path


def gpu_path(model: Any, precision: Precision, *, without: Collection[str] = ()) -> FastPath:
    """Return the path of a training on a GPU. Several processes record nothing, and pad.

    Args:
        without: levers that are left out, of LEVERS.
    """
    if world_size() > 1 or not any(p.requires_grad for p in model.parameters()):
        return FastPath(None)
    recorder = None if GRAPHS in without else CudaRecorder(precision.device)
    if PACKING in without or not is_packed(model):
        return FastPath(recorder)
    kernel, fault = choose_kernel(precision.device, precision.dtype, head_dim_of(model.config))
    if fault:
        warnings.warn(f"trains with padding on this GPU: {fault}", stacklevel=4)
    return FastPath(recorder, kernel)
