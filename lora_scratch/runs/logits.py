"""The logits of a run's test rows, kept with its report for a later comparison, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import DataError
from ..runtime.atomic import write_bytes

LOGITS = "logits.safetensors"


def write_logits(folder: Path, *, labels: Tensor, **logits: Tensor | None) -> None:
    """Write the logits of each model by name, and the labels. Shape: labels (n,), logits (n, C)."""
    tensors = {name: t.contiguous().cpu() for name, t in logits.items() if t is not None}
    write_bytes(folder / LOGITS, save({"labels": labels.contiguous().cpu(), **tensors}))


def read_logits(folder: Path) -> Mapping[str, Tensor]:
    """Read what `write_logits` wrote.

    Raises:
        DataError: the file is not there, or damaged.
    """
    try:
        return load((folder / LOGITS).read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(
            f"can't be read ({error})", where=str(folder / LOGITS), remedy="remove the run's folder, and train it again"
        ) from error
