"""Logits for every row, in data-set order, for any number of processes (runtime/distributed.py)."""

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
from ..model.forward import classify, evaluating, forward_path, need_equal_lengths
from ..runtime.distributed import barrier, is_main, rank, sum_over_processes, world_size
from ..runtime.precision import Precision, uses_matrix_registers
from ..runtime.ranks import check_same_tensors

# Tokens of a batch, padding included: enough for fast products, few enough to keep memory small.
# On a CPU 2,048 is 2 to 4 % faster for DistilBERT and 7 % for MiniLM, but memory then grows with
# the number of texts: 50,000 texts peak at 1.08 times the memory of 500 texts, instead of 1.03.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
# In bfloat16 with matrix registers (AMX), 3,072 is 1.5 times as fast, for 170 MiB more: oneDNN shares
# such products between threads (fast/onednn.py).
BATCH_TOKENS_OF_MATRICES = 3072


def batch_tokens_of(precision: Precision) -> int:
    """Return the tokens of a batch that suit the device and what it computes in."""
    if precision.device.type == "cpu" and uses_matrix_registers(precision.dtype):
        return BATCH_TOKENS_OF_MATRICES
    return BATCH_TOKENS[precision.device.type]


@dataclass(frozen=True)
class Predictor:
    """Runs rows through a model in batches of similar length; results are in data-set order.

    Args:
        model: a sequence classifier of transformers, on the device of `precision`.
        precision: what it computes in, unless its family needs another one (model/precision.py).
        pad_token_id: fills a batch up to its longest row.
        plain: use the model's own code with padding. The fast path gives the same up to rounding.
        batch_tokens: tokens of a batch, padding included; `batch_tokens_of` the precision if None.
    """

    model: Any
    precision: Precision
    pad_token_id: int
    plain: bool = False
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        from ..model.precision import family_precision  # a rule for one family

        object.__setattr__(self, "precision", family_precision(self.model, self.precision))

    def logits(self, encoded: Encoded, *, progress: str = "") -> Tensor:
        """Return the logits, without gradients. The model is in evaluation mode meanwhile.

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
        """Return `function` of every row, in data-set order.

        The rows are copied to the device once, and every batch is built there. For very many rows, pass
        a window of rows at a time, as deploy/classify.py does. Process r of w computes every w-th batch
        from the r-th on; then every process has all results. The batches do not depend on the number
        of processes, so the results have the same bits.

        Shape: `function` gives (B, ...) for a batch; -> (n, ...) float32 on the CPU.

        Raises:
            DataError: no rows. ConfigError: processes with different rows. WorldError: a process is gone.
        """
        # no_grad, not inference_mode: layers cache tensors here that training uses later
        device = self.precision.device
        tokens, equal = self.batch_tokens or batch_tokens_of(self.precision), need_equal_lengths(self.model)
        plan = plan_eval_batches(encoded.lengths, batch_tokens=tokens, equal_lengths=equal)
        if not plan:
            raise DataError("no rows to predict", where="evaluation", expected="at least one")
        check_same_tensors("the rows", {"tokens": encoded.tokens, "offsets": encoded.offsets})
        own = plan[rank() :: world_size()]
        # all processes of a sharded model need equally many batches: repeat the first
        filler = plan[:1] * (-(-len(plan) // world_size()) - len(own))
        encoded = encoded.to(device)
        parts: list[Tensor] = []
        with self.precision.autocast():
            for rows in tqdm(own + filler, desc=progress, unit="batch", disable=not progress or not is_main()):
                parts.append(function(collate(encoded, rows, pad_token_id=self.pad_token_id)).float())
                barrier()
        # one copy to the CPU at the end: a copy after every batch would make a GPU wait
        outputs = torch.cat(parts).cpu()  # (own and filler rows, ...) in the order of the plan
        order = torch.tensor([row for rows in own for row in rows], dtype=torch.int64)
        in_order = outputs.new_zeros(len(encoded), *outputs.shape[1:])
        in_order[order] = outputs[: len(order)]
        sum_over_processes([in_order])  # each row is zero in all processes but one
        return in_order
