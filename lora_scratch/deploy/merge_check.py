"""The merge check: a merged model is written only if it predicts what the adapter model does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapter import NF4, base_precision, merge_and_remove
from ..data import Encoded
from ..errors import ConfigError, DataError, MergeError
from ..evaluation import Predictor
from ..runs.loading import encode_rows, open_splits
from ..runs.trained_adapter import TrainedAdapter
from ..runtime.precision import Precision
from ..tasks import Task
from ..testing import relative_error
from .reload import Rows, rows_of
from .rounding import Survival, survival

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The largest allowed error of a logit / rms of all logits, with room for deeper models. Measured:
# 6.2e-6, 6.5e-2 and 9.0e-3 on the demo, 8.4e-7, 2.1e-2 and 2.6e-3 on a six-layer MiniLM.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-1, "float16": 3e-2}


@dataclass(frozen=True)
class LogitCheck:
    """The merged model against the adapter model on real rows."""

    source: str  # of the rows
    rows: int
    error: float  # the largest error of a logit / rms of the adapter model's logits
    flips: int | None  # rows that get other labels; None for numbers


@dataclass(frozen=True)
class MergeCheck:
    """The figures of a merged model."""

    dtype: str
    tolerance: float
    layers: list[Survival]
    logits: LogitCheck | None  # None if no rows were compared

    def as_json(self) -> dict[str, Any]:
        """Return all figures for JSON."""
        return asdict(self)

    def check(self) -> None:
        """Check that the logits are within the tolerance.

        Raises:
            MergeError: they are not.
        """
        logits = self.logits
        if logits is not None and not logits.error <= self.tolerance:
            flips = "" if logits.flips is None else f", and {logits.flips} of {logits.rows} rows get other labels"
            raise MergeError(
                f"a logit is off by {logits.error:.1e} of their rms{flips}",
                where=f"merged in {self.dtype}",
                expected=f"at most {self.tolerance:.1e}",
                remedy="use a wider --dtype, or keep the adapter apart; nothing was written",
            )


def merge_if_equal(
    saved: TrainedAdapter,
    *,
    rows: Encoded | None,
    source: str,
    dtype: str,
    tolerance: float,
    device: torch.device,
) -> MergeCheck:
    """Merge the model of `saved` in place, round it to `dtype`, and compare its logits with before.

    The adapter model computes in float32, the merged one in the dtype that it is stored in.

    Args:
        rows: None to compare no logits.

    Raises:
        MergeError: a base in four bits, or an update or a rounded weight that is not finite.
    """
    model = saved.base.model.to(device)
    if base_precision(model) == NF4:
        fault = "the base is quantized to four bits, which hold no update"
        remedy = "pass --dequantize: its numbers in plain weights"
        raise MergeError(fault, where="export merge", remedy=remedy)
    plain = Precision(torch.float32, device)
    # padded, in the model's own code: plain transformers will run it
    predictor = Predictor(saved.base.model, plain, saved.base.pad_token_id, plain=True)
    expected = None if rows is None else predictor.logits(rows)
    layers = survival(model, DTYPES[dtype])
    merge_and_remove(model).to(DTYPES[dtype])
    _check_finite(model, dtype)
    if rows is None or expected is None:
        return MergeCheck(dtype, tolerance, layers, None)
    logits = predictor.logits(rows)
    check = LogitCheck(source, len(logits), relative_error(logits, expected), _flips(saved.task, expected, logits))
    return MergeCheck(dtype, tolerance, layers, check)


def _flips(task: Task, before: Tensor, after: Tensor) -> int | None:
    """Count the rows whose chosen labels differ; None where an answer is a number. Shape: (n, C) logits."""
    answers = zip(task.answers(before), task.answers(after), strict=True)
    chosen = [(task.chosen(old), task.chosen(new)) for old, new in answers]
    return None if chosen[0][0] is None else sum(old != new for old, new in chosen)


def merge_check_rows(
    saved: TrainedAdapter,
    *,
    dataset: str | None,
    count: int,
) -> tuple[Rows, str]:
    """Return the first validation rows of `dataset` (or of the training data), and their source.

    Raises:
        DataError: they can't be read.
    """
    options = saved.data_options(dataset=dataset, limit_eval=count)
    try:
        if not options.dataset:
            fault = "the adapter does not say what it was trained with"
            raise DataError(fault, where="provenance.json")
        splits = open_splits(options, seed=saved.provenance.training.seed or 0)
    except (DataError, ConfigError) as error:
        remedy = "pass --dataset with such rows, or --no_rows to export without comparing logits"
        place = {"where": error.where, "expected": error.expected}
        raise DataError(error.found, **place, remedy=remedy) from error
    encoded = encode_rows(splits.validation, saved.base, max_tokens=options.max_tokens)
    return rows_of(splits.validation, encoded, saved.base), splits.source


def _check_finite(model: torch.nn.Module, dtype: str) -> None:
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            remedy = "use --dtype bfloat16 or float32"
            raise MergeError(f"it is not finite in {dtype}", where=name, remedy=remedy)
