"""The fast path: the same training, sooner. Each lever is a file that says why it is allowed and what it is worth.

How many times as fast a training step gets: CPU time against the plain path in the same run (bf16, 32 rows of the
emotion data, dropout 0.1, one thread of an AMD EPYC, medians):

    file                 lever                                          equal in    MiniLM  DistilBERT
    dropout.py           cheap dropout masks                            law           1.17        1.11
    packed.py            no padding, attention written out              rounding      1.10        1.07
                         and first tokens alone in the last block       rounding      1.16        1.19
    frozen_weights.py    frozen weights rounded once                    bits          1.00        1.05
    fused_lora.py        the update as one node of the graph            rounding      1.08        1.02
    all of these                                                                      1.51        1.32
    onednn.py            float32 products through oneDNN                rounding         -        1.16
    frozen_weights.py    weights packed for oneDNN, bf16                bits          1.05        1.05
    first_tokens.py      the last block's keys and values absorbed      rounding         -        1.02
    attention.py         attention as one node: 132 kB kept a token, not 160
    onednn.py            few compiled kernels kept: memory does not grow with the steps

On a GPU, cuda_graphs.py replays recorded steps. The flag `--plain` turns all of it off.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Batch
from ..model.path import Backward, ForwardPath
from ..runtime.distributed import world_size
from ..runtime.precision import Precision
from . import onednn
from .cuda_graphs import WIDTH_MULTIPLE, CudaRecorder, GraphedBackward
from .dropout import cheap_dropouts
from .frozen_weights import fast_products
from .fused_lora import fused_updates
from .packed import is_packed, packed


class FastPath(ForwardPath):
    """What a training has to know of the fast path.

    Args:
        recorder: records batch shapes that come back and replays them (cuda_graphs.py); None for no recordings.
        parameters: the tensors that are trained.
    """

    def __init__(self, recorder: Any | None, parameters: Sequence[Tensor] = ()) -> None:
        self.graphs = None if recorder is None else GraphedBackward(recorder, parameters)
        self.keeps_gradients = self.graphs is not None  # a replay adds to the tensors of the recording
        self.width_multiple = WIDTH_MULTIPLE if self.graphs else 1

    def backward(self, run: Backward, batch: Batch, rows: int) -> Tensor:
        """Return the loss of a batch, replayed if its shape was recorded."""
        return run(batch, rows) if self.graphs is None else self.graphs(run, batch, rows)

    def free_memory(self, reason: str) -> bool:
        """Drop the recorded graphs, which may hold as much memory as a step."""
        if self.graphs is None or self.graphs.refused:
            return False
        self.graphs.refuse(reason)
        return True

    def close(self) -> None:
        """Free the memory of what was recorded. A later batch is not replayed."""
        if self.graphs is not None:
            self.graphs.drop()

    def choices(self) -> dict[str, Any]:
        """Return whether float32 products go through oneDNN."""
        return {"onednn": onednn.finding()}


@contextmanager
def fast_path(model: Any, precision: Precision, *, choices: Mapping[str, Any] | None = None) -> Iterator[FastPath]:
    """Make `classify(model, batch)` fast inside. Afterwards the model is as it was, but for what was trained.

    Args:
        choices: what the path of an earlier process chose, to be repeated.
    """
    if choices:
        onednn.keep_to(choices["onednn"])
    with ExitStack() as levers:
        levers.enter_context(fast_products(model, precision))
        levers.enter_context(fused_updates(model))
        if precision.device.type == "cpu":
            levers.enter_context(cheap_dropouts(model))
            levers.enter_context(packed(model))
            if not is_packed(model):
                warnings.warn(f"{type(model).__name__} is computed with padding: no packing for it", stacklevel=3)
        path = FastPath(*_recording(model, precision.device))
        levers.callback(path.close)
        yield path


def _recording(model: nn.Module, device: torch.device) -> tuple[Any | None, list[Tensor]]:
    """Return a recorder for one process on a GPU, and the trained parameters."""
    trained: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    return (CudaRecorder(device) if device.type == "cuda" and world_size() == 1 and trained else None), trained
