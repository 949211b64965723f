r"""The margin of every training row, averaged over the epochs: rows that a model keeps getting wrong.

    one label        p_y - max of the other p_k                        -1 surely wrong ... 1 surely right
    several labels   least of 2 p_k - 1 (present) and 1 - 2 p_k (absent)
    a score          -|y - z|

A margin is taken in the forward pass of the training step, with dropout, before the update. So it
costs no pass of its own. Sums and counts stay on the device, and nothing waits for them.

Source: Swayamdipta et al. 2020, Dataset Cartography, arXiv:2009.10795, section 2, and Pleiss et al.
2020, Identifying Mislabeled Data using the Area Under the Margin Ranking, arXiv:2001.10528.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from ..data.batches import IGNORED, Batch
from ..errors import DataError
from ..runtime.atomic import write_bytes
from ..runtime.distributed import sum_over_processes
from ..tasks import Task

MARGINS = "margins.safetensors"  # in a run folder


class Margins:
    """Sum and count of the margins of every training row.

    Args:
        rows: the number of training rows.
    """

    def __init__(self, rows: int, task: Task, *, device: torch.device | str = "cpu") -> None:
        self.task = task
        self.sums, self.counts = torch.zeros(2, rows, device=device).unbind()

    @torch.no_grad()
    def add(self, rows: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add the margins of a batch. Rows labelled IGNORED or NaN, which fill up a process's part, are left out.

        Shape: rows (B,), numbers in the training set; logits (B, C); labels as of `Task.tensor`.
        """
        margins = self.task.margins(logits.float(), labels)
        real = (_is_real(labels) & margins.isfinite()).float()
        self.sums.index_add_(0, rows, margins.nan_to_num(0.0, 0.0, 0.0) * real)
        self.counts.index_add_(0, rows, real)

    def listen(self, batch: Batch, logits: Tensor) -> None:
        """Add the margins of a batch that a step has just used (training/step.py)."""
        self.add(batch.rows, logits, batch.labels)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums and counts of this process, for a checkpoint."""
        return {"sums": self.sums, "counts": self.counts}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned."""
        self.sums.copy_(state["sums"])
        self.counts.copy_(state["counts"])

    def totals(self) -> dict[str, Tensor]:
        """Return sums and counts over all processes, on the CPU. All processes must call it."""
        totals = [self.sums.clone(), self.counts.clone()]
        sum_over_processes(totals)
        return {"sums": totals[0].cpu(), "counts": totals[1].cpu()}


def write_margins(folder: Path, totals: Mapping[str, Tensor], *, train_digest: str) -> None:
    """Write what `Margins.totals` returned to the run folder.

    Args:
        train_digest: of the training rows (`Splits.digests["train"]`), so that they are not read for others.
    """
    tensors = {name: tensor.contiguous() for name, tensor in totals.items()}
    write_bytes(folder / MARGINS, save(tensors, metadata={"train": train_digest}))


def read_margins(folder: Path, *, train_digest: str) -> Tensor:
    """Return the mean margin of every training row; NaN for a row that no step used. Shape: (n,).

    Raises:
        DataError: the file is not there, damaged, or of other rows.
    """
    path = folder / MARGINS
    try:
        tensors = load(path.read_bytes())
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get("train")
        mean = tensors["sums"] / tensors["counts"]
    except FileNotFoundError as error:
        raise DataError("the run has no such file", where=str(path), remedy="train again, to its end") from error
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"can't be read ({error})", where=str(path), remedy="train again") from error
    if digest != train_digest:
        problem = "its training rows are not these"
        raise DataError(problem, where=str(path), remedy="pass the --dataset of that run, unchanged")
    return mean


def _is_real(labels: Tensor) -> Tensor:
    """Return which rows have a label. Shape: (B,) or (B, C) -> (B,) bool."""
    real = ~labels.isnan() if labels.is_floating_point() else labels != IGNORED
    return real.all(-1) if real.dim() == 2 else real
