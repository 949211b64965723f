"""The logits of a run's test rows, kept with its report for a later comparison, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import DataError
from ..runtime.atomic import write_bytes
from ..runtime.tensor_files import header_fault

LOGITS = "logits.safetensors"


def write_logits(folder: Path, *, labels: Tensor, **logits: Tensor | None) -> None:
    """Write the logits of each model by name, and the labels. Shape: labels (n,), logits (n, C)."""
    tensors = {name: t.contiguous().cpu() for name, t in logits.items() if t is not None}
    write_bytes(folder / LOGITS, save({"labels": labels.contiguous().cpu(), **tensors}))


def read_logits(folder: Path) -> Mapping[str, Tensor]:
    """Read what `write_logits` wrote.

    Raises:
        DataError: the file is not there, or damaged, or holds other tensors.
    """
    path = folder / LOGITS
    try:
        if path.exists() and not path.is_file():  # reading a pipe would never end
            raise ValueError("no regular file")
        if fault := header_fault(path):
            raise ValueError(fault)
        tensors = load(path.read_bytes())
        if not _fit(tensors):
            raise ValueError("not labels (n, ...) and logits (n, C) of the same n rows")
    except (OSError, SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise DataError(
            f"can't be read ({error})", where=str(path), remedy="remove the run's folder, and train it again"
        ) from error
    return tensors


def _fit(tensors: Mapping[str, Tensor]) -> bool:
    logits = [tensor for name, tensor in tensors.items() if name != "labels"]
    sizes = {tensor.shape[0] if tensor.dim() == 2 else -1 for tensor in logits}
    labels = tensors.get("labels")
    if labels is None or labels.dim() not in (1, 2) or not all(tensor.is_floating_point() for tensor in logits):
        return False
    return sizes == {labels.shape[0]} and len({tensor.shape for tensor in logits}) == 1
