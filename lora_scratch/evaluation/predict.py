"""Logits for every row, in the order of the data set, however many processes share the work (runtime/distributed.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..data import Batch, Encoded, collate, plan_eval_batches
from ..errors import DataError
from ..model.forward import classify, evaluating, forward_path
from ..runtime.distributed import barrier, is_main, rank, sum_over_processes, world_size
from ..runtime.precision import Precision
from ..runtime.ranks import check_same_tensors

# Tokens of a batch, padding counted: enough that products run at their full rate, few enough that memory stays small and
# flat. 2,048 on a CPU are 2 to 4 % faster for DistilBERT, 7 % for MiniLM, but what tensors leave between them grows with the
# texts: 50,000 peak at 1.08 times the memory of 500, in place of 1.03.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


@dataclass(frozen=True)
class Predictor:
    """Runs rows through a model in batches of like length, and returns results in the order of the data set.

    Args:
        model: a sequence classifier of transformers, on the device of `precision`.
        pad_token_id: fills a batch up to its longest row.
        plain: the model's own code, padded. The fast path is equal to rounding (model/forward.py).
        batch_tokens: tokens of a batch, padding counted; BATCH_TOKENS of the device if None.
    """

    model: Any
    precision: Precision
    pad_token_id: int
    plain: bool = False
    batch_tokens: int | None = None

    def logits(self, encoded: Encoded, *, progress: str = "") -> Tensor:
        """Return the logits in evaluation mode, without gradients; the model keeps its mode.

        Shape: -> (n, C) float32 on the CPU, row i for row i of `encoded`.

        Args:
            progress: the text of the progress bar; no bar if empty.

        Raises:
            DataError: no rows.
        """
        with evaluating(self.model), forward_path(self.model, self.precision, plain=self.plain):
            return self.map_rows(partial(classify, self.model), encoded, progress=progress)

    @torch.no_grad()
    def map_rows(self, function: Callable[[Batch], Tensor], encoded: Encoded, *, progress: str = "") -> Tensor:
        """Return `function` of every row, in the order of the data set.

        The rows are put on the device once and every batch is made there, so the host waits for none of them.
        With very many rows, pass a window of them at a time, as deploy/classify.py does.

        Process r of w computes every w-th batch from the r-th on; then all have all results. The batches are those
        of one process, so the results have the same bits, and every row is computed once.

        Shape: `function` gives (B, ...) for a batch; -> (n, ...) float32 on the CPU.

        Raises:
            DataError: no rows. ConfigError: processes with different rows. WorldError: a process is gone.
        """
        # no_grad, not inference_mode: layers keep what they compute in evaluation, and inference tensors could not be kept
        device = self.precision.device
        plan = plan_eval_batches(encoded.lengths, batch_tokens=self.batch_tokens or BATCH_TOKENS[device.type])
        if not plan:
            raise DataError("no rows to predict", where="evaluation", expected="at least one")
        check_same_tensors("the rows", {"tokens": encoded.tokens, "offsets": encoded.offsets})
        own = plan[rank() :: world_size()]
        # where the batches don't go round, the first stands in: a sharded model (model/sharding.py) needs all processes in step
        stand_in = plan[:1] * (-(-len(plan) // world_size()) - len(own))
        encoded = encoded.to(device)
        parts: list[Tensor] = []
        with self.precision.autocast():
            for rows in tqdm(own + stand_in, desc=progress, unit="batch", disable=not progress or not is_main()):
                parts.append(function(collate(encoded, rows, pad_token_id=self.pad_token_id)).float())
                barrier()
        # copied to the CPU once, at the end: a copy a batch would make a GPU wait for it
        found = torch.cat(parts).cpu()  # (own rows and those of stand-ins, ...) in the order of the plan
        order = torch.tensor([row for rows in own for row in rows], dtype=torch.int64)
        in_order = found.new_zeros(len(encoded), *found.shape[1:])
        in_order[order] = found[: len(order)]
        sum_over_processes([in_order])  # each row is zero in all processes but one
        return in_order
