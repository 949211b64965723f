"""The logits of a run's test rows, beside its report: what a later comparison with another run needs, row by row."""

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
    """Write what each model said, under its name, and the labels. Shape: labels (n,), logits (n, C); None is left out."""
    tensors = {"labels": labels, **{name: each for name, each in logits.items() if each is not None}}
    write_bytes(folder / LOGITS, save({name: each.contiguous().cpu() for name, each in tensors.items()}))


def read_logits(folder: Path) -> Mapping[str, Tensor]:
    """What `write_logits` wrote.

    Raises:
        DataError: it is not there, or damaged.
    """
    try:
        return load((folder / LOGITS).read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(
            f"can't be read ({error})", where=str(folder / LOGITS), remedy="remove the run's folder, and train it again"
        ) from error
