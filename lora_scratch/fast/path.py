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

On a GPU, cuda_graphs.py replays recorded steps. The flag `--plain` turns all of it off.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..data import Batch
from ..model.path import Backward, ForwardPath
from ..runtime.distributed import world_size
from ..runtime.precision import Precision
from . import onednn
from .cuda_graphs import WIDTH_MULTIPLE, CudaRecorder, GraphedBackward, without_host_waits
from .dropout import cheap_dropouts
from .frozen_weights import fast_products
from .fused_lora import fused_updates
from .packed import is_packed, packed


class FastPath(ForwardPath):
    """The path of a training with the levers on.

    Args:
        recorder, parameters: as for `GraphedBackward`.
    """

    def __init__(self, recorder: Any | None, parameters: Sequence[Tensor] = ()) -> None:
        self.graphs = GraphedBackward(recorder, parameters)
        self.keeps_gradients = recorder is not None  # a replay adds to the same tensors
        self.width_multiple = 1 if recorder is None else WIDTH_MULTIPLE

    def backward(self, run: Backward, batch: Batch, rows: int) -> Tensor:
        """Return the loss of a batch, replayed if its shape was recorded."""
        return self.graphs(run, batch, rows)

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
        if precision.device.type == "cpu":
            levers.enter_context(cheap_dropouts(model))
            levers.enter_context(packed(model))
            if not is_packed(model):
                name = type(model).__name__
                warnings.warn(f"{name} is computed with padding: no packing for it", stacklevel=3)
        else:
            levers.enter_context(without_host_waits(model))
        trained = [p for p in model.parameters() if p.requires_grad]
        path = FastPath(_recorder(precision.device) if trained else None, trained)
        levers.callback(path.close)
        yield path


def _recorder(device: torch.device) -> CudaRecorder | None:
    """Return a recorder on a GPU. Several processes record nothing."""
    return CudaRecorder(device) if device.type == "cuda" and world_size() == 1 else None
