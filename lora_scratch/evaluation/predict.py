"""Logits for every row, in the order of the data set, however many processes share the work (runtime/distributed.py)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data import Batch, Encoded, collate, plan_in_order
from ..errors import DataError
from ..model.packed import can_pack, classify, packed
from ..model.storage import fast_products
from ..runtime.agreement import check_same_tensors
from ..runtime.distributed import is_main, keep_in_step, rank, sum_over_processes, world_size
from ..runtime.precision import Precision

# Tokens of a batch, padding counted: enough that products run at their full rate, few enough that memory stays small and
# flat. 2,048 on a CPU are 2 to 4 % faster for DistilBERT, 7 % for MiniLM, but what tensors leave between them grows with the
# texts: 50,000 peak at 1.08 times the memory of 500, in place of 1.03.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


def predict_logits(
    model: Any,
    encoded: Encoded,
    *,
    precision: Precision,
    pad_token_id: int,
    batch_tokens: int | None = None,
    progress: str = "",
    plain: bool = False,
) -> Tensor:
    """The model's logits in evaluation mode, without gradients; the model is left in the mode it was found in.

    Shape: -> (n, C) float32 on the CPU, row i for row i of `encoded`.

    Args:
        model: a sequence classifier of transformers, on the device of `precision`.
        batch_tokens: of a batch, padding counted; BATCH_TOKENS of the device if None.
        progress: what the progress bar says; no bar if empty.
        plain: with padding, as the model's own code has it; packed logits (model/packed.py) are equal to rounding. A model
            that can't be packed is classified with padding in any case, and a warning says so once.

    Raises:
        DataError: no rows.
    """
    logits = partial(classify, model)
    with evaluating(model), ExitStack() as levers:
        if not plain:
            levers.enter_context(fast_products(model, precision))
            if not can_pack(model) and precision.device.type == "cpu":
                warnings.warn(f"{type(model).__name__} predicts with padding: no packing for it", stacklevel=2)
            levers.enter_context(packed(model))
        return map_rows(
            logits, encoded, precision=precision, pad_token_id=pad_token_id, batch_tokens=batch_tokens, progress=progress
        )


@torch.no_grad()
def map_rows(
    function: Callable[[Batch], Tensor],
    encoded: Encoded,
    *,
    precision: Precision,
    pad_token_id: int,
    batch_tokens: int | None = None,
    progress: str = "",
) -> Tensor:
    """`function` of every row, computed in batches of rows of like length, in the order of the data set.

    The rows are put on the device once and every batch is made there, so the host waits for none of them. A caller with
    any number of rows passes a window of them at a time, as jobs/classify.py does.

    Process r of w computes every w-th batch from the r-th on, and then all have all results. The batches are those of one
    process, so the results are its bits, and every row is computed for once.

    Shape: `function` gives (B, ...) for a batch; -> (n, ...) float32 on the CPU.

    Raises:
        DataError: no rows. ConfigError: processes with different rows. WorldError: a process has gone.
    """
    # no_grad, not inference_mode: layers keep what they compute in evaluation, and inference tensors could not be kept
    plan = plan_in_order(encoded.lengths, batch_tokens=batch_tokens or BATCH_TOKENS[precision.device.type])
    if not plan:
        raise DataError("no rows to predict", where="evaluation", expected="at least one")
    check_same_tensors("the rows", {"tokens": encoded.tokens, "offsets": encoded.offsets})
    own = plan[rank() :: world_size()]
    # where the batches don't go round, the first stands in: a sharded model (model/sharding.py) needs all processes in step
    stand_in = plan[:1] * (-(-len(plan) // world_size()) - len(own))
    encoded = encoded.to(precision.device)
    parts: list[Tensor] = []
    with precision.autocast():
        for rows in tqdm(own + stand_in, desc=progress, unit="batch", disable=not progress or not is_main()):
            parts.append(function(collate(encoded, rows, pad_token_id=pad_token_id)).float())
            keep_in_step()
    # copied to the CPU once, at the end: a copy a batch would make a GPU wait for it
    found = torch.cat(parts).cpu()  # (own rows and those of stand-ins, ...) in the order of the plan
    order = torch.tensor([row for rows in own for row in rows], dtype=torch.int64)
    in_order = found.new_zeros(len(encoded), *found.shape[1:])
    in_order[order] = found[: len(order)]
    sum_over_processes([in_order])  # each row is zero in all processes but one
    return in_order


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
