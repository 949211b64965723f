"""The merge gate: a merged model is let out only if it says what the adapter model says, on real rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
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
from ..testing import relative_error
from .rounding import Survival, survival

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The largest error of a logit / rms of all logits that is let through. Measured: 6.2e-6, 6.5e-2 and 9.0e-3 on the embedded
# demo, 8.4e-7, 2.1e-2 and 2.6e-3 on a six-layer MiniLM. These leave room for deeper models.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-1, "float16": 3e-2}


@dataclass(frozen=True)
class LogitCheck:
    """Merged model against adapter model on real rows.

    Args:
        source: where the rows come from.
        error: the largest error of a logit / rms of the adapter model's logits.
        flips: how many rows get another label.
    """

    source: str
    rows: int
    error: float
    flips: int


@dataclass(frozen=True)
class MergeCheck:
    """What is known of a merged model.

    Args:
        logits: None if no rows were to be looked at.
    """

    dtype: str
    tolerance: float
    layers: list[Survival]
    logits: LogitCheck | None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def check(self) -> None:
        """Nothing if the model may go out.

        Raises:
            MergeError: logits that are off by more than the tolerance.
        """
        found = self.logits
        if found is not None and not found.error <= self.tolerance:
            raise MergeError(
                f"a logit is off by {found.error:.1e} of their rms, and {found.flips} of {found.rows} labels flip",
                where=f"merged in {self.dtype}",
                expected=f"at most {self.tolerance:.1e}",
                remedy="use a wider --dtype, or keep the adapter apart; nothing was written",
            )


def merge_if_equal(
    saved: TrainedAdapter, *, rows: Encoded | None, source: str, dtype: str, tolerance: float, device: torch.device
) -> MergeCheck:
    """Merge the model of `saved`, in place, round all of it to `dtype`, and compare it with what it was before.

    The adapter model computes in float32, the merged one in the dtype that it is stored in: as it will be used.

    Args:
        rows: None to look at the weights alone.

    Raises:
        MergeError: a base in four bits, or an update or a rounded weight that is not finite.
    """
    model = saved.base.model.to(device)
    if base_precision(model) == NF4:
        remedy = "pass --dequantize: its numbers in plain weights"
        raise MergeError("the base is quantized to four bits, which hold no update", where="export merge", remedy=remedy)
    logits = partial(_logits, saved, device=device)
    expected = None if rows is None else logits(rows)
    layers = survival(model, DTYPES[dtype])
    merge_and_remove(model).to(DTYPES[dtype])
    _check_finite(model, dtype)
    if rows is None or expected is None:
        return MergeCheck(dtype, tolerance, layers, None)
    found = logits(rows)
    flips = int((found.argmax(-1) != expected.argmax(-1)).sum())
    return MergeCheck(dtype, tolerance, layers, LogitCheck(source, len(found), relative_error(found, expected), flips))


def merge_check_rows(saved: TrainedAdapter, *, dataset: str | None, count: int) -> tuple[Encoded, str]:
    """The first validation rows of `dataset`, or else of what the adapter was trained with, and their source.

    Raises:
        DataError: they can't be had.
    """
    options = saved.data_options(dataset=dataset, limit_eval=count)
    try:
        if not options.dataset:
            raise DataError("the adapter does not say what it was trained with", where="provenance.json")
        splits = open_splits(options, seed=saved.provenance.training.seed or 0)
    except (DataError, ConfigError) as error:
        remedy = "pass --dataset with such rows, or --no_rows to export without comparing logits"
        raise DataError(error.found, where=error.where, expected=error.expected, remedy=remedy) from error
    return encode_rows(splits.validation, saved.base, max_tokens=options.max_tokens), splits.source


def _logits(saved: TrainedAdapter, rows: Encoded, *, device: torch.device) -> Tensor:
    # padded, in the model's own code: what will be run is plain transformers
    plain = Precision(torch.float32, device)
    return Predictor(saved.base.model, plain, saved.base.pad_token_id, plain=True).logits(rows)


def _check_finite(model: torch.nn.Module, dtype: str) -> None:
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise MergeError(f"it is not finite in {dtype}", where=name, remedy="use --dtype bfloat16 or float32")
