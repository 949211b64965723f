"""The fast path: the same training, sooner. Each lever is a file of its own that says why it may be and what it is worth.

How many times faster a training step gets, in CPU time against the plain path in the same run (bf16, 32 rows of the emotion
data, dropout 0.1, one thread of an AMD EPYC, medians):

                                                                                  MiniLM   DistilBERT
    fast/dropout.py    cheap dropout masks                     equal in law           1.17         1.11
    fast/packed.py      no padding, attention written out       equal to rounding      1.10         1.07
                         and first tokens alone in the last block                       1.16         1.19
    fast/frozen_weights.py     frozen weights rounded once             equal in bits          1.00         1.05
    fast/fused_lora.py      the update in one node of the graph     equal to rounding      1.08         1.02
    all four                                                                            1.51         1.32
    fast/onednn.py    float32 through oneDNN, in float32      equal to rounding         -         1.16
    fast/frozen_weights.py     and its frozen weights packed for that  equal to rounding: a product takes 0.6 to 0.8 of the time
                         packed in bf16                          equal in bits          1.05         1.05
    fast/attention.py   attention as one node of the graph      equal to rounding: 132 kB kept a token in place of 160
    fast/first_tokens.py  the last block's keys and values      equal to rounding          -         1.02
                         absorbed into its query
    fast/onednn.py    few compiled kernels kept               equal in bits: memory that does not grow with the steps

On a GPU, fast/cuda_graphs.py is a lever too; loop.py and step.py never wait for the device with any of them.

`TrainingConfig(plain=True)`, the flag `--plain`, turns all of them off.
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
